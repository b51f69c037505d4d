"""Share one endpoint (base URL and key) among the clients of this process: connections, queue, circuit breaker.

>>> breaker = Breaker(Patience(down=60.0))
>>> for second in range(TRIP):
...     breaker.failed(float(second), NO_OUTAGE)
>>> breaker.is_tripped, breaker.hold(now=16.0)  # down for 16 s, so the next probe is in 8 s
(True, 8.0)

All clients of the endpoint share it, so that limits, learned or configured, apply to them together. A call waits here
for its turn and occupies a place only while it is in flight. `read_body` limits the size of a reply, so that no server
can fill our memory.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, NoReturn

from ..records.errors import EndpointDownError, ReplyError
from .flow import Bucket, Flow, Launch, RateLimitHints

if TYPE_CHECKING:
    import aiohttp


# -------------------------------------------------------------------------------------------------- the body of a reply
# A small gzip file can unpack to gigabytes, and a server may send without end. aiohttp unpacks in small pieces, so the
# size is known before memory is full.


MOST_BYTES = 64 * 2**20
"""Largest unpacked body. A reply of 128,000 tokens with 20 log-probabilities each is half of that at most."""
SMALL = 2**20
"""Bytes of a body after which it waits for one of LARGE_AT_ONCE places."""
LARGE_AT_ONCE = 2
"""Large bodies in memory at a time: 128 MB at most, however many calls are in flight."""


class BodyTooLargeError(Exception):
    """Internal: the body is larger than MOST_BYTES."""


async def read_body(reply: aiohttp.ClientResponse, large: asyncio.Semaphore) -> bytes:
    """Return the unpacked body. Raise BodyTooLargeError above MOST_BYTES.

    `large`: the LARGE_AT_ONCE places for bodies above SMALL.
    """
    body = bytearray()
    if await _fill(body, reply, SMALL):
        return bytes(body)
    async with large:
        if await _fill(body, reply, MOST_BYTES):
            return bytes(body)
    reply.close()  # what is still to come is not read
    body.clear()  # the error's traceback would keep it alive
    raise BodyTooLargeError(f"is larger than {MOST_BYTES // 2**20} MB")


async def _fill(body: bytearray, reply: aiohttp.ClientResponse, most: int) -> bool:
    """Read until the end, or until there are more than `most` bytes, and return whether that was the end."""
    while len(body) <= most:
        chunk = await reply.content.readany()
        if not chunk:
            return True
        body += chunk
    return False


# --------------------------------------------------------------------------------------------------------- the endpoint


TRIP = 8
"""Failures in a row, with no answer between them, after which the endpoint is only probed: one call at a time. A few
broken connections among many calls in flight are usual; eight without a single answer are not."""
PROBE_SECONDS = (0.5, 10.0)
"""Least and longest wait before a probe, which is half the time that the endpoint has been down."""
REFUSED_PATIENCE = 900.0
"""Seconds of nothing but 429s after which a run stops."""

log = logging.getLogger(__name__)
KEEP_ALIVE = 75.0
"""Seconds an idle connection is kept."""
OTHER_FILES = 128
"""Files that a run has open besides its connections; a row of a jury's run has about 20."""
LONG_HOLD = 10.0
"""Seconds of waiting from which on the log reports it."""
FIRST_GUESS = 400.0
"""Expected tokens of the first reply: the mean of the official judges' replies is 200 to 900."""


@dataclass(frozen=True)
class Patience:
    """Seconds that an endpoint may stay down before all calls end with EndpointDownError."""

    down: float = 60.0
    unseen: float = 15.0
    """If it has never answered: its address is probably wrong."""
    starting: float = 300.0
    """If it asks to be tried again later (503 with Retry-After), as a server does that loads its model."""

    @classmethod
    def of(cls, seconds: float | None) -> Patience:
        """Return the same patience for every case, from the first call on, or the defaults for None."""
        return USUAL_PATIENCE if seconds is None else cls(seconds, seconds, seconds)

    def longest(self, rival: Patience) -> Patience:
        return Patience(max(self.down, rival.down), max(self.unseen, rival.unseen), max(self.starting, rival.starting))


