"""One tool's figures on the common task."""

from __future__ import annotations

from dataclasses import dataclass

COUNT = 805
PLACES = 64


@dataclass(frozen=True)
class Side:
    """`missing` says why there are no figures."""

    name: str
    calls: int = 0
    wall: float = 0.0
    """Seconds from the first call to the last, as the server saw them."""
    cpu_per_call: float = 0.0
    """Milliseconds of processor time a call, beyond start-up."""
    memory: float = 0.0
    """MB at the peak."""
    connections: float = 0.0
    missing: str | None = None
