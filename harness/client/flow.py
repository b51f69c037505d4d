"""Decide when the next call to an endpoint may go out: rate limits of server and user, pace, places in flight. Pure.

>>> duration("6m0s"), duration("12ms")
(360.0, 0.012)
>>> bucket = Bucket(per_minute=60)
>>> bucket.take(now=0.0)
>>> bucket.wait(now=0.25)
0.75

Every method gets the time as an argument (seconds of any monotonic clock). A call ends in one of three ways: taken,
refused (429), failed (no answer, or a 5xx). The `Pace` learns from 429s how many calls per second an endpoint takes.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import Enum

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

OPENING_PACE = 160.0
"""Launches per second at first, doubled every OPENING_DOUBLES seconds until a 429: a full load of slow calls is out
within a second, and a server with a strict limit refuses a few calls, not all of them."""
OPENING_DOUBLES = 0.2
OPENING_BURST = 8
UNPACED = 10_000.0
"""Launches per second above which the pace does not limit."""
OPENING_CUT = 0.35
"""Factor of the opening pace after its first 429; most calls already in flight will be refused as well."""
GENTLE = 0.97
"""Largest factor of the pace after a 429: GROWTH makes up for these 3 % in 250 calls, so that about one in 250 is
refused while the limit stays what it is."""
RETURN_SECONDS = 1.0
"""Time constant of the return to just below the pace that was refused last."""
GROWTH = 1e-6
"""Relative growth per call beyond that, times the calls since the last 429: 3 % after 250 calls, so that one call in
250 gets a 429 as a probe, and doubled after 1,200."""
IDLE_SECONDS, IDLE_GROWTH = 5.0, 0.02
"""Relative growth per second after IDLE_SECONDS without a 429, times those seconds: doubled after 13 s at any pace."""
CHUNK, SMALL_CHUNK = 20, 6
"""Launches over which the share of 429s is measured; SMALL_CHUNK are enough if most are refused."""
FEW, MOST = 0.05, 0.6
"""Shares of 429s between which they may be about something else than the rate. Fewer are within what probing for the
limit causes; with more, hardly anything is accepted, and slowing down is right whatever the cause."""
MIN_PACE = 0.5
"""Least launches per second: a call must be tried now and then to notice that the limit is gone."""
CHUNK_FLOOR = 0.35
"""Least share of a chunk's first pace within the chunk, so that shares are comparable."""
CHUNKS = 8
"""Chunks that are remembered, to find one at a much higher pace."""
MUCH_SLOWER = 0.35
"""Share of a pace at which a rate limit refuses nothing, if it refuses less than MOST at the full pace."""
DEAF_SECONDS = 20.0
"""Seconds during which 429s are ignored; doubled each time that nothing has changed meanwhile."""
NOT_DEAF_SECONDS = 60.0
"""Seconds for which 429s count again, after it turned out that they are about the rate."""
CATCH_UP = 0.03
"""Seconds of launches that may be caught up at once if the event loop was late."""


@dataclass(frozen=True)
class RateLimitHints:
    """Waiting times in seconds and remaining amounts. None if a header is missing or unreadable."""

    retry_after: float | None = None
    requests_left: float | None = None
    requests_reset: float | None = None
    """Seconds until the limit is full again."""
    tokens_left: float | None = None
    tokens_reset: float | None = None


NOTHING = RateLimitHints()


REQUESTS_LEFT = ("x-ratelimit-remaining-requests", "anthropic-ratelimit-requests-remaining")
TOKENS_LEFT = ("x-ratelimit-remaining-tokens", "anthropic-ratelimit-tokens-remaining")
REQUESTS_RESET = ("x-ratelimit-reset-requests", "anthropic-ratelimit-requests-reset")
TOKENS_RESET = ("x-ratelimit-reset-tokens", "anthropic-ratelimit-tokens-reset")
"""Headers by provider: OpenAI, Azure, Groq, Fireworks, xAI and OpenRouter use the first name, Anthropic the second."""


def _first(headers: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((text for name in names if (text := headers.get(name)) is not None), None)


def read_headers(headers: Mapping[str, str]) -> RateLimitHints:
    """Return the hints in `headers`, whose lookup must ignore case, as aiohttp's does."""
    left, tokens = _first(headers, REQUESTS_LEFT), _first(headers, TOKENS_LEFT)
    after, after_ms = headers.get("Retry-After"), headers.get("retry-after-ms")
    if left is None and tokens is None and after is None and after_ms is None:
        return NOTHING
    milliseconds = number(after_ms)
    return RateLimitHints(
        retry_after=retry_after(after, time.time()) if milliseconds is None else milliseconds / 1000,
        requests_left=number(left),
        requests_reset=reset_in(_first(headers, REQUESTS_RESET), time.time()),
        tokens_left=number(tokens),
        tokens_reset=reset_in(_first(headers, TOKENS_RESET), time.time()),
    )


def retry_after(text: str | None, clock: float) -> float | None:
    """Return the seconds from `clock` (Unix time) that a number of seconds or an HTTP date means."""
    seconds = number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - clock)
    except (ValueError, OverflowError):
        return None


