"""Test a difference after each question without inflating errors: the normal mixture's confidence sequence.

>>> bounds = one_sided_bounds(100, value=0.1, se=0.02, planned=200)
>>> round(bounds.low, 3), round(bounds.high, 3)
(0.044, 0.156)

The mixture sequential probability ratio test (Robbins 1970; Johari, Pekelis and Walsh, arXiv 1512.04922) puts a normal
prior of variance tau^2 on the difference; Lambda_n of a difference d0 from terms of mean dbar and variance v is

    Lambda_n = sqrt(v / (v + n tau^2)) * exp( n^2 tau^2 (dbar - d0)^2 / (2 v (v + n tau^2)) )

and reaches 1 / alpha with a probability of at most alpha if d0 is true, at whatever n one stops. The values that it
does not reject are the confidence sequence dbar +- sqrt( v (v + n tau^2) / (n^2 tau^2) * ln((v + n tau^2) / (v
alpha^2)) ).

v is estimated from the questions so far, so the guarantee is asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, arXiv 2103.06476); the test waits for `FIRST` questions. The order of the questions must be independent of
their answers (here: shuffled by seed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 40
"""Least questions before a verdict, as the variance must be roughly known (`make bench-stats` measures it)."""


@dataclass(frozen=True)
class Bounds:
    """The confidence sequence after n questions, in the unit of the terms."""

    n: int
    low: float
    high: float


def best_ratio(n: int, alpha: float) -> float:
    """Return the tau^2 / v for which the sequence is narrowest at n questions.

    (-2 ln alpha + ln(-2 ln alpha + 1)) / n (arXiv 2103.06476, appendix B.2).
    """
    c = -2 * math.log(alpha)
    return (c + math.log(c + 1)) / n


def one_sided_half_width(n: int, variance: float, ratio: float, alpha: float) -> float:
    """Return the distance from the mean to a one-sided bound, which holds at every n with probability 1 - alpha.

    The prior is the half of the normal on that side (arXiv 2103.06476, appendix B.1):
    sqrt( 2 v (1 + n ratio) / (n^2 ratio) * ln(1 + sqrt(1 + n ratio) / (2 alpha)) ).
    """
    grown = 1 + n * ratio
    return math.sqrt(2 * variance * grown / (n * n * ratio) * math.log1p(math.sqrt(grown) / (2 * alpha)))


def one_sided_bounds(
    n: int, value: float, se: float, *, planned: int, alpha_low: float = 0.05, alpha_high: float = 0.05
) -> Bounds:
    """Return a lower and an upper bound, each with its own level at every n simultaneously.

    value, se: the estimate from the first n questions and its standard error (sqrt(v / n)); `planned`: total number of
    questions; the bounds are narrowest at half of them. Infinite before `FIRST` questions.
    """
    if n < FIRST:
        return Bounds(n, -math.inf, math.inf)
    # a one-sided bound at alpha is about as wide as a two-sided one at 2 alpha, whose best prior is known
    tuned, variance = max(FIRST, planned // 2), se * se * n
    down, up = (
        one_sided_half_width(n, variance, best_ratio(tuned, 2 * alpha), alpha) for alpha in (alpha_low, alpha_high)
    )
    return Bounds(n, value - down, value + up)
