"""Exact and resampling tests for paired data, and the adjustment of p-values for several tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .intervals import FloatArray

FLIPS = 10_000
CELLS = 2_000_000
"""Signs drawn at a time."""
SMALLEST = 1e-12


def swap_test(
    first: tuple[FloatArray, FloatArray],
    second: tuple[FloatArray, FloatArray],
    *,
    flips: int = FLIPS,
    seed: int = 0,
) -> float:
    """Return the two-sided permutation p of "the two models are exchangeable", swapping their answers by cluster.

    Each is (above, below) of shape (clusters,), already summed within a cluster; the statistic is the difference of the
    two ratios. p = (1 + swaps at least as far from 0 as the observed value) / (flips + 1), so it is never 0 and the
    test is exact (Phipson and Smyth 2010, arXiv 1603.05766). With below = 1 it is the sign-flip test of the
    differences.
    """
    rng = np.random.default_rng(seed)
    seen = abs(first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum())
    totals = np.array([part.sum() for part in (*first, *second)])
    change = np.column_stack([second[0] - first[0], second[1] - first[1]])
    clusters, done, hits = len(change), 0, 0
    block = max(1, CELLS // max(1, clusters))
    while done < flips:
        rows = min(block, flips - done)
        moved = rng.integers(0, 2, size=(rows, clusters), dtype=np.int8).astype(np.float64) @ change
        with np.errstate(invalid="ignore", divide="ignore"):
            first_ratio = (totals[0] + moved[:, 0]) / (totals[1] + moved[:, 1])
            second_ratio = (totals[2] - moved[:, 0]) / (totals[3] - moved[:, 1])
            hits += int(np.sum(~(np.abs(first_ratio - second_ratio) < seen - SMALLEST)))  # NaN counts against us
        done += rows
    return (1 + hits) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted to bound the chance of any false alarm (Holm 1979): max over j <= i of (m - j) p_(j)."""
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted, highest = [0.0] * count, 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (count - rank) * float(p_values[at])))
        adjusted[at] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted to bound the expected share of false alarms: min over j >= i of m p_(j) / j.

    Benjamini and Hochberg 1995.
    """
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted, lowest = [0.0] * count, 1.0
    for rank in range(count - 1, -1, -1):
        lowest = min(lowest, count * float(p_values[order[rank]]) / (rank + 1))
        adjusted[order[rank]] = lowest
    return adjusted


def two_sided_p(replicates: FloatArray, estimate: float) -> float:
    """Return the normal two-sided p of "the true value is 0" for a refitted statistic, from its replicates' spread."""
    sound = replicates[np.isfinite(replicates)]
    spread = float(np.std(sound, ddof=1)) if len(sound) > 1 else 0.0
    if spread == 0:
        return 1.0 if estimate == 0 else 0.0
    return math.erfc(abs(estimate) / spread / math.sqrt(2))
