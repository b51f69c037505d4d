"""Decide whether the next call to an endpoint may go out, by places in flight, pace, and limits of user and server.

Pure, like `pace`. A call ends in one of three ways: taken, refused (429), failed (no answer, or a 5xx).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .headers import RateLimitHints
from .pace import Bucket, Pace, RefusalKind


@dataclass(frozen=True)
class Launch:
    """One request on its way."""

    at: float
    tokens: float
    """Estimated cost."""
    number: int
    """Launches so far, this one among them."""
    tokens_so_far: float


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
        self._taken = 0
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
        """Return the seconds until a call of so many tokens may go out: 0 for now, infinity if another must end
        first."""
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
        self._taken += 1
        self._taken_since_refusal = True
        if is_bound and self.limit < self.ceiling:
            # one more place per round of calls, less in the first rounds after a decrease
            step = min(1.0, self._taken / (8 * self.limit)) / self.limit
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
        if (hints.retry_after or 0.0) > 1 and launch.at < self._announced:
            # asked within an announced wait and refused again: the announcement applies to all calls
            self.held_until = max(self.held_until, self._announced)
        if hints.retry_after is not None:
            self._announced = max(self._announced, now + hints.retry_after)
        if self.pace is not None and self.pace.refused(launch.number, launch.at, now) is RefusalKind.NEW:
            self._cut(launch, now, keep=self.in_flight)

    def failed(self, launch: Launch, now: float) -> None:
        """Note a call without an answer, a broken connection or a 5xx: the endpoint is overloaded or broken."""
        self.in_flight -= 1
        self._cut(launch, now, keep=1)

    def dropped(self) -> None:
        """Note that the caller gave up, from which nothing is learned."""
        self.in_flight -= 1

    def hold(self, now: float, seconds: float) -> None:
        """Send nothing for so many seconds."""
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
        if self.pace is None or launch.at < self._cut_at:
            return
        self.limit = max(1.0, float(keep), self.limit / 2)
        self._cut_at = now
        self._taken = 0
