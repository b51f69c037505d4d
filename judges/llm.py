"""Judge through an OpenAI-compatible chat endpoint: fill the prompt, ask, read the reply, ask once more if needed.

>>> template = JudgeTemplate(name="demo", user="Rate this answer: {answer}", parser="rating")
>>> fill(template, {"answer": "Paris {sic}"}, strict=False)
'Rate this answer: Paris {sic}'

This module owns the conversation and its cost. Prompts come from the template, verdicts from `judges.parsing`,
connections and retries from `harness.client`. The endpoint may be a server of our own (`--judge local:PATH`) or that of
an alpaca-eval evaluator (`--judge alpaca_eval:NAME`).
"""

from __future__ import annotations

import logging
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from pydantic import JsonValue

from harness.backends.llamacpp import LlamaCppBackend
from harness.backends.served import ServedBackend
from harness.backends.vllm import VllmBackend
from harness.client import CallLimits, ChatClient, ChatReply, Patience
from harness.judging.calls import Call, CallOptions, Calls, Chat
from harness.judging.cost import reply_price
from harness.records import (
    Failure,
    JudgeSpec,
    JudgeTask,
    JudgeTemplate,
    Judgment,
    JudgmentFlag,
    ModelRef,
    Preference,
    TokenLogprob,
    Verdict,
    base_url,
    digest,
)
from harness.records.errors import (
    ConfigError,
    EndpointDownError,
    JudgeUnavailableError,
    MissingKeyError,
    Reason,
    ReplyError,
    VerdictParseError,
    did_you_mean,
    first_names,
)
from harness.records.protocols import ServeOptions
from harness.records.providers import JUDGE_KEY, api_key, provider_at
from harness.records.reasoning import Thoughts, split_reasoning
from harness.records.settings import ServeSpec, checked
from harness.store.gguf import names_gguf

from .evaluators import OPENAI_URL, mapped_names, read_evaluator
from .parsing import read_reply

log = logging.getLogger(__name__)
Message = dict[str, JsonValue]


def render(task: JudgeTask) -> list[Message]:
    """Return the messages of the first request: the system text, if there is one, and the filled user text."""
    user: Message = {"role": "user", "content": fill(task.template, task.fields, strict=task.strict)}
    if task.template.system is None:
        return [user]
    return [{"role": "system", "content": task.template.system}, user]


def fill(template: JudgeTemplate, fields: dict[str, str], *, strict: bool) -> str:
    """Return the user text with its slots filled. Raise ConfigError if a slot has no field.

    Only braces in the template are slots, never those in answers. With "replace" filling, `strict` keeps a fault of
    alpaca_eval (utils.make_prompts): slots are filled one after the other, so that an answer `{output_2}` shown first
    takes the other answer's text, and the judge sees `{output_2}` in that one's place.
    """
    if template.filling == "replace":
        if strict:
            text = template.user
            for slot, content in fields.items():
                text = text.replace("{" + slot + "}", content, 1)
            return text
        slots = re.compile("|".join(re.escape("{" + slot + "}") for slot in fields) or r"(?!)")
        return slots.sub(lambda match: fields[match[0][1:-1]], template.user)
    try:
        return template.user.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"judge template {template.name!r} cannot be filled: {error!r}") from None


