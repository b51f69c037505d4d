"""What people would have said, from what a judge said and a sample judged by both. Pure.

Two corrections: Rogan-Gladen for won-or-lost verdicts, prediction-powered inference (PPI) for any number. Both assume
that the judge errs on new answers as it did on the calibration sample; nothing in the data can show that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .clustered import CONFIDENCE, clustered_interval
from .intervals import FloatArray, Interval


@dataclass(frozen=True)
class Hits:
    """`right` of `n` calibration cases of one kind that the judge called as people did."""

    right: int
    n: int


@dataclass(frozen=True)
class Corrected:
    """An estimate after correction, with a 95 % interval that carries the calibration's own noise."""

    value: float | None
    """None where the judge is no better than chance, or the calibration holds too little."""
    interval: Interval | None


@dataclass(frozen=True)
class Judged:
    """Rows that people did or did not see; all arrays of shape (rows,)."""

    judge: FloatArray
    """The judge's numbers, e.g. preference 0..1."""
    people: FloatArray
    """People's numbers in the same unit; NaN where they saw nothing."""
    clusters: Sequence[Hashable]
    """Question of each row."""


def rogan_gladen(wins: float, n: int, sensitivity: Hits, specificity: Hits) -> Corrected:
    """True win share (0..1) from `wins` of `n` that the judge saw.

    theta = (p + q0 - 1) / (q0 + q1 - 1), with q1 the share of wins (as people see them) that the judge calls wins and
    q0 that of losses it calls losses. Rogan and Gladen 1978; the interval is Lang and Reiczigel's (2014, Prev. Vet.
    Med. 113:13), with z^2 added trials for p and 2 for q0 and q1, as Lee et al. take it over for judges
    (arXiv 2511.21140). Clipped to 0..1.
    """
    if not (n and sensitivity.n and specificity.n):
        return Corrected(None, None)
    q1, q0 = sensitivity.right / sensitivity.n, specificity.right / specificity.n
    if q0 + q1 <= 1:
        return Corrected(None, None)
    theta = (wins / n + q0 - 1) / (q0 + q1 - 1)
    interval = _lang_reiczigel(wins, n, sensitivity, specificity)
    return Corrected(float(np.clip(theta, 0, 1)), interval)


def rogan_gladen_rows(rows: Judged) -> Corrected:
    """People's win share over all rows that the judge decided, where questions come with several rows.

    The same estimate as `rogan_gladen`; the interval is first-order and clustered, since here the judge's win share and
    the calibration are of the same questions: d theta = [dp + (1 - theta) dq0 - theta dq1] / (q0 + q1 - 1). Numbers
    above 0.5 are wins, below it losses; a tie of either side is left out.
    """
    judged = rows.judge != 0.5
    both = judged & ~np.isnan(rows.people) & (rows.people != 0.5)
    won, lost = both & (rows.people > 0.5), both & (rows.people < 0.5)
    if not (won.any() and lost.any()):
        return Corrected(None, None)
    wins = (rows.judge > 0.5).astype(np.float64)
    p, q1, q0 = float(wins[judged].mean()), float(wins[won].mean()), float(1 - wins[lost].mean())
    power = q0 + q1 - 1
    if power <= 0:
        return Corrected(None, None)
    theta = (p + q0 - 1) / power
    influence = np.where(judged, (wins - p) / judged.sum(), 0.0)
    influence -= np.where(won, theta * (wins - q1) / won.sum(), 0.0)
    influence += np.where(lost, (1 - theta) * (1 - wins - q0) / lost.sum(), 0.0)
    interval = clustered_interval(theta, influence / power, rows.clusters)
    return Corrected(float(np.clip(theta, 0, 1)), interval and _clipped(interval))


def _clipped(interval: Interval) -> Interval:
    return Interval(low=max(0.0, interval.low), high=min(1.0, interval.high), se=interval.se)


def _lang_reiczigel(wins: float, n: int, sensitivity: Hits, specificity: Hits) -> Interval | None:
    from scipy import special

    z = float(special.ndtri(0.5 + CONFIDENCE / 2))
    trials, p = n + z**2, (wins + z**2 / 2) / (n + z**2)
    m1, q1 = sensitivity.n + 2, (sensitivity.right + 1) / (sensitivity.n + 2)
    m0, q0 = specificity.n + 2, (specificity.right + 1) / (specificity.n + 2)
    power = q0 + q1 - 1
    if power <= 0:
        return None
    theta = float(np.clip((p + q0 - 1) / power, 0, 1))
    noise1, noise0 = q1 * (1 - q1) / m1, q0 * (1 - q0) / m0
    shift = 2 * z**2 * (theta * noise1 - (1 - theta) * noise0)
    se = float(np.sqrt(p * (1 - p) / trials + theta**2 * noise1 + (1 - theta) ** 2 * noise0) / power)
    low, high = np.clip([theta + shift - z * se, theta + shift + z * se], 0, 1)
    return Interval(low=float(low), high=float(high), se=se)


def prediction_powered(rows: Judged, *, tuned: bool = False) -> Corrected:
    """People's mean over all rows: mean(judge over all) + mean(people - judge over those both saw).

    `tuned` weighs the judge by the lambda of least variance, mean(people) + lambda * (mean judge over all - mean judge
    over calibration), so that a useless judge costs nothing. Angelopoulos et al. 2023 (arXiv 2301.09633) and 2023b
    (PPI++, arXiv 2311.01453). The interval is clustered: a question adds to both means, so their covariance counts.
    """
    both = ~np.isnan(rows.people)
    total, seen = len(rows.judge), int(both.sum())
    if seen < 2:
        return Corrected(None, None)
    judge, people = rows.judge[both], rows.people[both]
    weight = _best_weight(judge, people) if tuned else 1.0
    value = float(people.mean() + weight * (rows.judge.mean() - judge.mean()))
    influence = weight * (rows.judge - rows.judge.mean()) / total
    difference = people - weight * judge
    influence[both] += (difference - difference.mean()) / seen
    return Corrected(value, clustered_interval(value, influence, rows.clusters))


def _best_weight(judge: FloatArray, people: FloatArray) -> float:
    """cov(people, judge) / var(judge), kept in 0..1: PPI++'s lambda where the calibration rows are among all rows."""
    variance = float(np.var(judge))
    if not variance:
        return 0.0
    covariance = float(np.mean((judge - judge.mean()) * (people - people.mean())))
    return float(np.clip(covariance / variance, 0, 1))
