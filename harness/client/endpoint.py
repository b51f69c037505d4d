"""One endpoint of this process (base URL and key), shared by every client that asks it: its connections, its queue.

A call waits here for its turn, and holds a place only while it is out. What is learned about the endpoint, and what a
user said about it, holds for all its clients together.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass
from typing import NoReturn

from ..errors import EndpointDownError
from .breaker import Breaker
from .flow import Flow, Launch
from .headers import Told
from .pace import Bucket

log = logging.getLogger(__name__)

KEEP_ALIVE = 75.0
"""Seconds an idle connection is kept."""
LONG_HOLD = 10.0
"""Seconds of waiting that are worth a line in the log."""
FIRST_GUESS = 400.0
"""Tokens of a reply before any was seen: the mean of the official judges' replies is 200 to 900 (specs)."""


@dataclass(frozen=True)
class Terms:
    """How one client wants its endpoint to be asked."""

    concurrency: int
    rpm: float | None = None
    tpm: float | None = None
    patience: float | None = 60.0
    """Seconds the endpoint may stay down before all calls end with EndpointDownError. None: a server of our own, which
    others look after: no limits are learned and nothing is given up here."""


@dataclass
class Waiting:
    future: asyncio.Future[Launch]
    tokens: float


class Endpoint:
    """Made by `join`; every client that joined leaves again."""

    def __init__(self, url: str) -> None:
        import aiohttp  # deferred, so that a command's help does not wait for it

        self.url = url
        self.session = aiohttp.ClientSession(
            # calls in flight are limited here, so connections need no limit of their own
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.flow = Flow(1)
        self.breaker = Breaker(None)
        self.reply_tokens = FIRST_GUESS
        """Running mean of a reply's tokens."""
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._down: str | None = None
        self._terms: list[Terms] = []

    def add(self, terms: Terms) -> None:
        self._terms.append(terms)
        self._agree()

    def remove(self, terms: Terms) -> bool:
        """Whether nobody is left."""
        self._terms.remove(terms)
        if self._terms:
            self._agree()
        return not self._terms

    def _agree(self) -> None:
        """The places that all ask for together (each keeps to its own), the smallest limits, the longest patience."""
        terms = self._terms
        patience = [one.patience for one in terms if one.patience is not None]
        self.breaker.patience = max(patience) if patience else None
        self.flow.agree(sum(one.concurrency for one in terms), adaptive=bool(patience))
        rpm = min((one.rpm for one in terms if one.rpm is not None), default=None)
        tpm = min((one.tpm for one in terms if one.tpm is not None), default=None)
        self.flow.requests = _bucket(self.flow.requests, rpm)
        self.flow.tokens = _bucket(self.flow.tokens, tpm)

    async def place(self, tokens: float, *, again: bool) -> Launch:
        """Waits for a turn; `again` goes first. Raises EndpointDownError once the endpoint is given up."""
        if self._down is not None:
            raise EndpointDownError(self._down)
        if not self._waiting and self._delay(tokens) <= 0:
            return self.flow.launch(self._loop.time(), tokens)
        waiting = Waiting(self._loop.create_future(), tokens)
        if again:
            self._waiting.appendleft(waiting)
        else:
            self._waiting.append(waiting)
        self._pump()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            if waiting.future.done() and not waiting.future.cancelled() and waiting.future.exception() is None:
                self.dropped()
            raise

    def _delay(self, tokens: float) -> float:
        if self.breaker.is_tripped and self.flow.in_flight > 0:
            return math.inf
        return self.flow.wait(self._loop.time(), tokens)

    def _pump(self) -> None:
        """Sends out who may go; sets a clock for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            first = self._waiting[0]
            if first.future.done():  # cancelled
                self._waiting.popleft()
                continue
            delay = self._delay(first.tokens)
            if delay > 0:
                if delay < math.inf:
                    self._timer = self._loop.call_later(delay, self._pump)
                return
            self._waiting.popleft()
            first.future.set_result(self.flow.launch(self._loop.time(), first.tokens))

    # how a call ended

    def taken(self, launch: Launch, told: Told, tokens: float | None) -> None:
        """Answered. `tokens`: what it took by the server's count."""
        now = self._loop.time()
        self.breaker.taken()
        self.flow.taken(launch, now, tokens)
        self._hear(launch, told, now)
        self._pump()

    def refused(self, launch: Launch, told: Told, backoff: float) -> None:
        """A 429."""
        now = self._loop.time()
        self.breaker.refused(now)
        self.flow.refused(launch, now, told, backoff)
        self._hear(launch, told, now)
        self._check(now, "HTTP 429")

    def failed(self, launch: Launch, what: str) -> None:
        """No answer, or a 5xx."""
        now = self._loop.time()
        self.breaker.failed(now)
        self.flow.failed(launch, now)
        if self.breaker.is_tripped:
            self.flow.hold(now, self.breaker.hold(now))
        self._check(now, what)

    def dropped(self) -> None:
        """The caller gave up."""
        self.flow.dropped()
        self._pump()

    def give_up(self, why: str) -> NoReturn:
        """Ends every call that waits, and all that come."""
        why += "; what arrived is kept, and the same command goes on from there"
        self._down = why
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                waiting.future.set_exception(EndpointDownError(why))
        raise EndpointDownError(why)

    def _check(self, now: float, last: str) -> None:
        seconds = self.breaker.down_for(now)
        if seconds is not None:
            self.give_up(f"{self.url} stays down: no answer for {seconds:.0f} s, the last try with: {last}")
        self._pump()

    def _hear(self, launch: Launch, told: Told, now: float) -> None:
        held = self.flow.held_until
        self.flow.heard(launch, now, told)
        if self.flow.held_until - max(now, held) > LONG_HOLD:
            log.info("%s: its rate limit is used up, waiting %.0f s", self.url, self.flow.held_until - now)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.session.close()


def _bucket(old: Bucket | None, per_minute: float | None) -> Bucket | None:
    if per_minute is None:
        return None
    return old if old is not None and math.isclose(old.rate * 60, per_minute) else Bucket(per_minute)


_endpoints: dict[tuple[asyncio.AbstractEventLoop, str, str | None], Endpoint] = {}
"""Those in use now. The loop is part of the name: connections cannot move to another one."""


def join(url: str, key: str | None, terms: Terms) -> Endpoint:
    """The endpoint of this URL and key, made for its first client."""
    name = (asyncio.get_running_loop(), url, key)
    endpoint = _endpoints.get(name)
    if endpoint is None:
        endpoint = _endpoints[name] = Endpoint(url)
    endpoint.add(terms)
    return endpoint


async def leave(endpoint: Endpoint, terms: Terms) -> None:
    """Closes the connections after the last client."""
    if endpoint.remove(terms):
        for name in [name for name, one in _endpoints.items() if one is endpoint]:
            del _endpoints[name]
        await endpoint.close()
