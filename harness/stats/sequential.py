"""Test a difference at several planned looks without inflating errors: group-sequential boundaries.

>>> [round(bound, 3) for bound in boundaries((1 / 3, 2 / 3, 1.0), alpha=0.05)]
[3.2, 2.141, 1.695]
>>> from harness.stats.paired import student_bound
>>> round(student_bound(2.141, df=59), 3)
2.193

The level spent up to a share t of the questions is alpha*(t) = 2 (1 - Phi(z_(1 - alpha/2) / sqrt(t))): almost nothing
at early looks, all of alpha at the last (Lan and DeMets 1983, the O'Brien-Fleming type). The statistic at a share t is
Brownian motion S(t) over sqrt(t), and a boundary c_k is the value for which, S having stayed below every earlier one,
S(t_k) exceeds c_k sqrt(t_k) with the probability newly spent (Armitage, McPherson and Rowe 1969; Jennison and Turnbull
2000, chapter 19). The order of the questions must be independent of their answers (here: shuffled by seed).

The variance is estimated from the questions so far, hence `student_bound`: with normal boundaries, a drop of just the
margin passes MT-Bench's 80 questions in 9 % of cases; with these in 6 to 7 %, like the test of fixed size
(`make bench-gate`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .intervals import FloatArray
from .paired import normal_quantile

FIRST = 40
"""Least questions before a verdict, as the variance must be roughly known."""
GRID = 300
"""Points over which the density of the sum is integrated; with 2,400 no boundary moves by more than 1e-5."""
FAR = 8.0
"""Standard deviations below the mean beyond which the density is 0 (6e-16)."""


def spent(share: float, alpha: float) -> float:
    """Return the one-sided level spent when `share` (0..1) of the questions are judged."""
    if share >= 1:
        return alpha
    return math.erfc(-normal_quantile(alpha / 2) / math.sqrt(2 * share))


@lru_cache(maxsize=64)
def boundaries(shares: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    """Return the one-sided boundary of the normal statistic at each look. `shares` rise to the last look's 1.

    Raise ValueError if they do not rise, or one is outside 0..1.
    """
    if not shares or any(later <= earlier for earlier, later in zip((0.0, *shares), shares, strict=False)):
        raise ValueError(f"the shares of the looks must rise from above 0: {shares}")
    if shares[-1] > 1:
        raise ValueError(f"the share of the last look is above 1: {shares[-1]}")
    bounds: list[float] = []
    sums, density = np.zeros(1), np.ones(1)  # S(0) = 0, with certainty
    before, so_far = 0.0, 0.0
    for share in shares:
        level = spent(share, alpha) - so_far
        so_far += level
        step = math.sqrt(share - before)
        bound = _bound(sums, density, step, level)
        bounds.append(bound / math.sqrt(share))
        sums, density = _continued(sums, density, step, share, bound)
        before = share
    return tuple(bounds)


def _bound(sums: FloatArray, density: FloatArray, step: float, level: float) -> float:
    """Return the value that the next sum exceeds with probability `level`. `density` includes the grid's weights."""
    from scipy import optimize, special

    def excess(value: float) -> float:
        return float(density @ special.ndtr((sums - value) / step)) - level

    high = float(sums.max()) + 40 * step
    return float(optimize.brentq(excess, float(sums.min()), high, xtol=1e-10))


def _continued(
    sums: FloatArray, density: FloatArray, step: float, share: float, bound: float
) -> tuple[FloatArray, FloatArray]:
    """Return a grid of the next sum below `bound`, and its density times the weights of Simpson's rule."""
    grid = np.linspace(-FAR * math.sqrt(share), bound, GRID + 1)
    weights = np.full(GRID + 1, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    weights *= (grid[1] - grid[0]) / 3
    kernel = np.exp(-0.5 * ((grid[:, None] - sums[None, :]) / step) ** 2) / (step * math.sqrt(2 * math.pi))
    return grid, (kernel @ density) * weights
