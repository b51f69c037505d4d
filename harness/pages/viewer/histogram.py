"""How the scores of a list are spread: bars that are also filters. Pure.

>>> [(bar.label, bar.count) for bar in bars([0.0, 50.0, 50.0, 100.0], signed=False)]
[('0', 1), ('50', 2), ('100', 1)]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

VALUES = 20
"""Different scores up to which each has a bar of its own: both games of a question give 5, two ratings of ten 19."""
BARS = 10
"""Bars, at most, of scores that differ more."""
HEIGHT = 72.0
"""Pixels of the highest bar."""


@dataclass(frozen=True)
class ScoreRange:
    """Scores from `low` to below `high`; a single score if both are equal. The highest score belongs to the last range.

    In an address: `7..8` or `50`.
    """

    low: float
    high: float

    @classmethod
    def of(cls, text: str) -> ScoreRange | None:
        """Read a range from an address; None if it is none."""
        low, _, high = text.partition("..")
        try:
            limits = float(low), float(high or low)
        except ValueError:
            return None
        return cls(*limits) if all(map(math.isfinite, limits)) else None

    def __str__(self) -> str:
        return f"{self.low:.6g}" if self.low == self.high else f"{self.low:.6g}..{self.high:.6g}"

    def contains(self, score: float | None, top: float) -> bool:
        """Return whether a score belongs here; `top`: the highest score of the list."""
        if score is None:
            return False
        if self.low == self.high:
            return math.isclose(score, self.low, rel_tol=1e-5, abs_tol=1e-6)  # an address has six digits
        return self.low <= score < self.high or score == self.high == top


@dataclass(frozen=True)
class Bar:
    range: ScoreRange
    count: int
    height: float
    """Pixels; at least one if there is any question."""
    signed: bool

    @property
    def label(self) -> str:
        """Return `7 to 8`, or the one score; differences have their sign."""
        limits = dict.fromkeys((self.range.low, self.range.high))
        return " to ".join(map(self._text, limits))

    @property
    def short(self) -> str:
        """Return the label under the bar: where its range begins."""
        return self._text(self.range.low) + ("" if self.range.low == self.range.high else "–")

    def _text(self, limit: float) -> str:
        return f"{limit:+.4g}" if self.signed and limit else f"{limit:.4g}"


def bars(scores: Sequence[float | None], *, signed: bool) -> list[Bar]:
    """Return a bar per score, or per range if there are more than `VALUES`; nothing without a score."""
    known = [round(score, 6) for score in scores if score is not None]
    counts = Counter(known)
    ranges = [ScoreRange(score, score) for score in sorted(counts)]
    if len(ranges) > VALUES:
        ranges = _ranges(min(known), max(known))
    top = max(known, default=0.0)
    numbers = [sum(number for score, number in counts.items() if part.contains(score, top)) for part in ranges]
    scale = HEIGHT / max(numbers, default=1)
    return [
        Bar(part, number, max(scale * number, float(number > 0)), signed)
        for part, number in zip(ranges, numbers, strict=True)
    ]


def _ranges(low: float, high: float) -> list[ScoreRange]:
    """Return equal ranges between round numbers, in steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / BARS))
    step = next(
        power * factor
        for factor in (1, 2, 5, 10, 20)
        if math.ceil(high / (power * factor)) - math.floor(low / (power * factor)) <= BARS
    )
    first, last = math.floor(low / step), math.ceil(high / step)
    edges = [round(step * number, 10) for number in range(first, last + 1)]
    return [ScoreRange(start, end) for start, end in pairwise(edges)]
