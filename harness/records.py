"""Frozen records: everything that crosses a file or a function boundary, and nothing that acts.

A record is validated when it is made, and again when it is read from a file. Text fields are what a model or a
judge wrote: untrusted, to be escaped wherever they are shown.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from .errors import ConfigError


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def base_url(text: str) -> str:
    """An http(s) base URL without its last slash; raises ConfigError for one that carries credentials or a query."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for one that is no number up to 65535
    except ValueError as error:
        raise ConfigError(f"{text!r} is no base URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{text!r} is no base URL; expected http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ConfigError(f"the URL of {shown!r} carries a credential or query; keys come from environment variables")
    return text.rstrip("/")


def digest(value: object) -> str:
    """sha256 (hex, 64 characters) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# ---------------------------------------------------------------------------------------------- what is evaluated


class ModelRef(Record):
    """Which model: a folder, a Hub repository, or a server that already runs."""

    scheme: Literal["path", "hf", "endpoint"]
    name: str
    """path: the folder as given; hf: `org/name`; endpoint: the model name the server knows."""
    revision: str | None = None
    """hf only: branch, tag or commit."""
    url: str | None = None
    """endpoint only: base URL, ending in /v1."""

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """`DIR`, `hf:ORG/NAME[@REVISION]` or `endpoint:NAME@URL`; raises ConfigError on anything else."""
        if text.startswith("hf:"):
            name, _, revision = text[3:].partition("@")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise ConfigError(f"--model {text!r} is not hf:ORG/NAME[@REVISION]")
            return cls(scheme="hf", name=name, revision=revision or None)
        if text.startswith("endpoint:"):
            name, _, url = text[len("endpoint:") :].partition("@")
            if not name or not re.match(r"https?://", url):
                raise ConfigError(f"--model {text!r} is not endpoint:NAME@http://HOST:PORT/v1")
            return cls(scheme="endpoint", name=name, url=base_url(url))
        if not text:
            raise ConfigError("--model is empty; give a folder, hf:ORG/NAME or endpoint:NAME@URL")
        return cls(scheme="path", name=text)

    def __str__(self) -> str:
        if self.scheme == "hf":
            return f"hf:{self.name}" + (f"@{self.revision}" if self.revision else "")
        return f"endpoint:{self.name}@{self.url}" if self.scheme == "endpoint" else self.name

    @property
    def label(self) -> str:
        """The short name shown in tables: the folder's last part, or the repository or served name."""
        return self.name.rstrip("/").rsplit("/", 1)[-1] if self.scheme == "path" else self.name

    @property
    def slug(self) -> str:
        """A folder name made of the label: letters, digits, `.`, `_`, `-` only, never empty, `.` or `..`."""
        return re.sub(r"[^\w.-]+", "_", self.label, flags=re.ASCII).strip(".") or "model"


class Sampling(Record):
    """How answers are drawn; what is None is not sent, so the server's default (generation_config) holds."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int = Field(gt=0)
    n: int = Field(default=1, ge=1)
    """Answers per prompt."""
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Prompt(Record):
    """One question of a suite: one or more user turns."""

    id: str
    turns: tuple[str, ...] = Field(min_length=1)
    category: str
    reference: tuple[str, ...] = ()
    """Gold or reference answers, one a turn; empty where the suite has none."""
    system: str | None = None
    cluster: str | None = None
    """Prompts of one cluster are resampled together where the suite says so."""


Finish = Literal["stop", "length"]

Reason = Literal[
    "context",  # the prompt leaves no room to answer
    "empty",  # the model or the judge wrote nothing
    "http",  # the server refused the request
    "timeout",
    "transport",  # connection broken after all retries
    "content_filter",
    "parse",  # no verdict in the judge's reply
    "conflict",  # two different verdicts in one reply
    "answer",  # the answer to be judged is itself broken
    "missing",  # a row that should be there is not
    "other",
]


class Failure(Record):
    """Why there is no answer or no verdict. Counted and shown, never turned into a number."""

    reason: Reason
    message: str


class Answer(Record):
    """What a model said to one prompt: a text a turn, or a failure.

    A truncated answer (`finish` "length") is an answer: it is judged and counted as truncated.
    """

    prompt_id: str
    model: str
    index: int = 0
    """Which of `Sampling.n` draws."""
    turns: tuple[str, ...] = ()
    finish: tuple[Finish, ...] = ()
    """One a turn."""
    prompt_tokens: tuple[int, ...] = ()
    completion_tokens: tuple[int, ...] = ()
    """Tokens by the server's count, one entry a turn."""
    seconds: float = 0.0
    """Wall time of all turns, waiting for a place included."""
    error: Failure | None = None

    @model_validator(mode="after")
    def _texts_or_error(self) -> Self:
        if (self.error is None) == (not self.turns):
            raise ValueError("an answer has turns or an error, never both, never neither")
        return self

    @property
    def truncated(self) -> bool:
        return "length" in self.finish

    @property
    def key(self) -> str:
        return f"{self.prompt_id}#{self.index}"

    @property
    def sha(self) -> str:
        """First 16 hex characters of the digest of the texts."""
        return digest(list(self.turns))[:16]


# ------------------------------------------------------------------------------------------------------- judging


class Preference(Record):
    kind: Literal["preference"] = "preference"
    value: float = Field(ge=0, le=1)
    """Probability that the *candidate* beats the baseline, whatever the order shown."""
    strength: int = Field(default=1, ge=1, le=2)
    """2 where the judge said "significantly better" (Arena-Hard's `>>`), else 1."""


class Rating(Record):
    kind: Literal["rating"] = "rating"
    value: float
    low: float = 1
    high: float = 10

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"rating {self.value!r} is outside {self.low}..{self.high}")
        return self


