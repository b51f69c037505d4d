"""A judge behind an OpenAI-compatible chat endpoint: asks, reads, asks once more where the protocol does so.

It owns the conversation and what it cost. Words come from the template, verdicts from `judges.parsing`, connections
and retries from `harness.client`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from pydantic import JsonValue

from harness.client import ChatClient, ChatReply
from harness.errors import ConfigError, EndpointDownError, JudgeUnavailableError, ReplyError, VerdictParseError
from harness.judging.calls import Call, CallOptions, Calls
from harness.judging.pricing import reply_price
from harness.records import Failure, JudgeSpec, JudgeTask, JudgeTemplate, Judgment, Preference, TokenLogprob, Verdict

from .evaluators import read_evaluator
from .parsing import read_reply
from .prompting import Message, render

Flag = Literal["truncated", "reasked", "identical", "injection"]


@dataclass
class Conversation:
    """What has been said about one task so far."""

    messages: list[Message]
    replies: list[str] = field(default_factory=list)
    logprobs: tuple[TokenLogprob, ...] = ()
    flags: list[Flag] = field(default_factory=list)
    answered: list[Call] = field(default_factory=list)
    """The calls that the replies are to."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = 0.0
    paid: float | None = 0.0
    """US dollars; None once a reply came whose price is not known."""
    calls: int = 0

    @property
    def text(self) -> str | None:
        """All replies as the reference joins them; None where none came."""
        return "\n".join(self.replies) if self.replies else None

    def hear(self, reply: ChatReply, template: JudgeTemplate, dollars: float | None) -> None:
        """`dollars`: what the reply cost when it was asked for."""
        if not self.replies:
            self.logprobs = reply.logprobs
        self.replies.append(reply.text)
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.cost = None if self.cost is None or dollars is None else self.cost + dollars
        if not reply.cached:
            self.calls += 1
            self.paid = None if self.paid is None or dollars is None else self.paid + dollars
        # A reply that is read from its first token's log-probabilities is always cut after it.
        if reply.finish == "length" and template.top_logprobs is None and "truncated" not in self.flags:
            self.flags.append("truncated")

    def ask_again(self, words: str) -> None:
        self.messages.append({"role": "assistant", "content": self.replies[-1]})
        self.messages.append({"role": "user", "content": words})
        self.flags.append("reasked")


