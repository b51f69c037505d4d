"""Define the records of judging: templates, tasks, verdicts, judgments, and a judge's configuration.

>>> Preference(value=1.0, strength=2).model_dump()  # the candidate wins, and clearly
{'kind': 'preference', 'value': 1.0, 'strength': 2}
>>> Rating(value=11)  # doctest: +IGNORE_EXCEPTION_DETAIL
Traceback (most recent call last):
pydantic_core.ValidationError: rating 11.0 is outside 1.0..10.0
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, field_serializer, model_validator

from .asking import Answer, DigestedRecord, Failure, Prompt, Record, TokenLimit, is_empty

JudgmentFlag = Literal["truncated", "reasked", "identical", "injection"]
"""What is unusual about a judgment; it changes no verdict."""


class Preference(Record):
    kind: Literal["preference"] = "preference"
    value: float = Field(ge=0, le=1)
    """Probability that the *candidate* beats the baseline, whatever the order shown."""
    strength: int = Field(default=1, ge=1, le=2)
    """2 if the verdict is "significantly better" (Arena-Hard's `>>`), else 1."""


class Rating(Record):
    kind: Literal["rating"] = "rating"
    value: float
    low: float = 1
    high: float = 10
    # pydantic copies a default of `{}` deeply for every row that is read, which took a fifth of the time
    items: dict[str, float] = Field(default_factory=dict, exclude_if=is_empty)
    """Of a rubric: item -> its score, from which `value` follows."""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"rating {self.value!r} is outside {self.low}..{self.high}")
        return self


Verdict = Annotated[Preference | Rating, Field(discriminator="kind")]

Order = Literal["ab", "ba"]
"""ab: the baseline is shown first (as A, or m); ba: the candidate is."""

Filling = Literal["format", "replace"]
"""Which braces of the user text are slots: those of str.format, or only `{NAME}` of each of `JudgeTask.fields`."""


class JudgeTemplate(DigestedRecord):
    """A judge's prompt, the parser of its reply, and the official request parameters."""

    name: str
    system: str | None = None
    user: str
    filling: Filling = "format"
    parser: str
    """A name in `judges.parsing.PARSERS`: rating, arena_label, letter_logprob, …"""
    reask: str | None = None
    """Sent as a second user turn if the reply has no verdict; None: no second attempt."""
    temperature: float = 0.0
    max_tokens: int = 2048
    top_logprobs: int | None = None
    extra: dict[str, JsonValue] = {}
    """Further request parameters of the official protocol, e.g. top_p."""
    identical_is_draw: bool = False
    """Whether equal answers are a draw (0.5) without a call, as in AlpacaEval."""


class JudgeTask(Record):
    """One question to a judge: an answer, maybe against a baseline's, in one order and one prompt."""

    prompt: Prompt
    answer: Answer
    baseline: Answer | None = None
    """None if the verdict is a rating."""
    turn: int | None = None
    """Judged turn, from 1; None: the whole answer."""
    order: Order | None = None
    repeat: int = 0
    template: JudgeTemplate
    fields: dict[str, str]
    """Slot -> text, with the order of the two answers already applied."""
    judge: str = ""
    """`JudgeSpec.name` of the judge that is asked: a jury asks each member. Set by the pipeline, not by a suite."""
    anchor: bool = False
    """Whether this is a recorded answer judged again to detect a moved judge; its reply bypasses the reply cache."""
    strict: bool = False
    """Whether to fill the prompt and read the reply as the benchmark's original tool does. Set by the pipeline."""

    @property
    def key(self) -> str:
        """Return the key that is the same for the same question in another session; resuming compares it."""
        return self.key_for(self.judge, self.repeat, self.answer.sha)

    def key_for(self, judge: str, repeat: int, answer_sha: str) -> str:
        """Return the key of this task for a judge and repeat; `answer_sha` is `answer.sha`, which takes a while."""
        return _key(self.answer.key, self.turn, self.order, repeat, answer_sha, judge)

    @property
    def names_slots(self) -> bool:
        """Return whether filling slot after slot, as the original tool does, would fill a slot inside the answer."""
        if self.template.filling == "format":
            return False
        slots = list(self.fields)
        return any(
            "{" + later + "}" in text
            for position, text in enumerate(self.fields.values())
            if text in self.answer.turns
            for later in slots[position + 1 :]
        )


def _key(answer: str, turn: int | None, order: Order | None, repeat: int, sha: str, judge: str) -> str:
    # with the text's digest, so that a verdict on another text is never taken for this one
    return f"{answer}|t{turn or 0}|{order or '-'}|r{repeat}|{sha}|{judge}"


class TokenLogprob(Record):
    token: str
    logprob: float = Field(allow_inf_nan=False)


