"""The bootstrap's percentiles of a ratio of sums without drawing, as infinitely many resamples would give them.

>>> import numpy as np
>>> won = np.tile([0.0, 1.0], 50)
>>> [round(quantile, 3) for quantile in ratio_quantiles(won, np.ones(100), (-1.96, 1.96))]
[0.402, 0.598]

P*(A / B <= r) = P*(sum of (a - r b) <= 0) over resampled questions, and a sum of independent draws has a saddlepoint
approximation whose error here is far below the noise of 10,000 draws (Davison and Hinkley 1988, Biometrika 75, 417,
section 3; tail formula r* of Barndorff-Nielsen 1986). It needs no seed and almost no time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

FEWEST = 50
"""Number of questions below which a bootstrap's percentiles are too discrete to approximate, so they are drawn."""
MOST_SKEWED = 0.2
"""Skewness of the mean above which a few questions dominate, so the percentiles are drawn."""
STEPS = 30
TOLERANCE = 1e-6
"""Tolerance of a percentile, in standard normal units."""
NEAR_CENTRE = 1e-4
"""|z| below which the tail formula is 0 / 0 and its limit is used."""


def ratio_quantiles(above: FloatArray, below: FloatArray, normal: tuple[float, ...]) -> list[float] | None:
    """Return the bootstrap quantiles of sum(above) / sum(below); both of shape (questions,), `below` positive.

    `normal`: the quantiles' standard normal deviates, e.g. -1.96. None if the approximation is unreliable: few
    questions, a skewed sum, or no convergence.
    """
    n = len(above)
    ratio = float(above.sum() / below.sum())
    spread = above - ratio * below
    squares = float(spread @ spread)
    if n < FEWEST or np.any(below <= 0):
        return None
    if squares <= 1e-24 * float(above @ above + below @ below):
        return [ratio for _ in normal]
    skewness = float(np.sum(spread**3)) / squares**1.5
    if abs(skewness) > MOST_SKEWED:
        return None
    error = math.sqrt(squares) / float(below.sum())
    quantiles = [_quantile(above, below, ratio, error, skewness, z) for z in normal]
    return None if any(math.isnan(value) for value in quantiles) else quantiles


def _quantile(
    above: FloatArray, below: FloatArray, ratio: float, error: float, skewness: float, wanted: float
) -> float:
    """Return the r whose probability is that of a standard normal at `wanted`; NaN without convergence."""
    previous, before = ratio, skewness / 6.0  # the median's deviate is about a sixth of the skewness
    r = ratio + error * (wanted + skewness * (wanted**2 - 1.0) / 6.0)  # Cornish and Fisher's first term
    for _ in range(STEPS):
        z = _deviate(above - r * below, skewness)
        if abs(z - wanted) < TOLERANCE:
            return r
        slope = (z - before) / (r - previous) if r != previous else 1.0 / error
        if not slope > 0:
            return math.nan
        previous, before = r, z
        r -= (z - wanted) / slope
    return math.nan


def _deviate(values: FloatArray, skewness: float) -> float:
    """Return r*, P*(sum(values) <= 0) as a standard normal deviate; NaN if zero is outside the range of sums."""
    n, tilt = len(values), 0.0
    for _ in range(STEPS):
        weights = np.exp(tilt * values)
        total = float(weights.sum())
        mean = float(weights @ values) / total
        bend = float(weights @ values**2) / total - mean**2
        if not bend > 0 or not math.isfinite(total):
            return math.nan
        step = mean / bend
        tilt -= step
        if abs(step) * math.sqrt(bend) < 1e-10:
            break
    signed = math.copysign(math.sqrt(max(0.0, -2.0 * n * math.log(total / n))), tilt)
    if abs(signed) < NEAR_CENTRE:
        return skewness / 6.0
    return signed + math.log(tilt * math.sqrt(n * bend) / signed) / signed