@dataclass
class Conversation:
    """The messages exchanged about one task so far, and what they cost."""

    messages: list[Message]
    replies: list[str] = field(default_factory=list)
    """Without their reasoning."""
    reasoning: list[str] = field(default_factory=list)
    logprobs: tuple[TokenLogprob, ...] = ()
    flags: list[JudgmentFlag] = field(default_factory=list)
    answered: list[Call] = field(default_factory=list)
    """The calls that produced the replies."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    paid: float | None = 0.0
    """US dollars; None once any reply has an unknown price."""
    calls: int = 0

    @property
    def text(self) -> str | None:
        """All replies joined as the reference does, or None if there are none."""
        return "\n".join(self.replies) if self.replies else None

    @property
    def is_cut(self) -> bool:
        """Return whether the token limit cut a reply."""
        return "truncated" in self.flags

    def hear(self, reply: ChatReply, task: JudgeTask, dollars: float | None) -> Thoughts:
        """Add a reply and return its parts. `dollars` is what it cost when it was first requested."""
        if not self.replies:
            self.logprobs = reply.logprobs
        thoughts = Thoughts(reply.text) if task.strict else split_reasoning(reply.text)
        self.replies.append(thoughts.visible)
        self.reasoning += [part for part in (reply.reasoning, thoughts.reasoning) if part]
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cost = None if self.cost is None or dollars is None else self.cost + dollars
        if not reply.cached:
            self.calls += 1
            self.paid = None if self.paid is None or dollars is None else self.paid + dollars
        # Replies read from the first token's log-probabilities are always cut there, so that is no truncation.
        if reply.finish == "length" and task.template.top_logprobs is None and not self.is_cut:
            self.flags.append("truncated")
        return thoughts

    def ask_again(self, words: str) -> None:
        """Append the last reply and a new user message with `words`."""
        self.messages.append({"role": "assistant", "content": self.replies[-1]})
        self.messages.append({"role": "user", "content": words})
        self.flags.append("reasked")


SPENT = ("prompt_tokens", "completion_tokens", "cost", "paid", "calls")
"""Fields of a `Conversation` that its `Judgment` has too."""


class Client(Chat, Protocol):
    """Answers the judge's calls inside an `async with`: the client of an endpoint, or our own server."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class LlmJudge:
    """`fusion_harness.judges` entry point "llm". Raise ConfigError on construction if the spec cannot work."""

    def __init__(self, spec: JudgeSpec, client: Client | None = None, *, endpoint: str | None = None) -> None:
        """Create the judge. `client` defaults to one for the spec's endpoint.

        `endpoint` identifies the server in the reply cache and defaults to the spec's URL.
        """
        self.spec = spec
        self._evaluator = None if spec.evaluator is None else read_evaluator(spec.evaluator)
        self._client = endpoint_client(spec) if client is None else client
        self._calls = Calls(spec, endpoint or spec.url or "", self._client, CallOptions())

    def use(self, options: CallOptions) -> None:
        """Set the options of all later calls, e.g. their cache and budget."""
        self._calls = Calls(self.spec, self._calls.endpoint, self._client, options)

    def first_call(self, task: JudgeTask) -> Call | None:
        """Return the first request about a task, or None if it is a draw without asking."""
        task = self._rephrased(task)
        return None if is_drawn(task) else self._next_call(task, render(task))

    def _rephrased(self, task: JudgeTask) -> JudgeTask:
        return task if self._evaluator is None else self._evaluator.rephrase(task)

    def _next_call(self, task: JudgeTask, messages: list[Message]) -> Call:
        body = request_body(self.spec, task.template, messages)
        return self._calls.call(body, task.repeat, fresh=task.anchor)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        # providers serve aliases and deployments that they do not list
        if isinstance(self._client, ChatClient) and provider_at(self.spec.url) is None:
            listed = await self._client.listed_models()
            if listed and self.spec.model not in listed and not any("*" in name for name in listed):
                near = did_you_mean(self.spec.model or "", listed)
                log.warning(
                    "judge %r: %s lists no model %r%s; it lists %s",
                    *(self.spec.name, self._client.base_url, self.spec.model, near, first_names(listed)),
                )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

    def identity(self) -> dict[str, JsonValue]:
        """Return what decides verdicts besides the spec: room to reason, and an evaluator's prompt and parser."""
        room = self.spec.reasoning_room
        identity: dict[str, JsonValue] = {"reasoning_room": room} if room else {}
        return identity if self._evaluator is None else identity | self._evaluator.identity()

    def check(self, task: JudgeTask) -> None:
        """Raise ConfigError if this judge cannot handle the task."""
        template = self._rephrased(task).template
        if template.top_logprobs is not None and self.spec.params.get("logprobs", True) is None:
            raise ConfigError(
                f"judge {self.spec.name!r} returns no log-probabilities, from which template {template.name!r} reads "
                "its verdict: give this suite another judge (--judge SUITE=JUDGE,...), or one whose file sets "
                "`evaluator:` (harness judge template evaluator)"
            )

    async def judge(self, task: JudgeTask) -> Judgment:
        """Return the verdict, or the reason why there is none. Raise JudgeUnavailableError if the endpoint is down."""
        started = time.monotonic()
        task = self._rephrased(task)
        if is_drawn(task):
            drawn = Conversation([], flags=["identical"])
            return self._judgment(task, drawn, started, Preference(value=0.5))
        talk = Conversation(render(task), flags=["injection"] if task.names_slots else [])
        try:
            verdict = await self._ask(task, talk)
        except VerdictParseError as error:
            # a reply may be empty and still have log-probabilities, which are then the verdict's form
            empty = error.reason == "parse" and not (talk.text or "").strip() and not talk.logprobs
            blank: Reason = "truncated" if talk.is_cut else "empty"
            failure = Failure(reason=blank if empty else error.reason, message=str(error))
            await self._calls.forget(talk.answered)  # failures are not cached, so the same command asks again
            return self._judgment(task, talk, started, failure)
        except ReplyError as error:
            return self._judgment(task, talk, started, Failure(reason=error.reason, message=str(error)))
        return self._judgment(task, talk, started, verdict)

    async def _ask(self, task: JudgeTask, talk: Conversation) -> Verdict:
        template = task.template
        await self._call(task, talk)
        try:
            return read_reply(task, talk.text or "", talk.logprobs, cut=talk.is_cut)
        except VerdictParseError as error:
            if template.reask is None or not error.reaskable:
                raise
        talk.ask_again(template.reask)
        await self._call(task, talk)
        return read_reply(task, talk.text or "", talk.logprobs, cut=talk.is_cut)

    async def _call(self, task: JudgeTask, talk: Conversation) -> None:
        """Ask, and add the reply. Raise VerdictParseError if it ends inside its reasoning."""
        call = self._next_call(task, talk.messages)
        try:
            reply = await self._calls.chat(call)
        except EndpointDownError as error:
            who = f"judge {self.spec.name!r}" + (f" ({self.spec.model})" if self.spec.model else "")
            raise JudgeUnavailableError(f"{who}: {error}") from error
        talk.answered.append(call)
        if not talk.hear(reply, task, reply_price(self.spec, reply)).closed:
            raise VerdictParseError(
                "the reply ends inside its reasoning; `reasoning_room:` in the judge's YAML gives it more tokens",
                reason="truncated",
            )

    def _judgment(self, task: JudgeTask, talk: Conversation, started: float, outcome: Verdict | Failure) -> Judgment:
        spent = {name: getattr(talk, name) for name in SPENT}
        return Judgment.of(
            task,
            self.spec.name,
            outcome,
            reply=talk.text,
            logprobs=talk.logprobs,
            flags=tuple(talk.flags),
            seconds=time.monotonic() - started,
            reasoning="\n".join(talk.reasoning),
            **spent,
        )