class Client(Protocol):
    """What answers the judge's calls, for the time of an `async with`: an endpoint's client, or a server of our own."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        """Raises ReplyError."""
        ...


class LlmJudge:
    """`fusion_harness.judges` entry point "llm". Raises ConfigError at once for a spec that cannot work."""

    def __init__(self, spec: JudgeSpec, client: Client | None = None, *, endpoint: str | None = None) -> None:
        """`client` None: that of the spec's endpoint. `endpoint` stands for it in the cache of replies; None: its
        URL."""
        self.spec = spec
        self._evaluator = None if spec.evaluator is None else read_evaluator(spec.evaluator)
        self._client = endpoint_client(spec) if client is None else client
        self._calls = Calls(spec, endpoint or spec.url or "", self._client, CallOptions())

    def use(self, options: CallOptions) -> None:
        self._calls = Calls(self.spec, self._calls.endpoint, self._client, options)

    def first_call(self, task: JudgeTask) -> Call | None:
        task = self._in_own_words(task)
        return None if is_drawn(task) else self._next_call(task, render(task))

    def _in_own_words(self, task: JudgeTask) -> JudgeTask:
        return task if self._evaluator is None else self._evaluator.asked(task)

    def _next_call(self, task: JudgeTask, messages: list[Message]) -> Call:
        body = request_body(self.spec, task.template, messages)
        return self._calls.call(body, task.repeat, fresh=task.anchor)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

    def identity(self) -> dict[str, JsonValue]:
        """What decides verdicts besides the spec: an evaluator's words, parser and parameters."""
        return {} if self._evaluator is None else self._evaluator.identity()

    def check(self, task: JudgeTask) -> None:
        """Raises ConfigError for a kind of task that this judge cannot take."""
        if self._evaluator is not None:
            self._evaluator.asked(task)

    async def judge(self, task: JudgeTask) -> Judgment:
        """The verdict, or why there is none. Raises JudgeUnavailableError once the endpoint is known to be down."""
        started = time.monotonic()
        task = self._in_own_words(task)
        if is_drawn(task):
            drawn = Conversation([], flags=["identical"])
            return self._judgment(task, drawn, started, Preference(value=0.5))
        talk = Conversation(render(task))
        try:
            verdict = await self._ask(task, talk)
        except VerdictParseError as error:
            empty = error.reason == "parse" and not (talk.text or "").strip() and not talk.logprobs
            failure = Failure.model_validate({"reason": "empty" if empty else error.reason, "message": str(error)})
            await self._calls.forget(talk.answered)  # a failure is not kept: the same command asks again
            return self._judgment(task, talk, started, failure)
        except ReplyError as error:
            failure = Failure.model_validate({"reason": error.reason, "message": str(error)})
            return self._judgment(task, talk, started, failure)
        return self._judgment(task, talk, started, verdict)

    async def _ask(self, task: JudgeTask, talk: Conversation) -> Verdict:
        """Asks, and where the first reply holds no verdict and the template says so, once more."""
        template = task.template
        await self._call(task, talk)
        try:
            return read_reply(task, talk.text or "", talk.logprobs)
        except VerdictParseError as error:
            if template.reask is None or not error.reaskable:
                raise
        talk.ask_again(template.reask)
        await self._call(task, talk)
        return read_reply(task, talk.text or "", talk.logprobs)

    async def _call(self, task: JudgeTask, talk: Conversation) -> None:
        call = self._next_call(task, talk.messages)
        try:
            reply = await self._calls.chat(call)
        except EndpointDownError as error:
            who = f"judge {self.spec.name!r}" + (f" ({self.spec.model})" if self.spec.model else "")
            raise JudgeUnavailableError(f"{who}: {error}") from error
        talk.answered.append(call)
        talk.hear(reply, task.template, reply_price(self.spec, reply))

    def _judgment(self, task: JudgeTask, talk: Conversation, started: float, outcome: Verdict | Failure) -> Judgment:
        found = Judgment.of(task, self.spec.name, outcome, reply=talk.text, logprobs=talk.logprobs)
        spent = {
            "flags": tuple(talk.flags),
            "prompt_tokens": talk.prompt_tokens,
            "completion_tokens": talk.completion_tokens,
            "cost": talk.cost,
            "paid": talk.paid,
            "calls": talk.calls,
            "seconds": time.monotonic() - started,
        }
        return found.model_copy(update=spent)


def endpoint_client(spec: JudgeSpec) -> ChatClient:
    """The client of the spec's endpoint. Raises ConfigError where model, URL or key are missing."""
    if not spec.model or not spec.url:
        raise ConfigError(f"judge {spec.name!r} needs `model` and `url` (an OpenAI-compatible base URL)")
    key = os.environ.get(spec.key_env) if spec.key_env else None
    if spec.key_env and not key:
        raise ConfigError(f"judge {spec.name!r} needs its API key in the environment variable {spec.key_env}")
    return ChatClient(
        spec.url,
        api_key=key,
        access=spec.access,
        concurrency=spec.concurrency,
        rpm=spec.rpm,
        tpm=spec.tpm,
        timeout=spec.timeout,
        patience=spec.patience,
    )


def is_drawn(task: JudgeTask) -> bool:
    """Whether the protocol calls this a draw without asking."""
    return bool(
        task.template.identical_is_draw and task.baseline is not None and task.answer.turns == task.baseline.turns
    )


def request_body(spec: JudgeSpec, template: JudgeTemplate, messages: list[Message]) -> dict[str, JsonValue]:
    """The chat-completions body: the template's official parameters, then the judge's own; a null leaves one out."""
    temperature = template.temperature
    body: dict[str, JsonValue] = {
        "model": spec.model,
        "messages": list(messages),
        # 0, not 0.0: the bytes the original tools send
        "temperature": int(temperature) if temperature.is_integer() else temperature,
        "max_tokens": template.max_tokens,
        **template.extra,
    }
    if template.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": template.top_logprobs}
    body |= spec.params
    return {name: value for name, value in body.items() if value is not None}
