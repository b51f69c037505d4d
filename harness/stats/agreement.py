"""Measure how far judges agree: raw, beyond chance (kappa, alpha), between the two orders, between repeats. Pure.

A verdict is any hashable label ("first", "tie", 0.5, …). Only equality matters, except for alpha's interval metric.
Intervals are 95 %, with a row's cluster (its question) as the unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .clustered import CONFIDENCE, clustered_interval
from .intervals import FloatArray, Interval
from .paired import t_quantile


@dataclass(frozen=True)
class Measure:
    """An estimate with its interval; `value` is None if the rows do not define it."""

    value: float | None
    interval: Interval | None
    n: int
    """Number of rows."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges' verdicts on the same items."""

    raw: Measure
    """Share of equal verdicts, 0..1."""
    kappa: Measure
    """Cohen's kappa, -1..1: 0 is chance given both judges' frequencies. None if both always give the same verdict."""


def agreement(
    first: Sequence[Hashable], second: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> Agreement:
    """Return raw agreement and Cohen's kappa of paired verdicts. Without `clusters` every row is its own
    cluster."""
    units = range(len(first)) if clusters is None else clusters
    same = np.array([left == right for left, right in zip(first, second, strict=True)], dtype=np.float64)
    return Agreement(raw=share_measure(same, units), kappa=_kappa(first, second, same, units))


def mean_measure(values: FloatArray, clusters: Sequence[Hashable]) -> Measure:
    """Return the mean of `values`, shape (rows,), with its clustered interval."""
    n = len(values)
    if not n:
        return Measure(None, None, 0)
    mean = float(values.mean())
    return Measure(mean, clustered_interval(mean, (values - mean) / n, clusters), n)


def share_measure(values: FloatArray, clusters: Sequence[Hashable]) -> Measure:
    """Return the mean of `values` within 0..1, shape (rows,), with an interval that stays there.

    Wilson's interval of the effective number of rows p(1 - p)/SE^2 (Korn and Graubard 1998 do so for
    Clopper-Pearson's), with the clustered SE and Student's t for z. If all rows are 0 or all are 1, a cluster counts as
    one row.
    """
    mean = mean_measure(values, clusters)
    if mean.value is None or mean.interval is None:
        return mean
    p, se, groups = mean.value, mean.interval.se, len(set(clusters))
    rows = p * (1 - p) / se**2 if se > 0 else groups
    t2 = t_quantile(0.5 + CONFIDENCE / 2, groups - 1) ** 2
    centre = (p + t2 / (2 * rows)) / (1 + t2 / rows)
    half = float(np.sqrt(t2 * (p * (1 - p) + t2 / (4 * rows)) / rows)) / (1 + t2 / rows)
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return Measure(p, Interval(low=low, high=high, se=se), mean.n)


def _kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], same: FloatArray, clusters: Sequence[Hashable]
) -> Measure:
    """Return Cohen's kappa = (po - pe) / (1 - pe).

    A row's influence is the derivative of kappa at its cell, [d(1 - pe) - (1 - po)(p_.i + p_j.)] / (1 - pe)^2, centred;
    with one row per cluster this gives the large-sample variance of Fleiss, Cohen and Everitt 1969 (eq. 13), except for
    the factor G/(G-1).
    """
    n = len(first)
    if not n:
        return Measure(None, None, 0)
    first_counts, second_counts = Counter(first), Counter(second)
    expected = sum(first_counts[label] * second_counts[label] for label in first_counts) / n**2
    if expected == 1.0:
        return Measure(None, None, n)
    observed = float(same.mean())
    value = (observed - expected) / (1 - expected)
    margins = np.array(
        [(second_counts[left] + first_counts[right]) / n for left, right in zip(first, second, strict=True)]
    )
    slope = (same * (1 - expected) - (1 - observed) * margins) / (1 - expected) ** 2
    interval = clustered_interval(value, (slope - slope.mean()) / n, clusters)
    if interval is not None:
        interval = Interval(low=max(-1.0, interval.low), high=min(1.0, interval.high), se=interval.se)
    return Measure(value, interval, n)


def krippendorff_alpha(units: Sequence[Sequence[Hashable]], *, interval_metric: bool = False) -> float | None:
    """Return Krippendorff's alpha = 1 - Do/De of any number of raters; a unit lists its verdicts, without missing ones.

    Nominal metric, or squared differences of numbers (`interval_metric`). Units with one verdict are ignored.
    None if fewer than two verdicts can be paired or all are the same. Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability, sections C and D.
    """
    paired = [unit for unit in units if len(unit) > 1]
    values = [value for unit in paired for value in unit]
    expected = _disagreement(Counter(values), interval_metric)
    if not expected:
        return None
    observed = sum(_disagreement(Counter(unit), interval_metric) / (len(unit) - 1) for unit in paired)
    return 1.0 - (len(values) - 1) * observed / expected


def _disagreement(counts: Counter[Hashable], interval_metric: bool) -> float:
    """Return the sum of the metric over ordered pairs of single verdicts."""
    total = 0.0
    for (left, left_count), (right, right_count) in combinations(counts.items(), 2):
        distance = (float(str(left)) - float(str(right))) ** 2 if interval_metric else 1.0
        total += 2 * left_count * right_count * distance
    return total


@dataclass(frozen=True)
class Consistency:
    """One judge's consistency over both orders. Verdicts name the answer, not its position."""

    consistent: Measure
    """Share of pairs of games with the same verdict, 0..1."""
    first_shown: Measure
    """Share of the games' points given to the answer shown first; 0.5 is no position bias."""


def position_consistency(
    candidate_second: FloatArray, candidate_first: FloatArray, clusters: Sequence[Hashable]
) -> Consistency:
    """Compare the candidate's preference (0..1) when shown second and when shown first; both of shape (pairs,).

    Verdicts are the same if they are on the same side of 0.5 (or both at 0.5), so that probabilities compare too.
    """
    same = (np.sign(candidate_second - 0.5) == np.sign(candidate_first - 0.5)).astype(np.float64)
    shown_first = (candidate_first + 1.0 - candidate_second) / 2
    return Consistency(share_measure(same, clusters), share_measure(shown_first, clusters))


def flip_rate(repeats: Sequence[Sequence[Hashable]], clusters: Sequence[Hashable] | None = None) -> Measure:
    """Return the probability that two repeats of one question differ: the mean over questions of the share of unequal
    pairs.

    Questions with fewer than two verdicts are left out; `n` counts the others.
    """
    units = list(range(len(repeats)) if clusters is None else clusters)
    kept = [
        (_unequal_share(verdicts), unit) for verdicts, unit in zip(repeats, units, strict=True) if len(verdicts) > 1
    ]
    return share_measure(np.array([share for share, _ in kept], dtype=np.float64), [unit for _, unit in kept])


def _unequal_share(verdicts: Sequence[Hashable]) -> float:
    n = len(verdicts)
    equal = sum(times * (times - 1) for times in Counter(verdicts).values())
    return 1.0 - equal / (n * (n - 1))