def endpoint_client(spec: JudgeSpec) -> ChatClient:
    """Return a client for the spec's endpoint. Raise ConfigError if model, URL or key (MissingKeyError) is missing."""
    if not spec.model or not spec.url:
        raise ConfigError(f"judge {spec.name!r} needs `model` and `url` (an OpenAI-compatible base URL)")
    key = api_key(spec.key_env)
    if spec.key_env and not key:
        raise MissingKeyError(f"judge {spec.name!r} needs its API key in the environment variable {spec.key_env}")
    limits = CallLimits(
        concurrency=spec.concurrency,
        rpm=spec.rpm,
        tpm=spec.tpm,
        caller=f"judge {spec.name}",
        timeout=spec.timeout,
        patience=Patience.of(spec.patience),
    )
    return ChatClient(spec.url, limits, api_key=key, access=spec.access)


def is_drawn(task: JudgeTask) -> bool:
    """Return whether the protocol counts this as a draw without asking."""
    return bool(
        task.template.identical_is_draw and task.baseline is not None and task.answer.turns == task.baseline.turns
    )


def request_body(spec: JudgeSpec, template: JudgeTemplate, messages: list[Message]) -> dict[str, JsonValue]:
    """Return the chat-completions body: the template's official parameters, overridden by the judge's own.

    A parameter set to null is left out. The limit of tokens, under either name, grows by the judge's room to reason.
    """
    temperature = template.temperature
    body: dict[str, JsonValue] = {
        "model": spec.model,
        "messages": list(messages),
        # 0 instead of 0.0, to send the same bytes as the original tools
        "temperature": int(temperature) if temperature.is_integer() else temperature,
        spec.token_limit: template.max_tokens,
        **template.extra,
    }
    if template.top_logprobs is not None:
        tops = template.top_logprobs
        body |= {"logprobs": tops} if spec.logprobs_as == "count" else {"logprobs": True, "top_logprobs": tops}
    body |= spec.params
    for limit in ("max_tokens", "max_completion_tokens"):
        tokens = body.get(limit)
        if isinstance(tokens, int):
            body[limit] = tokens + spec.reasoning_room
    return {name: value for name, value in body.items() if value is not None}


