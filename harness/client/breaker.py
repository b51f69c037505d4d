"""Decide whether an endpoint is still worth asking. Pure, like `pace`."""

from __future__ import annotations

TRIP = 8
"""Failures in a row, with no answer between them, after which the endpoint is only probed: one call at a time."""
PROBE_SECONDS = (0.5, 10.0)
"""Least and longest wait before a probe, which is half the time that the endpoint has been down."""
NEVER_WELL = 0.25
"""Share of the patience for an endpoint that has never answered: its address is probably wrong."""
REFUSED_PATIENCE = 900.0
"""Seconds of nothing but 429s after which a run stops."""


class Breaker:
    """Counts failures since the last answer. `patience`: seconds an endpoint may stay down; None: forever."""

    def __init__(self, patience: float | None) -> None:
        self.patience = patience
        self.failures = 0
        self._since = 0.0
        self._refused_since: float | None = None
        self._was_well = False

    @property
    def is_tripped(self) -> bool:
        return self.patience is not None and self.failures >= TRIP

    def taken(self) -> None:
        self.failures = 0
        self._refused_since = None
        self._was_well = True

    def failed(self, now: float) -> None:
        if self.failures == 0:
            self._since = now
        self.failures += 1

    def refused(self, now: float) -> None:
        """Note a 429, which shows that the endpoint is up."""
        self.failures = 0
        if self._refused_since is None:
            self._refused_since = now

    def hold(self, now: float) -> float:
        """Return the seconds until the next probe; 0 while not tripped."""
        least, most = PROBE_SECONDS
        return min(most, max(least, (now - self._since) / 2)) if self.is_tripped else 0.0

    def down_for(self, now: float) -> float | None:
        """Return the seconds it has been down if that exceeds the patience, else None."""
        if self.patience is None:
            return None
        if self.is_tripped:
            seconds = now - self._since
            return seconds if seconds >= self.patience * (1.0 if self._was_well else NEVER_WELL) else None
        seconds = 0.0 if self._refused_since is None else now - self._refused_since
        return seconds if seconds >= max(REFUSED_PATIENCE, self.patience) else None
