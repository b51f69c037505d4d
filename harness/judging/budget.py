"""`--max-cost`: a limit on what the calls of one run cost together. A call starts only if its worst case still fits.

Calls in flight are never cancelled to save money. Calls that do not fit wait until others have ended below their
reserved cost; if none is left in flight, the run stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..errors import BudgetReachedError

ROUNDING = 1e-9
"""Rounding error, in US dollars, of sums of prices."""

GRACE = 0.25
"""Seconds between the last call and the end of the run, in which that call's judgment is written."""


@dataclass
class Charge:
    """The reserved and then the actual cost of one call, in US dollars. A failed call counts as free."""

    dollars: float = 0.0


class Budget:
    """The money of one run; without a limit it is not consulted."""

    def __init__(self, limit: float | None = None, *, waves: int | None = None) -> None:
        """`waves`: how often all calls in flight may end while others still wait for room; None: no limit.

        The rest of a batch fills a smaller batch, and so on, and each takes up to a day.
        """
        self.limit = limit
        self._waves = waves is not None
        self._waves_left = waves or 0
        self._closed = False
        """Whether no call starts before all in flight have ended."""
        self.spent = 0.0
        """US dollars spent, earlier sessions of the run included."""
        self._set_aside = 0.0
        self._in_flight = 0
        self._ended = 0
        self._stopped = False
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def charge(self, most: float) -> AsyncIterator[Charge]:
        """Reserve `most` for the duration of one call; the caller writes the true cost into the charge."""
        await self._wait_for(most)
        self._in_flight += 1
        self._set_aside += most
        charge = Charge()
        try:
            yield charge
        finally:
            self._in_flight -= 1
            self._ended += 1
            self._set_aside = (
                self._set_aside - most if self._in_flight else 0.0
            )  # so that rounding errors do not add up
            if not self._in_flight and self._closed:
                self._waves_left -= 1
                self._closed = self._waves_left <= 0
            self.spent += charge.dollars
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiting.clear()

    async def _wait_for(self, most: float) -> None:
        while self._stopped or self._closed or not self._fits(most):
            self._closed = self._waves
            if self._stopped or await self._is_still():
                self._stopped = True  # smaller calls that would fit stop too: they would be cancelled when the run ends
                raise BudgetReachedError(
                    f"stopped before crossing --max-cost {dollars(self.limit or 0)}: {dollars(self.spent)} paid for "
                    f"this run so far, and the next call may cost up to {dollars(most)}; nothing is lost: the same "
                    "command with a higher --max-cost resumes from there"
                )

    def _fits(self, most: float) -> bool:
        return self.limit is None or self.spent + self._set_aside + most <= self.limit + ROUNDING

    async def _is_still(self) -> bool:
        """Wait until a call ends, and return whether the run is idle.

        True: none was in flight, and none started or ended in the time that writing a judgment takes.
        """
        if self._in_flight:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
            return False
        ended = self._ended
        await asyncio.sleep(GRACE)
        return not self._in_flight and self._ended == ended


def dollars(amount: float) -> str:
    """Return `$12.34`, or as many digits as a small amount needs: `$0.0012`."""
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.2g}" if amount < 0.01 else f"${amount:.3f}"
