"""Test whether a difference is no worse than a margin. The answer is safe, worse or undecided.

H0 "the true difference is -margin or less" is rejected if the lower one-sided bound is above -margin: safe.
H0 "it is -margin or more" is rejected if the upper one-sided bound is below -margin: worse. Neither: undecided
(Schuirmann 1987 for the two one-sided tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .paired import ClusteredEstimate
from .power import ALPHA, POWER, required_n

Answer = Literal["safe", "worse", "undecided"]


@dataclass(frozen=True)
class NonInferiority:
    """A paired difference compared with a margin; bounds are one-sided, p-values not adjusted."""

    answer: Answer
    lower: float
    upper: float
    p_safe: float
    """p-value of "the drop is the margin or more": small means safe."""
    p_worse: float
    """p-value of "the drop is the margin or less": small means worse."""
    needed: int | None
    """Questions needed for a decision if the true difference is the observed one; None if that equals the margin."""


def non_inferiority(
    difference: ClusteredEstimate, margin: float, *, alpha: float = ALPHA, power: float = POWER, strict: bool = False
) -> NonInferiority:
    """Compare a difference with `margin` >= 0 in its unit. `strict`: any drop is worse, so the upper limit is 0."""
    limit = 0.0 if strict else -margin
    lower, upper = difference.lower(alpha), difference.upper(alpha)
    answer: Answer = "undecided"
    if upper < limit:  # tested first: under `strict` a small but certain drop is within the margin, too
        answer = "worse"
    elif lower > -margin:
        answer = "safe"
    needed = required_n(difference.n, difference.se, difference.value + margin, alpha=alpha, power=power)
    return NonInferiority(answer, lower, upper, difference.p_above(-margin), difference.p_below(limit), needed)
