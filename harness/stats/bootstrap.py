"""Bootstrap over questions, many statistics at once: one set of multinomial weights serves all models.

A replicate draws n questions with replacement, which is a weight w_q = how often question q was drawn, with
w ~ Multinomial(n, 1/n). A ratio's replicate is (w . above) / (w . below), so that all replicates of all models are two
matrix products. Sharing the weights pairs the models: the difference of two columns is a paired bootstrap.

Intervals: percentile, and BCa (Efron 1987, JASA 82:171; Efron and Tibshirani 1993, chapter 14):
z0 = Phi^-1(share of replicates below the estimate), a = sum(l^3) / (6 (sum l^2)^1.5) with l the jackknife's mean less
its values, and the ends are the percentiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) for z = -1.96 and 1.96.
"""

from __future__ import annotations

import math

import numpy as np

from .intervals import RESAMPLES, FloatArray, Interval, percentile_interval, resampling_weights


def ratio_replicates(above: FloatArray, below: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Replicates of sum(above) / sum(below), shape (resamples, models); both inputs of shape (questions, models).

    A replicate that draws no scored question of a model is NaN there. Draws are those of `intervals.ratio_interval`.
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

    from scipy import special

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


def two_sided_p(replicates: FloatArray, estimate: float) -> float:
    """Normal two-sided p of "the true value is 0", by the replicates' standard deviation; for refitted statistics."""
    sound = replicates[np.isfinite(replicates)]
    spread = float(np.std(sound, ddof=1)) if len(sound) > 1 else 0.0
    if spread == 0:
        return 1.0 if estimate == 0 else 0.0
    return math.erfc(abs(estimate) / spread / math.sqrt(2))
