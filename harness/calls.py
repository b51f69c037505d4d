"""What stands between a judge and the wire: a call is looked up in the cache, else paid for.

It owns the order of these and what a run may share between its judges. Words and verdicts are the judge's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from .cache import ReplyCache, request_key
from .client import ChatReply


class Wire(Protocol):
    """Whatever answers a chat-completions body."""

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        """Raises ReplyError for a call that failed."""
        ...


@dataclass(frozen=True)
class CallOptions:
    """What all judges of a run share."""

    cache: ReplyCache = field(default_factory=lambda: ReplyCache(None))


@runtime_checkable
class Calling(Protocol):
    """A judge that makes paid calls; the run hands it these options before it is entered."""

    def use(self, options: CallOptions) -> None: ...


class Calls:
    """One judge's calls to one endpoint."""

    def __init__(self, endpoint: str, wire: Wire, options: CallOptions) -> None:
        """`endpoint` tells one judge's replies from another's: its base URL, or what stands for a server whose address
        changes with every run (a digest of the weights it serves)."""
        self.endpoint = endpoint
        self._wire = wire
        self._options = options

    def key(self, body: dict[str, JsonValue], repeat: int) -> bytes:
        return request_key(self.endpoint, body, repeat)

    async def chat(self, key: bytes, body: dict[str, JsonValue]) -> ChatReply:
        """Raises ReplyError, and StoreError where the reply cache can no longer be written."""
        judge = f"{body.get('model')} at {self.endpoint}"
        return await self._options.cache.reply(key, judge, lambda: self._wire.chat(body))

    async def forget(self, keys: Iterable[bytes]) -> None:
        """Replies that held no verdict are failures, and a failure is not kept."""
        await self._options.cache.forget(keys)
