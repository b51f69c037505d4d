"""Learn from its 429s how many calls per second an endpoint takes; keep the limits per minute that a user gave.

Pure: every method gets the time as an argument (seconds of any monotonic clock).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

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
"""Largest factor of the pace after a 429."""
RETURN_SECONDS = 1.0
"""Time constant of the return to just below the pace that was refused last."""
GROWTH = 1e-6
"""Relative growth per call beyond that, times the calls since the last 429: 3 % after 250 calls, so that one call in
250 gets a 429 as a probe, and doubled after 1,200."""
IDLE_SECONDS, IDLE_GROWTH = 5.0, 0.02
"""Relative growth per second, times the seconds since the last 429 beyond IDLE_SECONDS: doubled after 13 seconds at any
pace."""
CHUNK, SMALL_CHUNK = 20, 6
"""Launches over which the share of 429s is measured; SMALL_CHUNK are enough if most are refused."""
FEW, MOST = 0.05, 0.6
MIN_PACE = 0.5
CHUNK_FLOOR = 0.35
"""Least share of a chunk's first pace within the chunk, so that shares are comparable."""
CHUNKS = 8
MUCH_SLOWER = 0.35
"""Share of a pace at which a rate limit refuses nothing, if it refuses less than MOST at the full pace."""
DEAF_SECONDS = 20.0
"""Seconds during which 429s are ignored; doubled each time that nothing has changed meanwhile."""
NOT_DEAF_SECONDS = 60.0
CATCH_UP = 0.03
"""Seconds of launches that may be caught up at once if the event loop was late."""


class Bucket:
    """At most `per_minute` units per minute, in bursts of one second's worth (at least one unit).

    A cost above a burst may be taken when the bucket is full, and is then owed.
    """

    def __init__(self, per_minute: float) -> None:
        self.rate = per_minute / 60
        self.burst = max(1.0, self.rate)
        self._level = self.burst
        self._at: float | None = None

    def wait(self, now: float, cost: float = 1.0) -> float:
        """Return the seconds until `cost` units may be taken; 0 for now."""
        return max(0.0, (min(cost, self.burst) - self._filled(now)) / self.rate)

    def take(self, now: float, cost: float = 1.0) -> None:
        """Take `cost` units; a negative cost gives units back."""
        self._level = min(self.burst, self._filled(now) - cost)
        self._at = now

    def _filled(self, now: float) -> float:
        if self._at is None:
            return self._level
        return min(self.burst, self._level + (now - self._at) * self.rate)


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

    def is_known(self, now: float, turnaround: float) -> bool:
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
        self._known: deque[Chunk] = deque(maxlen=CHUNKS)
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
        if chunk is not None and chunk.is_known(now, self._turnaround):
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
        return max(
            OPENING_PACE / 2 if self._opening else 1.0, measured
        )  # at first there is too little data to go lower

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
        """Check whether going slower changed anything; if not, ignore 429s for a while."""
        self._chunk = Chunk(self._number + 1, min(self.value or math.inf, self._measured(now)))
        if now < self._deaf_until:
            if chunk.launched == CHUNK and chunk.share > (1 + self._deaf_share) / 2:
                self._deaf_until, self._not_deaf_until = (
                    now,
                    now + NOT_DEAF_SECONDS,
                )  # the rate was the reason after all
            return
        self._known.append(chunk)
        share = self._share_since_much_faster(chunk)
        if now > self._not_deaf_until and FEW < share < MOST and chunk.share > 0.7 * share:
            self.value, self._refused_at = None, math.inf
            self._deaf_until, self._deaf_share = now + self._deaf_seconds, share
            self._deaf_seconds *= 2
            self._known.clear()

    def _share_since_much_faster(self, chunk: Chunk) -> float:
        """Return the share of 429s since the pace was three times as high; 0 if it never was or most were refused
        then."""
        known = list(self._known)
        for position, earlier in enumerate(known):
            if chunk.pace < MUCH_SLOWER * earlier.pace and earlier.share < MOST:
                since = known[position:]
                return sum(later.refused for later in since) / sum(later.launched for later in since)
        return 0.0
