"""Intervals of linearised statistics with the question as the unit, as rows of one cluster may be correlated."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval
from .paired import t_quantile

CONFIDENCE = 0.95


def cluster_numbers(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number the clusters from 0 in the order of their first appearance; shape (rows,)."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)


def clustered_interval(value: float, influence: FloatArray, clusters: Sequence[Hashable]) -> Interval | None:
    """Return value +- t * SE with SE = sqrt(G/(G-1) * sum over clusters of (sum of influence)^2).

    None with fewer than two clusters. `influence`, shape (rows,): a row's first-order contribution to the estimate's
    error, in the estimate's own unit ((s_i - mean)/n for a mean). G clusters, G-1 degrees of freedom. Miller 2024
    (arXiv 2411.00640) appendix A, with the finite-cluster factor.
    """
    numbers = cluster_numbers(clusters)
    groups = int(numbers.max()) + 1 if len(numbers) else 0
    if groups < 2:
        return None
    sums = np.bincount(numbers, weights=influence, minlength=groups)
    se = float(np.sqrt(groups / (groups - 1) * np.sum(sums**2)))
    half = t_quantile(0.5 + CONFIDENCE / 2, groups - 1) * se
    return Interval(low=value - half, high=value + half, se=se)