GGUF_CONTEXT = 16_384
"""Tokens of a request and its reply, at most, for a judge of a GGUF file: two answers and a verdict of Arena-Hard have
to fit, whose limit is 4,096 tokens each; the room that a candidate gets would be too small."""


class LocalJudge(LlmJudge):
    """`fusion_harness.judges` entry point "local": a checkpoint that vLLM serves here, or a GGUF file by llama.cpp.

    The server is started on entry and stopped on exit; it is watched, restarted and identified like the candidate's.
    Without its own devices it waits until the candidate's server has stopped. Raise ConfigError or CheckpointError if
    it cannot be served.
    """

    local = True

    def __init__(self, spec: JudgeSpec) -> None:
        if not spec.model:
            raise ConfigError(f"judge {spec.name!r} needs `model`: a folder, or hf:ORG/NAME@REVISION")
        self._ref = ModelRef.parse(spec.model)
        serving = checked(ServeSpec, spec.serve, f"judge {spec.name!r}: serve")
        options = ServeOptions(log_dir=Path("logs"), **serving.model_dump())
        self._backend: ServedBackend
        if names_gguf(self._ref):
            self._backend = LlamaCppBackend(self._ref, options, context=GGUF_CONTEXT)
        else:
            self._backend = VllmBackend(self._ref, options)
        self.beside = serving.devices is not None
        free = {"price_in": spec.price_in or 0.0, "price_out": spec.price_out or 0.0}
        named = spec.model_copy(update={"model": self._ref.short, **free})  # keeps local paths out of the cards
        super().__init__(named, self._backend, endpoint=f"local:{digest(self._backend.identity())}")

    def logs_to(self, folder: Path) -> None:
        """Write the server's logs to a folder for this judge below `folder`."""
        self._backend.logs_to(folder / f"judge-{self._ref.slug}")

    def identity(self) -> dict[str, JsonValue]:
        """Return weights, chat template and engine as for a candidate; the folder appears by name, without its path."""
        return {**super().identity(), "served": self._backend.identity()}


class AlpacaEvalJudge(LlmJudge):
    """`fusion_harness.judges` entry point "alpaca_eval": an evaluator of the installed alpaca-eval package.

    Model, address and price default to the configuration's. Raise ConfigError if the configuration cannot be mapped
    or its API key is missing.
    """

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__(with_evaluator_defaults(spec))


def with_evaluator_defaults(spec: JudgeSpec) -> JudgeSpec:
    """Return the spec with its open fields filled from the configuration.

    A key is sent only where it belongs: OPENAI_API_KEY to OpenAI, HARNESS_JUDGE_KEY to any other address.
    """
    if spec.evaluator is None:
        raise ConfigError(f"judge {spec.name!r} needs `evaluator`, one of: {', '.join(mapped_names())}")
    evaluator = read_evaluator(spec.evaluator)
    url = spec.url or evaluator.url
    if url is None:
        raise ConfigError(
            f"evaluator {spec.evaluator!r} uses a server that is not OpenAI-compatible or not public; name one that "
            f"is: --judge alpaca_eval:{spec.evaluator}@http://HOST:PORT/v1"
        )
    own_key = JUDGE_KEY if JUDGE_KEY in os.environ else None
    key_env = spec.key_env
    if key_env is None:
        key_env = "OPENAI_API_KEY" if url == OPENAI_URL else own_key
    changed: dict[str, JsonValue] = {"url": base_url(url), "model": spec.model or evaluator.model, "key_env": key_env}
    if spec.price_in is None and spec.price_out is None and spec.url is None:
        changed |= {"price_in": evaluator.price, "price_out": evaluator.price}
    return spec.model_copy(update=changed)