USUAL_PATIENCE = Patience()


@dataclass(frozen=True)
class Outage:
    """What a failure says about the endpoint as a whole."""

    is_starting: bool = False
    """It loads its model."""
    is_absent: bool = False
    """Nobody listens at its address."""
    retry_after: float | None = None
    """Seconds after which it wants to be asked again."""


NO_OUTAGE = Outage()


class Breaker:
    """A count of failures since the last answer. With `patience` None the endpoint may stay down forever."""

    def __init__(self, patience: Patience | None) -> None:
        self.patience = patience
        self.failures = 0
        self._since = 0.0
        self._refused_since: float | None = None
        self._was_well = False
        self._is_starting = False
        self._is_out = False

    @property
    def is_tripped(self) -> bool:
        return self.patience is not None and self.failures >= TRIP

    @property
    def is_out(self) -> bool:
        """Return whether the whole endpoint is down, so that a failure says nothing about the call that met it."""
        return self.is_tripped or (self.patience is not None and self._is_out and self.failures > 1)

    def taken(self) -> None:
        self.failures = 0
        self._refused_since = None
        self._was_well = True
        self._is_starting = self._is_out = False

    def failed(self, now: float, outage: Outage) -> None:
        if self.failures == 0:
            self._since = now
        self.failures += 1
        self._is_starting |= outage.is_starting
        self._is_out = outage.is_starting or outage.is_absent

    def refused(self, now: float) -> None:
        """Note a 429, which shows that the endpoint is up."""
        self.failures = 0
        self._is_starting = self._is_out = False
        if self._refused_since is None:
            self._refused_since = now

    def hold(self, now: float) -> float:
        """Return the seconds until the next probe, or 0 while not tripped."""
        least, most = PROBE_SECONDS
        return min(most, max(least, (now - self._since) / 2)) if self.is_tripped else 0.0

    def limit(self) -> float:
        """Return the seconds that the endpoint may stay down now."""
        if self.patience is None:
            return math.inf
        if self._is_starting:
            return self.patience.starting
        return self.patience.down if self._was_well else self.patience.unseen

    def down_for(self, now: float) -> float | None:
        """Return the seconds it has been down if that exceeds the patience, else None."""
        if self.patience is None:
            return None
        if self.is_out:
            seconds = now - self._since
            return seconds if seconds >= self.limit() else None
        seconds = 0.0 if self._refused_since is None else now - self._refused_since
        return seconds if seconds >= max(REFUSED_PATIENCE, self.patience.down) else None


@dataclass(frozen=True)
class CallLimits:
    """How many calls one client may send at once and per minute, and how long it tries each."""

    concurrency: int = 64
    """Most calls in flight."""
    rpm: float | None = None
    """Most calls per minute; None: as many as the server takes."""
    tpm: float | None = None
    """Most tokens per minute, of prompts and replies; None: as many as the server takes."""
    caller: str | None = None
    """Who asks. The limits of one caller that joins several times count once, as those of a judge that judges several
    models side by side; clients without a caller each bring their own places."""
    patience: Patience | None = USUAL_PATIENCE
    """None: a server of our own, which its backend watches. Nothing is learned about it, and every call fails by itself
    after `attempts`."""
    timeout: float = 300.0
    """Seconds that one try may take, its whole reply included."""
    attempts: int = 6
    """Failures of one call after which it ends with its error."""
    first_wait: float = 0.5
    """Seconds before the second try; doubled with each further one."""
    parameters: str = "set it under `params:` in the judge's YAML (null leaves it out)"
    """Where the user sets a parameter that the model rejects."""


@dataclass
class Waiting:
    future: asyncio.Future[Launch]
    tokens: float
    failed_with: ReplyError | None


