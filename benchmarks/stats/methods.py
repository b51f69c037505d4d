"""Methods that the product does not use, measured beside those it does: bootstrap of many models, BCa intervals, and
intervals of shares.

BCa: Efron 1987, JASA 82:171; Efron and Tibshirani 1993, chapter 14. With z0 = Phi^-1(share of replicates below the
estimate) and a = sum(l^3) / (6 (sum l^2)^1.5), l being the jackknife's mean less its values, the ends are the
percentiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) for z = -1.96 and 1.96.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from harness.stats.intervals import FloatArray, Interval, percentile_interval, resampling_weights

RESAMPLES = 10_000
"""The ends of an interval then move by about 0.02 standard errors."""


def ratio_replicates(above: FloatArray, below: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Replicates of sum(above) / sum(below), shape (resamples, models); both inputs of shape (questions, models).

    A replicate that draws no scored question of a model is NaN there.
    """
    questions, models = above.shape
    together = np.ascontiguousarray(np.concatenate([above, below], axis=1))
    found = np.empty((resamples, models))
    done = 0
    for weights in resampling_weights(questions, resamples, np.random.default_rng(seed)):
        sums = weights @ together
        with np.errstate(invalid="ignore", divide="ignore"):
            np.divide(sums[:, :models], sums[:, models:], out=found[done : done + len(weights)])
        done += len(weights)
    return found


def jackknife(above: FloatArray, below: FloatArray) -> FloatArray:
    """sum(above) / sum(below) with each question left out, shape (questions,)."""
    found: FloatArray = (above.sum() - above) / (below.sum() - below)
    return found


def bca_interval(estimate: float, replicates: FloatArray, left_out: FloatArray) -> Interval | None:
    """95 % BCa interval; `left_out` are the jackknife's values (questions,). None with fewer than two replicates.

    Ties with the estimate count half (heavy ties would shift z0 otherwise). Where all replicates lie on one side of the
    estimate the correction is unbounded, and the percentile interval is returned.
    """
    sound = replicates[np.isfinite(replicates)]
    plain = percentile_interval(sound)
    share = float(np.mean(sound < estimate) + np.mean(sound == estimate) / 2) if len(sound) else 0.0
    if plain is None or not 0 < share < 1:
        return plain
    shift = float(special.ndtri(share))
    apart = left_out.mean() - left_out
    spread = float(apart @ apart)
    bend = float((apart**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for z in special.ndtri([0.025, 0.975]):
        moved = shift + (shift + z) / (1 - bend * (shift + z))
        ends.append(100 * float(special.ndtr(moved)))
    low, high = np.percentile(sound, ends)
    return Interval(low=float(low), high=float(high), se=plain.se)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share, in [0, 1] (Wilson 1927): the shares that a score test does not reject.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). All of [0, 1] for n = 0.
    """
    if n == 0:
        return 0.0, 1.0
    z = float(special.ndtri(0.5 + level / 2))
    p = successes / n
    middle = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
