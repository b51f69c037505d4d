"""Exact and resampling tests for paired data, and what several tests at once do to their p-values."""

from __future__ import annotations

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
    """Two-sided permutation p of "the two models are exchangeable": whose answer is whose is swapped by cluster.

    Each is (above, below) of shape (clusters,), already summed within a cluster; the statistic is the difference of the
    two ratios. p = (1 + swaps at least as far from 0 as what was seen) / (flips + 1), so it is never 0 and the test is
    exact (Phipson and Smyth 2010, arXiv 1603.05766). With below = 1 it is the sign-flip test of the differences.
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
            ours = (totals[0] + moved[:, 0]) / (totals[1] + moved[:, 1])
            theirs = (totals[2] - moved[:, 0]) / (totals[3] - moved[:, 1])
            hits += int(np.sum(~(np.abs(ours - theirs) < seen - SMALLEST)))  # NaN counts against us
        done += rows
    return (1 + hits) / (flips + 1)


def mcnemar(only_first: int, only_second: int, *, mid_p: bool = False) -> float:
    """Two-sided exact p that wins on discordant pairs are even: b ~ Binomial(b + c, 1/2) (McNemar 1947).

    `mid_p` counts the observed outcome half: closer to the nominal rate, no longer guaranteed (Fagerland, Lydersen and
    Laake 2013, doi 10.1186/1471-2288-13-91).
    """

    from scipy import special

    total, least = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    tail = float(special.bdtr(least, total, 0.5))
    at = float(special.bdtr(least, total, 0.5) - (special.bdtr(least - 1, total, 0.5) if least else 0.0))
    return min(1.0, 2 * (tail - at / 2 if mid_p else tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the chance of any false alarm (Holm 1979): max over j <= i of (m - j) p_(j)."""
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted, highest = [0.0] * count, 0.0
    for place, at in enumerate(order):
        highest = max(highest, min(1.0, (count - place) * float(p_values[at])))
        adjusted[at] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that bound the expected share of false ones among alarms (Benjamini and Hochberg 1995):
    min over j >= i of m p_(j) / j."""
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted, lowest = [0.0] * count, 1.0
    for place in range(count - 1, -1, -1):
        lowest = min(lowest, count * float(p_values[order[place]]) / (place + 1))
        adjusted[order[place]] = lowest
    return adjusted
