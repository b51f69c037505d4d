"""Test whether the same answers get other verdicts than before: a paired test over questions. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from .clustered import clustered_interval
from .intervals import FloatArray, Interval

ALPHA = 0.01
"""Chance of a false alarm. Every run makes a check, and 5 % would be one alarm in twenty runs."""
POWER = 0.8


@dataclass(frozen=True)
class PairedShift:
    """The mean of paired differences, in their own unit."""

    value: float
    interval: Interval | None
    """95 %; None with fewer than two questions."""
    p: float | None
    """Two-sided paired t-test that the mean is 0, questions as the unit; None with fewer than two."""
    detectable: float | None
    """Mean that the test at `ALPHA` detects with a probability of `POWER`; None if all differences are equal."""


def shift(differences: FloatArray, questions: Sequence[Hashable]) -> PairedShift | None:
    """Return the mean of `differences` (now minus before), shape (rows,), over each row's question; None without
    rows."""
    from scipy import special

    n = len(differences)
    if not n:
        return None
    value = float(differences.mean())
    interval = clustered_interval(value, (differences - value) / n, questions)
    if interval is None:
        return PairedShift(value, None, None, None)
    if interval.se < 1e-12 * max(1.0, abs(value)):  # all equal: the shift is certain, or there is none
        return PairedShift(value, interval, 0.0 if value else 1.0, None)
    freedom = len(set(questions)) - 1
    p = 2 * float(special.stdtr(freedom, -abs(value) / interval.se))
    detectable = float(special.ndtri(1 - ALPHA / 2) + special.ndtri(POWER)) * interval.se
    return PairedShift(value, interval, p if math.isfinite(p) else None, detectable)