def reset_in(text: str | None, clock: float) -> float | None:
    """Return the seconds from `clock` (Unix time) that a duration, or a moment as RFC 3339 writes it, means."""
    if text is None or "T" not in text:
        return duration(text)
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp() - clock)
    except (ValueError, OverflowError):
        return None


def duration(text: str | None) -> float | None:
    """Return the seconds that `6m0s`, `12ms`, `1.5s` or a bare number mean."""
    if text is None or (seconds := number(text)) is not None:
        return seconds if text is not None else None
    amounts = DURATION.findall(text)
    if not amounts or "".join(value + unit for value, unit in amounts) != text.strip():
        return None
    return sum(float(value) * UNITS[unit] for value, unit in amounts)


def number(text: str | None) -> float | None:
    """Return the finite, non-negative number in `text`, else None."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 1e12 else None


class Bucket:
    """At most `per_minute` units per minute, in bursts of one second's worth (at least one unit).

    A cost above a burst may be taken when the bucket is full, and is then owed.
    """

    def __init__(self, per_minute: float) -> None:
        self.rate = per_minute / 60
        self.burst = max(1.0, self.rate)
        self._level = self.burst
        self._filled_at: float | None = None

    def wait(self, now: float, cost: float = 1.0) -> float:
        """Return the seconds until `cost` units may be taken. 0 means now."""
        return max(0.0, (min(cost, self.burst) - self._filled(now)) / self.rate)

    def take(self, now: float, cost: float = 1.0) -> None:
        """Take `cost` units. A negative cost gives units back."""
        self._level = min(self.burst, self._filled(now) - cost)
        self._filled_at = now

    def _filled(self, now: float) -> float:
        if self._filled_at is None:
            return self._level
        return min(self.burst, self._level + (now - self._filled_at) * self.rate)


class RefusalKind(Enum):
    """What a 429 means."""

    NEW = "the first after a time of peace"
    KNOWN = "one more of the same"
    NO_MATTER = "not about how much is asked"


@dataclass
class Chunk:
    """Consecutive launches, and how many of them were refused."""

    first: int
    """Number of its first launch."""
    pace: float
    launched: int = 0
    refused: int = 0
    ended: float = math.inf
    """When its last call was launched."""

    @property
    def share(self) -> float:
        return self.refused / max(1, self.launched)

    def is_complete(self, now: float, turnaround: float) -> bool:
        """Return whether all refusals of this chunk have arrived."""
        return now > self.ended + turnaround or (self.launched >= SMALL_CHUNK and self.share > MOST)


class Pace:
    """Launches per second: raised until a 429 shows that there is a limit, then kept just below it.

    A 429 after n calls says that the server takes about n / (n + 1) of the pace. Accepted calls raise it again.
    If the share of 429s stays the same however slow the pace is, they are not about the rate and are ignored for a
    while. Launches are identified by their numbers: 1, 2, 3, …
    """

    def __init__(self) -> None:
        self.value: float | None = OPENING_PACE
        """None: no limit."""
        self._opening = True
        self._opened = math.inf
        self._next = -math.inf
        self._recent: deque[float] = deque()
        self._refused_at = math.inf  # the pace that was refused last
        self._slowed = -math.inf
        self._grown = -math.inf
        self._number = 0  # of the last launch
        self._cut_number = 0  # of the last launch before the last cut
        self._turnaround = 0.0  # seconds a 429 takes to arrive
        self._chunk: Chunk | None = None
        self._chunks: deque[Chunk] = deque(maxlen=CHUNKS)
        self._deaf_until = -math.inf
        self._deaf_seconds = DEAF_SECONDS
        self._deaf_share = 0.0
        self._not_deaf_until = -math.inf

    def wait(self, now: float) -> float:
        """Return the seconds until the next launch."""
        return 0.0 if self.value is None else max(0.0, self._next - now)

    def launched(self, now: float) -> None:
        if self._opening:
            self._open(now)
        if self.value is not None:
            late = OPENING_BURST / self.value if self._opening else CATCH_UP
            self._next = max(self._next, now - late) + 1 / self.value
        self._number += 1
        chunk = self._chunk
        if chunk is not None and chunk.launched < CHUNK:
            chunk.launched += 1
            if chunk.launched == CHUNK:
                chunk.ended = now
        self._recent.append(now)
        while self._recent[0] < now - 1:
            self._recent.popleft()

    def _open(self, now: float) -> None:
        self._opened = min(self._opened, now)
        self.value = OPENING_PACE * 2 ** min(10.0, (now - self._opened) / OPENING_DOUBLES)
        if self.value > UNPACED:
            self.value, self._opening = None, False

    def taken(self, now: float) -> None:
        """Note a call answered with anything but a 429."""
        if self.value is None or self._opening:
            return
        seconds, self._grown = now - self._grown, now
        goal = GENTLE * self._refused_at
        if self.value < goal < math.inf:
            self.value += (goal - self.value) * -math.expm1(-seconds / RETURN_SECONDS)
        idle = max(0.0, now - self._slowed - IDLE_SECONDS)
        growth = GROWTH * (self._number - self._cut_number) + IDLE_GROWTH * idle * seconds
        self.value *= 1 + min(1.0, growth)
        if self.value > UNPACED:
            self.value = None

    def refused(self, number: int, launched_at: float, now: float) -> RefusalKind:
        """Note a 429 for the launch of that number and return what it means for the rate."""
        self._turnaround = max(0.9 * self._turnaround, now - launched_at)
        if self._recent:
            self._recent.pop()  # only accepted calls count there
        chunk = self._chunk
        if chunk is None:
            self._chunk = Chunk(self._number + 1, min(self.value or math.inf, self._measured(now)))
        elif chunk.first <= number < chunk.first + CHUNK:
            chunk.refused += 1
        if chunk is not None and chunk.is_complete(now, self._turnaround):
            self._judge(chunk, now)
        if now < self._deaf_until:
            return RefusalKind.NO_MATTER
        after = number - self._cut_number
        if after > 0:
            self._slow_down(now, after)
        return RefusalKind.NEW if after >= CHUNK else RefusalKind.KNOWN

    def _measured(self, now: float) -> float:
        """Return the accepted launches per second, over the last second."""
        measured = len(self._recent) / min(1.0, max(0.1, now - self._opened))
        lowest = OPENING_PACE / 2 if self._opening else 1.0  # at first there is too little data to go lower
        return max(lowest, measured)

    def _slow_down(self, now: float, after: int) -> None:
        factor = OPENING_CUT if self._slowed == -math.inf else min(GENTLE, after / (after + 1))
        self._refused_at = min(self.value or math.inf, self._measured(now))
        self._opening = False
        lowest = CHUNK_FLOOR * self._chunk.pace if self._chunk is not None else 0.0
        self.value = max(self._refused_at * factor, lowest, MIN_PACE)
        self._slowed = self._grown = now
        self._cut_number = self._number
        self._next = now + 1 / self.value

    def _judge(self, chunk: Chunk, now: float) -> None:
        """Check whether going slower changed anything. If not, ignore 429s for a while."""
        self._chunk = Chunk(self._number + 1, min(self.value or math.inf, self._measured(now)))
        if now < self._deaf_until:
            if chunk.launched == CHUNK and chunk.share > (1 + self._deaf_share) / 2:
                # the rate was the reason after all
                self._deaf_until, self._not_deaf_until = now, now + NOT_DEAF_SECONDS
            return
        self._chunks.append(chunk)
        share = self._share_since_much_faster(chunk)
        if now > self._not_deaf_until and FEW < share < MOST and chunk.share > 0.7 * share:
            self.value, self._refused_at = None, math.inf
            self._deaf_until, self._deaf_share = now + self._deaf_seconds, share
            self._deaf_seconds *= 2
            self._chunks.clear()

    def _share_since_much_faster(self, chunk: Chunk) -> float:
        """Return the share of 429s since the pace was three times as high; 0 if it never was or most were refused."""
        chunks = list(self._chunks)
        for position, earlier in enumerate(chunks):
            if chunk.pace < MUCH_SLOWER * earlier.pace and earlier.share < MOST:
                since = chunks[position:]
                return sum(later.refused for later in since) / sum(later.launched for later in since)
        return 0.0


@dataclass(frozen=True)
class Launch:
    """One request on its way."""

    launched_at: float
    """Seconds of the endpoint's clock."""
    tokens: float
    """Estimated cost."""
    number: int
    """Launches so far, this one among them."""
    tokens_so_far: float
    is_first: bool = True
    """Not a retry."""


