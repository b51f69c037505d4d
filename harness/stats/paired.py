"""Standard errors over clusters, of one ratio and of the difference of two: t intervals, p-values.

A statistic is r = sum(above) / sum(below) with one row per question; a mean is the case below = 1. Its linearised terms
u_i = (above_i - r * below_i) / mean(below) sum to zero, and

    SE = sqrt( G / (G - 1) * sum over clusters of (sum of u_i in the cluster)^2 ) / n,   df = G - 1

(Miller 2024, arXiv 2411.00640, appendix A, with the finite-cluster factor G / (G - 1); Cochran 1977, section 6.3 for
ratios). The terms of a paired difference are the difference of the terms, so that common variation cancels. Without
clusters each question is its own, and with below = 1 the paired difference is the paired t test.

Limits: it needs two clusters, and the first-order linearisation is good from about 30 questions (`make bench-stats`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import FloatArray


@dataclass(frozen=True)
class ClusteredEstimate:
    """A value with its standard error, in the value's unit, and the degrees of freedom of that error."""

    value: float
    se: float
    df: int
    n: int
    """Number of questions."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided t interval."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se
        return self.value - half, self.value + half

    def lower(self, alpha: float) -> float:
        """Return the one-sided lower bound with confidence 1 - alpha."""
        return self.value - t_quantile(1 - alpha, self.df) * self.se

    def upper(self, alpha: float) -> float:
        """Return the one-sided upper bound with confidence 1 - alpha."""
        return self.value + t_quantile(1 - alpha, self.df) * self.se

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of "the true value is at least `bound`" against "it is below"."""
        return _t_cdf(self.value - bound, self.se, self.df)

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of "the true value is at most `bound`" against "it is above"."""
        return _t_cdf(bound - self.value, self.se, self.df)

    def p_two_sided(self) -> float:
        """Two-sided p of "the true value is 0"."""
        return min(1.0, 2 * min(self.p_below(0.0), self.p_above(0.0)))


def t_quantile(level: float, df: int) -> float:
    """Return the quantile of Student's t; `df` of 0 or less means infinitely many (normal)."""
    from scipy import special

    return float(special.ndtri(level) if df <= 0 else special.stdtrit(df, level))


def _t_cdf(distance: float, se: float, df: int) -> float:
    from scipy import special

    if se == 0:  # no spread at all: certain, or exactly at the bound
        return 0.5 if distance == 0 else float(distance > 0)
    return float(special.ndtr(distance / se) if df <= 0 else special.stdtr(df, distance / se))


def terms(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return the linearised terms of sum(above) / sum(below), shape (questions,); their sum is zero."""
    ratio = above.sum() / below.sum()
    linearised: FloatArray = (above - ratio * below) / below.mean()
    return linearised


def clustered_se(centred: FloatArray, clusters: Sequence[Hashable] | None = None) -> tuple[float, int]:
    """Return the standard error of a mean with terms minus mean `centred` (questions,), and its degrees of freedom.

    Raise ValueError if there are fewer than two clusters.
    """
    sums = centred if clusters is None else cluster_sums(centred, clusters)
    groups = len(sums)
    if groups < 2:
        raise ValueError("a standard error needs at least two clusters")
    return math.sqrt(groups / (groups - 1) * float(sums @ sums)) / len(centred), groups - 1


def cluster_sums(values: FloatArray, clusters: Sequence[Hashable]) -> FloatArray:
    """Return the sum of the values of each cluster, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    at = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums: FloatArray = np.bincount(at, values, len(numbers)).astype(np.float64)
    return sums


def ratio_estimate(
    above: FloatArray, below: FloatArray, *, clusters: Sequence[Hashable] | None = None, scale: float = 1.0
) -> ClusteredEstimate | None:
    """Return scale * sum(above) / sum(below) with its clustered error; None with fewer than two questions or
    clusters."""
    if _too_few(len(above), clusters):
        return None
    se, df = clustered_se(terms(above, below), clusters)
    return ClusteredEstimate(scale * float(above.sum() / below.sum()), scale * se, df, len(above))


def paired_difference(
    first: tuple[FloatArray, FloatArray],
    second: tuple[FloatArray, FloatArray],
    *,
    clusters: Sequence[Hashable] | None = None,
    scale: float = 1.0,
) -> ClusteredEstimate | None:
    """Return the ratio of `first` minus that of `second`, each (above, below) over the same questions in the same
    order.

    None with fewer than two questions or clusters.
    """
    if _too_few(len(first[0]), clusters):
        return None
    se, df = clustered_se(terms(*first) - terms(*second), clusters)
    value = first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum()
    return ClusteredEstimate(scale * float(value), scale * se, df, len(first[0]))


def _too_few(questions: int, clusters: Sequence[Hashable] | None) -> bool:
    return questions < 2 or (clusters is not None and len(set(clusters)) < 2)


def correlation(first: FloatArray, second: FloatArray) -> float | None:
    """Return Pearson's correlation of two models' question scores; None if one has no spread.

    The higher it is, the more pairing reduces var(a - b).
    """
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])