class Endpoint:
    """The state that clients share from `join` to `leave`."""

    def __init__(self, url: str) -> None:
        import aiohttp  # deferred, so that a command's help does not wait for it

        self.url = url
        self.session = aiohttp.ClientSession(
            # calls in flight are limited here, so connections need no limit of their own
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self.large_bodies = asyncio.Semaphore(LARGE_AT_ONCE)
        self.flow = Flow(1)
        self.breaker = Breaker(None)
        self.reply_tokens = FIRST_GUESS
        """Running mean of a reply's tokens."""
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._down: str | None = None
        self._answered_at = math.inf
        self._is_down_for_new_calls = False
        """A call that was first sent after the last answer has failed, so it is not about single calls."""
        self._gives_up_failed_calls = False
        self._clients: list[CallLimits] = []

    def add(self, limits: CallLimits) -> None:
        self._clients.append(limits)
        self._agree()

    def remove(self, limits: CallLimits) -> bool:
        """Remove a client and return whether it was the last."""
        self._clients.remove(limits)
        if self._clients:
            self._agree()
        return not self._clients

    def _agree(self) -> None:
        """Combine the clients' limits: the sum of the callers' places, the smallest rates, the longest patience."""
        places: dict[object, int] = {}
        for number, client in enumerate(self._clients):
            caller = number if client.caller is None else client.caller
            places[caller] = max(client.concurrency, places.get(caller, 0))
        patience = [client.patience for client in self._clients if client.patience is not None]
        self.breaker.patience = reduce(Patience.longest, patience) if patience else None
        self.flow.agree(_open_files_for(sum(places.values())), adaptive=bool(patience))
        rpm = min((client.rpm for client in self._clients if client.rpm is not None), default=None)
        tpm = min((client.tpm for client in self._clients if client.tpm is not None), default=None)
        self.flow.requests = _bucket(self.flow.requests, rpm)
        self.flow.tokens = _bucket(self.flow.tokens, tpm)

    async def place(self, tokens: float, *, again: bool, failed_with: ReplyError | None = None) -> Launch:
        """Wait for a turn, before all others if `again`. `failed_with`: the error of the call's last try.

        Raise EndpointDownError once the endpoint is given up, `failed_with` once only such calls are.
        """
        if self._down is not None:
            raise EndpointDownError(self._down)
        if self._gives_up_failed_calls and failed_with is not None:
            raise failed_with
        if not self._waiting and self._delay(tokens) <= 0:
            return self._launch(tokens, failed_with)
        waiting = Waiting(self._loop.create_future(), tokens, failed_with)
        if again:
            # it has waited before, and must not wait behind every call that came meanwhile
            self._waiting.appendleft(waiting)
        else:
            self._waiting.append(waiting)
        self._pump()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            # cancelled after its turn had come: the place must be given back
            if waiting.future.done() and not waiting.future.cancelled() and waiting.future.exception() is None:
                self.dropped()
            raise

    def _delay(self, tokens: float) -> float:
        if self.breaker.is_tripped and self.flow.in_flight > 0:
            return math.inf
        return self.flow.wait(self._loop.time(), tokens)

    def _pump(self) -> None:
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
            first.future.set_result(self._launch(first.tokens, first.failed_with))

    def _launch(self, tokens: float, failed_with: ReplyError | None) -> Launch:
        return replace(self.flow.launch(self._loop.time(), tokens), is_first=failed_with is None)

    # how a call ended

    def taken(self, launch: Launch, hints: RateLimitHints, tokens: float | None) -> None:
        """Note an answered call. `tokens`: its tokens by the server's count."""
        now = self._loop.time()
        self._answered_at = now
        self._is_down_for_new_calls = self._gives_up_failed_calls = False
        self.breaker.taken()
        self.flow.taken(launch, now, tokens)
        self._hear(launch, hints, now)
        self._pump()

    def refused(self, launch: Launch, hints: RateLimitHints, backoff: float) -> None:
        """Note a 429."""
        now = self._loop.time()
        self.breaker.refused(now)
        self.flow.refused(launch, now, hints, backoff)
        self._hear(launch, hints, now)
        self._check(now, "HTTP 429")

    def failed(self, launch: Launch, message: str, outage: Outage) -> None:
        """Note a call without an answer, or with a 5xx."""
        now = self._loop.time()
        is_new = launch.is_first and launch.launched_at > self._answered_at
        self._is_down_for_new_calls |= is_new or outage.is_absent or outage.is_starting
        self.breaker.failed(now, outage)
        self.flow.failed(launch, now)
        if self.breaker.is_tripped:
            hold = self.breaker.hold(now)
            self.flow.hold(now, hold if outage.retry_after is None else min(hold, max(1.0, outage.retry_after)))
        self._check(now, message)

    def dropped(self) -> None:
        """Note that the caller gave up."""
        self.flow.dropped()
        self._pump()

    def give_up(self, why: str) -> NoReturn:
        """End every call that waits now or comes later, with EndpointDownError."""
        why += "; what arrived is kept, and the same command resumes from there"
        self._down = why
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.future.done():
                waiting.future.set_exception(EndpointDownError(why))
        raise EndpointDownError(why)

    def _check(self, now: float, last: str) -> None:
        seconds = self.breaker.down_for(now)
        if seconds is not None and self._fails_single_calls():
            self._gives_up_failed_calls = True
            for waiting in self._waiting:
                if waiting.failed_with is not None and not waiting.future.done():
                    waiting.future.set_exception(waiting.failed_with)
        elif seconds is not None:
            self.give_up(f"{self.url} stays down: no answer for {seconds:.0f} s; the last try failed with: {last}")
        self._pump()

    def _fails_single_calls(self) -> bool:
        """Return whether the endpoint answered while or after each call that fails was first sent.

        Then it may be down only for these: a gateway that breaks at some prompts would otherwise end every run.
        """
        return self._answered_at < math.inf and self.breaker.failures > 0 and not self._is_down_for_new_calls

    def _hear(self, launch: Launch, hints: RateLimitHints, now: float) -> None:
        held = self.flow.held_until
        self.flow.heard(launch, now, hints)
        if self.flow.held_until - max(now, held) > LONG_HOLD:
            log.info("%s: its rate limit is used up, waiting %.0f s", self.url, self.flow.held_until - now)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self.session.close()


def _open_files_for(places: int) -> int:
    """Return how many calls may be in flight at once: all, unless this process may not open a file for each.

    The soft limit (often 1,024) is raised as far as the system allows.
    """
    needed = places + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return places
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft >= needed:
        return places
    fewer = max(1, soft - OTHER_FILES)
    log.warning(
        "%d calls in flight need %d open files, but `ulimit -n` allows %d: at most %d", places, needed, soft, fewer
    )
    return min(places, fewer)


def _bucket(old: Bucket | None, per_minute: float | None) -> Bucket | None:
    if per_minute is None:
        return None
    return old if old is not None and math.isclose(old.rate * 60, per_minute) else Bucket(per_minute)


_endpoints: dict[tuple[asyncio.AbstractEventLoop, str, str | None], Endpoint] = {}
"""Endpoints in use. The event loop is part of the key because connections cannot move to another one."""


def join(url: str, key: str | None, limits: CallLimits) -> Endpoint:
    """Return the endpoint of this URL and key. The first client creates it."""
    name = (asyncio.get_running_loop(), url, key)
    endpoint = _endpoints.get(name)
    if endpoint is None:
        endpoint = _endpoints[name] = Endpoint(url)
    endpoint.add(limits)
    return endpoint


async def leave(endpoint: Endpoint, limits: CallLimits) -> None:
    """Leave the endpoint. The last client closes its connections."""
    if endpoint.remove(limits):
        for name in [name for name, joined in _endpoints.items() if joined is endpoint]:
            del _endpoints[name]
        await endpoint.close()