class Flow:
    """Additive increase and multiplicative decrease of the calls in flight, within `ceiling`, plus pace and buckets.

    A decrease counts once for all calls that were in flight at the time.
    """

    def __init__(self, ceiling: int, *, adaptive: bool = True) -> None:
        self.ceiling = ceiling
        self.limit = float(ceiling)
        """Most calls in flight; its integer part counts."""
        self.in_flight = 0
        self.pace: Pace | None = Pace() if adaptive else None
        """None: nothing is learned, `limit` stays the ceiling."""
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.held_until = -math.inf
        self._announced = -math.inf
        self._launched = 0
        self._tokens = 0.0
        self._cut_at = -math.inf
        self._taken_since_cut = 0
        self._taken_since_refusal = True

    def agree(self, ceiling: int, *, adaptive: bool) -> None:
        """Change the number of places when clients join or leave."""
        self.limit = float(ceiling) if self.limit >= self.ceiling else min(self.limit, ceiling)
        self.ceiling = ceiling
        if not adaptive:
            self.pace = None
        elif self.pace is None:
            self.pace = Pace()

    def wait(self, now: float, tokens: float) -> float:
        """Return the seconds until a call of this many tokens may start: 0 now, infinity if another must end first."""
        if self.in_flight >= max(1, int(self.limit)):
            return math.inf
        return max(
            0.0,
            self.held_until - now,
            self.pace.wait(now) if self.pace is not None else 0.0,
            self.requests.wait(now) if self.requests is not None else 0.0,
            self.tokens.wait(now, tokens) if self.tokens is not None else 0.0,
        )

    def launch(self, now: float, tokens: float) -> Launch:
        self.in_flight += 1
        self._launched += 1
        self._tokens += tokens
        if self.pace is not None:
            self.pace.launched(now)
        if self.requests is not None:
            self.requests.take(now)
        if self.tokens is not None:
            self.tokens.take(now, tokens)
        return Launch(now, tokens, self._launched, self._tokens)

    def taken(self, launch: Launch, now: float, tokens: float | None) -> None:
        """Note an answered call. `tokens`: its cost if the server counted it."""
        is_bound = self.in_flight >= int(self.limit) - 1
        self.in_flight -= 1
        self._taken_since_cut += 1
        self._taken_since_refusal = True
        if is_bound and self.limit < self.ceiling:
            # one more place per round of calls, less in the first rounds after a decrease
            step = min(1.0, self._taken_since_cut / (8 * self.limit)) / self.limit
            self.limit = min(float(self.ceiling), self.limit + step)
        if self.pace is not None:
            self.pace.taken(now)
        if self.tokens is not None and tokens is not None:
            self.tokens.take(now, tokens - launch.tokens)

    def refused(self, launch: Launch, now: float, hints: RateLimitHints, backoff: float) -> None:
        """Note a 429. `backoff`: seconds to wait if the endpoint accepts nothing at all."""
        self.in_flight -= 1
        if self.tokens is not None:
            self.tokens.take(now, -launch.tokens)
        is_shut = self.in_flight == 0 and not self._taken_since_refusal
        self._taken_since_refusal = False
        if is_shut:  # twice, with nothing answered between and nothing in flight: the pace is not the reason
            self.hold(now, backoff if hints.retry_after is None else hints.retry_after)
            return
        if (hints.retry_after or 0.0) > 1 and launch.launched_at < self._announced:
            # asked within an announced wait and refused again: the announcement applies to all calls
            self.held_until = max(self.held_until, self._announced)
        if hints.retry_after is not None:
            self._announced = max(self._announced, now + hints.retry_after)
        if self.pace is not None and self.pace.refused(launch.number, launch.launched_at, now) is RefusalKind.NEW:
            self._cut(launch, now, keep=self.in_flight)

    def failed(self, launch: Launch, now: float) -> None:
        """Note a call without an answer, a broken connection or a 5xx: the endpoint is overloaded or broken."""
        self.in_flight -= 1
        self._cut(launch, now, keep=1)

    def dropped(self) -> None:
        """Note that the caller gave up, from which nothing is learned."""
        self.in_flight -= 1

    def hold(self, now: float, seconds: float) -> None:
        """Send nothing for this many seconds."""
        self.held_until = max(self.held_until, now + seconds)

    def heard(self, launch: Launch, now: float, hints: RateLimitHints) -> None:
        """Wait for a limit's reset if the calls in flight use up what the server had left."""
        if hints.requests_left is not None and hints.requests_reset is not None:
            later = self._launched - launch.number
            if hints.requests_left - later < 1:
                self.hold(now, hints.requests_reset)
        if hints.tokens_left is not None and hints.tokens_reset is not None:
            later_tokens = self._tokens - launch.tokens_so_far
            if hints.tokens_left - later_tokens < self._tokens / self._launched:
                self.hold(now, hints.tokens_reset)

    def _cut(self, launch: Launch, now: float, keep: int) -> None:
        """Halve the places, but keep at least `keep`, the number of accepted calls in flight."""
        if self.pace is None or launch.launched_at < self._cut_at:
            return
        self.limit = max(1.0, float(keep), self.limit / 2)
        self._cut_at = now
        self._taken_since_cut = 0