Verdict = Annotated[Preference | Rating, Field(discriminator="kind")]

Order = Literal["ab", "ba"]
"""ab: the baseline is shown first (as A, or m); ba: the candidate is."""

Filling = Literal["format", "replace"]
"""How slots are filled: str.format, or str.replace once a slot in the order of `JudgeTask.fields`."""


class JudgeTemplate(Record):
    """The words a judge is asked in, how its reply is read, and the official request parameters."""

    name: str
    system: str | None = None
    user: str
    filling: Filling = "format"
    parser: str
    """A name in `judges.parsing.PARSERS`: rating, arena_label, letter_logprob, …"""
    reask: str | None = None
    """Sent once more as a user turn when the reply holds no verdict; None: no second attempt."""
    temperature: float = 0.0
    max_tokens: int = 2048
    top_logprobs: int | None = None
    extra: dict[str, JsonValue] = {}
    """Further request parameters of the official protocol, e.g. top_p."""
    identical_is_draw: bool = False
    """Equal answers are a draw (0.5) without a call, as AlpacaEval has it."""

    @property
    def sha(self) -> str:
        return digest(self.model_dump(mode="json"))


class JudgeTask(Record):
    """One question to a judge: this answer (against that one), in this order, in these words."""

    prompt: Prompt
    answer: Answer
    baseline: Answer | None = None
    """None where the verdict is a rating."""
    turn: int | None = None
    """1-based turn that is judged; None: the whole answer."""
    order: Order | None = None
    repeat: int = 0
    template: JudgeTemplate
    fields: dict[str, str]
    """The template's slots and their texts, the order of the two answers already applied."""

    @property
    def key(self) -> str:
        """Same for the same question asked in another session: what resuming compares."""
        parts = (self.answer.key, f"t{self.turn or 0}", self.order or "-", f"r{self.repeat}", self.answer.sha)
        return "|".join(parts)


class TokenLogprob(Record):
    token: str
    logprob: float = Field(allow_inf_nan=False)


