"""Estimate people's verdicts from a judge's verdicts and a sample judged by both. Pure.

Two corrections: Rogan-Gladen for won-or-lost verdicts, prediction-powered inference (PPI) for any number. Both assume
that the judge errs on new answers as it did on the calibration sample, which the data cannot show.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from .clustered import clustered_interval
from .intervals import FloatArray, Interval


@dataclass(frozen=True)
class Corrected:
    """An estimate after correction, with a 95 % interval that includes the calibration's own noise."""

    value: float | None
    """None if the judge is no better than chance, or the calibration has too few cases."""
    interval: Interval | None


@dataclass(frozen=True)
class JudgedSample:
    """Rows judged by a judge and partly by people; all arrays of shape (rows,)."""

    judge: FloatArray
    """The judge's values, e.g. preferences 0..1."""
    people: FloatArray
    """People's values in the same unit; NaN for rows that they did not judge."""
    clusters: Sequence[Hashable]
    """Question of each row."""


def rogan_gladen(rows: JudgedSample) -> Corrected:
    """Return people's win share (0..1) over all rows that the judge decided.

    theta = (p + q0 - 1) / (q0 + q1 - 1), with p the judge's win share, q1 the share of wins (as people see them) that
    the judge calls wins and q0 that of losses it calls losses (Rogan and Gladen 1978; for judges Lee et al.,
    arXiv 2511.21140). Clipped to 0..1. The interval is first-order and clustered, since the judge's win share and the
    calibration are from the same questions: d theta = [dp + (1 - theta) dq0 - theta dq1] / (q0 + q1 - 1). Values above
    0.5 are wins, below it losses; a tie of either side is left out.
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


def prediction_powered(rows: JudgedSample, *, tuned: bool = False) -> Corrected:
    """Return people's mean over all rows: mean(judge over all) + mean(people - judge over rows with both).

    `tuned` weights the judge by the lambda of least variance, mean(people) + lambda * (mean judge over all - mean judge
    over calibration), so that a useless judge does no harm. Angelopoulos et al. 2023 (arXiv 2301.09633) and 2023b
    (PPI++, arXiv 2311.01453). The interval is clustered: a question contributes to both means, so their
    covariance counts.
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
    """Return cov(people, judge) / var(judge), clipped to 0..1: PPI++'s lambda if all rows include the calibration's."""
    variance = float(np.var(judge))
    if not variance:
        return 0.0
    covariance = float(np.mean((judge - judge.mean()) * (people - people.mean())))
    return float(np.clip(covariance / variance, 0, 1))