class Judgment(Record):
    """A verdict or a failure, with everything needed to parse the reply again."""

    prompt_id: str
    index: int = 0
    """`Answer.index` of the answer judged."""
    model: str
    baseline: str | None = None
    judge: str
    template_sha: str
    answer_sha: str | None = None
    """`Answer.sha` of the answer judged, so that a judgment of another text is never used."""
    order: Order | None = None
    turn: int | None = None
    repeat: int = 0
    verdict: Verdict | None = None
    reply: str | None = None
    """The judge's reply (all attempts, joined by newlines) without its reasoning; None if none arrived."""
    reasoning: str = Field(default="", exclude_if=is_empty)
    """What a judge that reasons wrote before its reply; no verdict is read from it."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Top log-probabilities of the first reply token, if requested."""
    flags: tuple[JudgmentFlag, ...] = ()
    error: Failure | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """US dollars that its replies cost when they were requested; None if the judge has no known price."""
    paid: float | None = None
    """The part of `cost` paid for this row: 0 if every reply came from the cache."""
    calls: int = 0
    """Requests sent for this row: a reply from the cache needs none."""
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        task: JudgeTask,
        judge: str,
        outcome: Verdict | Failure,
        *,
        reply: str | None = None,
        logprobs: tuple[TokenLogprob, ...] = (),
        **spent: Any,
    ) -> Self:
        """Return the judgment of a task by `judge`. `spent`: further fields; without any it cost nothing."""
        return cls(
            prompt_id=task.prompt.id,
            index=task.answer.index,
            model=task.answer.model,
            baseline=task.baseline.model if task.baseline else None,
            judge=judge,
            template_sha=task.template.sha,
            answer_sha=task.answer.sha,
            order=task.order,
            turn=task.turn,
            repeat=task.repeat,
            verdict=None if isinstance(outcome, Failure) else outcome,
            reply=reply,
            logprobs=logprobs,
            error=outcome if isinstance(outcome, Failure) else None,
            **({"cost": 0.0, "paid": 0.0} | spent),
        )

    @model_validator(mode="after")
    def _verdict_or_error(self) -> Self:
        if (self.verdict is None) == (self.error is None):
            raise ValueError("a judgment has a verdict or an error, never both, never neither")
        return self

    @property
    def key(self) -> str:
        """Return `JudgeTask.key` of the task that it answers, once the pipeline has set `answer_sha`."""
        answer = f"{self.prompt_id}#{self.index}"
        return _key(answer, self.turn, self.order, self.repeat, self.answer_sha or "", self.judge)


JuryRule = Literal["mean", "majority", "median", "cyclic"]
"""How several judges' verdicts on one question become one; cyclic: one of them is asked. `harness.judging.jury` defines
the rules."""


class Access(Record):
    """How to address an endpoint if `Authorization: Bearer KEY` and a plain path are not enough."""

    key_header: str = "Authorization"
    """Header of the key; any other than Authorization (Azure: `api-key`) gets the bare key."""
    query: dict[str, str] = {}
    """Added to every request's URL, e.g. Azure's api-version; never a key."""


class JudgeSpec(Record):
    """A judge's configuration, from `judges/configs/NAME.yaml` or `harness.yaml`."""

    model_config = ConfigDict(allow_inf_nan=False)

    name: str
    kind: str
    """Entry point in `fusion_harness.judges`: llm, reference, …"""
    model: str | None = None
    """Model name at the endpoint."""
    url: str | None = None
    """Base URL of an OpenAI-compatible server, ending in /v1."""
    key_env: str | None = None
    """Environment variable with the API key; the key itself is never in a file. None: by the kind. Empty: no key."""
    access: Access = Access()
    evaluator: str | None = None
    """kind alpaca_eval: the evaluator configuration whose prompt and parser replace the suite's."""
    serve: dict[str, JsonValue] = {}
    """Options of the server if the harness serves the judge itself, as under `serve:` in harness.yaml."""
    params: dict[str, JsonValue] = {}
    """Request parameters that replace the template's (`null` leaves one out), e.g. max_completion_tokens."""
    token_limit: TokenLimit = Field(default="max_tokens", exclude_if=lambda name: name == "max_tokens")
    logprobs_as: Literal["flag", "count"] = Field(default="flag", exclude_if=lambda form: form == "flag")
    """How log-probabilities are asked for: `logprobs: true, top_logprobs: 5`, or `logprobs: 5` (Together)."""
    reasoning_room: int = Field(default=0, ge=0, exclude_if=is_empty)
    """Tokens that a judge that reasons may spend on it, in addition to the benchmark's own limit for the reply."""
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    """US dollars per million tokens."""
    concurrency: int = Field(default=32, ge=1)
    """Most calls in flight; fewer if the endpoint accepts fewer."""
    rpm: float | None = Field(default=None, gt=0)
    """Most requests per minute; judges of one endpoint (URL and key) share the smallest of their limits."""
    tpm: float | None = Field(default=None, gt=0)
    """Tokens per minute, prompts and replies together; shared likewise."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds a call may take."""
    patience: float | None = Field(default=None, gt=0)
    """Seconds the endpoint may stay down before the run stops with what it has. None: 60; 15 if it never answered;
    300 if it says 503 with Retry-After."""
    retired: date | None = None
    """Day on which the provider shut this snapshot down, or will; the note names the source."""
    note: str | None = None
    """Text shown on every card of this judge, e.g. that it is rule-based."""

    @field_serializer("patience")
    def _patience(self, value: float | None) -> float:
        # cards identify a run's settings by a digest of this dump, which has to stay the same
        return 60.0 if value is None else value


MIN_AUDITED = 50
"""Questions that an audit must ask for: from there on its interval covers 0.93 to 0.97 (`make bench-gate`)."""


class AuditSpec(Record):
    """A second, expensive judge that sees only some questions of a suite."""

    judge: JudgeSpec
    questions: int = Field(ge=MIN_AUDITED)
    """How many; they are drawn by `harness.running.card`."""