class Judgment(Record):
    """A verdict or a failure, with all that is needed to read it again."""

    prompt_id: str
    index: int = 0
    """`Answer.index` of the answer judged."""
    model: str
    baseline: str | None = None
    judge: str
    template_sha: str
    answer_sha: str | None = None
    """`Answer.sha` of the answer judged: a judgment of another text is never taken for this one's."""
    order: Order | None = None
    turn: int | None = None
    repeat: int = 0
    verdict: Verdict | None = None
    reply: str | None = None
    """The judge's own words (all attempts, joined by newlines); None where none came."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Top log-probabilities of the first reply token, where asked for."""
    flags: tuple[Literal["truncated", "reasked", "identical", "injection"], ...] = ()
    error: Failure | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """US dollars; None where the judge has no known price."""
    seconds: float = 0.0

    @model_validator(mode="after")
    def _verdict_or_error(self) -> Self:
        if (self.verdict is None) == (self.error is None):
            raise ValueError("a judgment has a verdict or an error, never both, never neither")
        return self

    @property
    def key(self) -> str:
        """Equals `JudgeTask.key` of the task it answers, once `answer_sha` is set (the pipeline does)."""
        answer = f"{self.prompt_id}#{self.index}"
        parts = (answer, f"t{self.turn or 0}", self.order or "-", f"r{self.repeat}", self.answer_sha or "")
        return "|".join(parts)


class JudgeSpec(Record):
    """A judge's configuration, as `judges/configs/NAME.yaml` or `harness.yaml` gives it."""

    name: str
    kind: str
    """Entry point in `fusion_harness.judges`: llm, reference, …"""
    model: str | None = None
    """Model name the endpoint knows."""
    url: str | None = None
    """Base URL of an OpenAI-compatible server, ending in /v1."""
    key_env: str | None = None
    """Environment variable that holds the API key; the key itself is never in a file."""
    params: dict[str, JsonValue] = {}
    """Request parameters that replace the template's (`null` leaves one out), e.g. max_completion_tokens."""
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    """US dollars per million tokens."""
    concurrency: int = Field(default=32, ge=1)
    timeout: float = Field(default=300.0, gt=0)
    """Seconds a call may take."""
    note: str | None = None
    """Shown on every card of this judge, e.g. that it is rule-based."""


# ------------------------------------------------------------------------------------------------------- results


class Score(Record):
    """One number with its interval. `value` None: it cannot be given; the card's notes say why."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    """95 % interval unless the metric's name says otherwise; same unit as `value`."""
    se: float | None = None
    n: int
    """What was scored, in the suite's own unit (turns, instructions, games)."""
    unscored: int = 0
    """The rest of what should have been asked."""


class SuiteScores(Record):
    """What a suite's scorer returns: metrics by name, overall and by category, and notes for the reader."""

    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]] = {}
    notes: tuple[str, ...] = ()


class ScoreCard(Record):
    """One model on one suite under one protocol: what the leaderboard and the gate read."""

    schema_version: Literal[1] = 1
    suite: str
    suite_version: str
    model: str
    judge: str
    headline: str
    """The metric of `scores` that ranks."""
    complete: bool
    """False where too little was scored (under 90 %) to rank this card."""
    protocol: dict[str, JsonValue]
    """Everything that makes two numbers comparable; cards with unequal protocols are never ranked together."""
    sampling: dict[str, JsonValue]
    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]] = {}
    counts: dict[str, JsonValue] = {}
    """Asked, answered, truncated, unscored by reason, and the like."""
    notes: tuple[str, ...] = ()
    provenance: dict[str, JsonValue]
    """Digests, versions, git state, seeds: what produced the numbers."""
    usage: dict[str, JsonValue] = {}
    """Seconds, tokens and dollars by stage: measured, so not equal between two runs."""

    @model_validator(mode="after")
    def _has_its_headline(self) -> Self:
        if self.headline not in self.scores:
            raise ValueError(f"no score named {self.headline!r}, the card's headline")
        return self

    @property
    def protocol_sha(self) -> str:
        return digest(self.protocol)[:12]
