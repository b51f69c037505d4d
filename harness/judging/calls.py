"""Make a judge's calls: look up the cache, else reserve the cost in the budget and send the request.

It decides the order of these steps and what a run's judges share. Prompts and verdicts are the judge's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from ..client import ChatReply
from ..records import JudgeSpec, JudgeTask
from .cache import ReplyCache, request_key
from .cost import Budget, reply_price, worst_case

FRESH = -1
"""Repeat number in the key of a call that bypasses the cache, so that no cached reply has its key."""


@dataclass(frozen=True)
class Call:
    """One request, and the key its reply is cached under."""

    key: bytes
    body: dict[str, JsonValue]
    fresh: bool = False
    """Whether to bypass the cache, both reading and writing."""


class Wire(Protocol):
    """Something that answers requests: a chat endpoint, or a batch."""

    price_share: float
    """Share of the list price that a reply costs."""

    async def send(self, call: Call) -> ChatReply:
        """Return the reply. Raise ReplyError if the call failed."""
        ...

    def forget(self, call: Call) -> None:
        """Drop a reply without a verdict, so that it is not returned again."""
        ...


class Chat(Protocol):
    """The part of `ChatClient` that a wire uses."""

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply: ...


class LiveWire:
    """Sends each call at once."""

    price_share = 1.0

    def __init__(self, client: Chat) -> None:
        self._client = client

    async def send(self, call: Call) -> ChatReply:
        return await self._client.chat(call.body)

    def forget(self, call: Call) -> None:
        """Do nothing, as nothing is stored here."""


@dataclass(frozen=True)
class CallOptions:
    """Cache, budget and transport that the judges of a run share."""

    cache: ReplyCache = field(default_factory=lambda: ReplyCache(None))
    budget: Budget = field(default_factory=Budget)
    wire: Callable[[JudgeSpec, Chat], Wire] = lambda spec, client: LiveWire(client)
    """Return the wire for a judge's calls, given its spec and client."""


@runtime_checkable
class Calling(Protocol):
    """A judge whose verdicts cost calls. The run hands it the options before it is entered."""

    def use(self, options: CallOptions) -> None: ...

    def first_call(self, task: JudgeTask) -> Call | None:
        """Return the first request of a task, for estimates, or None if the task needs no call."""
        ...


class Calls:
    """One judge's calls to one endpoint."""

    def __init__(self, spec: JudgeSpec, endpoint: str, client: Chat, options: CallOptions) -> None:
        """Make one judge's calls to `endpoint`, which distinguishes its replies from another judge's.

        It is a base URL, or a digest of the weights for a server whose address changes with every run.
        """
        self.endpoint = endpoint
        self._spec = spec
        self._wire = options.wire(spec, client)
        self._options = options
        self._label = f"{spec.model} at {endpoint}"

    def call(self, body: dict[str, JsonValue], repeat: int, *, fresh: bool = False) -> Call:
        return Call(request_key(self.endpoint, body, FRESH if fresh else repeat), body, fresh)

    async def chat(self, call: Call) -> ChatReply:
        """Return the reply. Raise ReplyError if it failed, BudgetReachedError or StoreError if no call can follow."""
        if call.fresh:
            return await self._pay(call)
        return await self._options.cache.reply(call.key, self._label, lambda: self._pay(call))

    async def _pay(self, call: Call) -> ChatReply:
        # without a limit, judges without known prices or token limits work too
        if self._options.budget.limit is None:
            return await self._wire.send(call)
        most = (worst_case(self._spec, call.body) or 0.0) * self._wire.price_share
        async with self._options.budget.charge(most) as charge:
            reply = await self._wire.send(call)
            paid = reply_price(self._spec, reply)
            charge.dollars = most if paid is None else paid  # if a server counts no tokens, assume the worst case
            return reply

    async def forget(self, calls: Sequence[Call]) -> None:
        """Drop replies without a verdict: they are failures, and failures are not cached."""
        for call in calls:
            self._wire.forget(call)
        await self._options.cache.forget(call.key for call in calls)
