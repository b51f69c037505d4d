"""Is a difference no worse than a margin? Three answers, the third being that the data do not say.

H0 "the true difference is -margin or less" is rejected where the lower one-sided bound is above -margin: safe.
H0 "it is -margin or more" is rejected where the upper one-sided bound is below -margin: worse. Neither: undecided
(specs: non-inferiority; Schuirmann 1987 for the two one-sided tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .paired import ClusteredEstimate
from .power import ALPHA, POWER, required_n

Answer = Literal["safe", "worse", "undecided"]


@dataclass(frozen=True)
class NonInferiority:
    """What a paired difference says about a margin; bounds one-sided, p-values not adjusted."""

    answer: Answer
    lower: float
    upper: float
    p_safe: float
    """Of "the drop is the margin or more": small means safe."""
    p_worse: float
    """Of "the drop is the margin or less": small means worse."""
    needed: int | None
    """Questions that would decide, were the true difference the one seen; None if it sits on the margin."""


def non_inferiority(
    difference: ClusteredEstimate, margin: float, *, alpha: float = ALPHA, power: float = POWER, strict: bool = False
) -> NonInferiority:
    """`margin` >= 0 in the difference's unit. `strict`: any drop is worse, so the upper bound is held against 0."""
    limit = 0.0 if strict else -margin
    lower, upper = difference.lower(alpha), difference.upper(alpha)
    answer: Answer = "undecided"
    if upper < limit:  # first: under `strict` a small but certain drop is within the margin, too
        answer = "worse"
    elif lower > -margin:
        answer = "safe"
    needed = required_n(difference.n, difference.se, difference.value + margin, alpha=alpha, power=power)
    return NonInferiority(answer, lower, upper, difference.p_above(-margin), difference.p_below(limit), needed)
