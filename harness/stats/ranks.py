"""Intervals of a model's rank from simultaneous comparisons with all others.

Model j's rank is between 1 + (models significantly better) and k - (models significantly worse). Significance is a
two-sided test of all k - 1 paired differences at once: |d_jk| / se_jk above the 95 % quantile of its largest value over
k, taken from bootstrap replicates with shared questions (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic
Studies 91:476). Each model's interval contains its true rank with a probability of at least 95 %; ties widen it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .intervals import FloatArray

LEVEL = 0.95


@dataclass(frozen=True)
class RankInterval:
    best: int
    """1 is the highest value."""
    worst: int


def rank_intervals(estimates: FloatArray, replicates: FloatArray, level: float = LEVEL) -> list[RankInterval]:
    """Return each model's rank interval, from estimates (models,) and replicates (resamples, models) with shared
    questions.

    Replicates with a NaN are ignored. A single model has rank 1.
    """
    sound = replicates[np.isfinite(replicates).all(axis=1)]
    intervals = []
    for model in range(len(estimates)):
        rivals = np.delete(np.arange(len(estimates)), model)
        if len(rivals) == 0:
            intervals.append(RankInterval(1, 1))
            continue
        apart = estimates[rivals] - estimates[model]
        drawn = sound[:, rivals] - sound[:, [model]]
        spread = drawn.std(axis=0, ddof=1) if len(sound) > 1 else np.full(len(rivals), np.inf)
        spread = np.where(spread > 0, spread, np.inf)  # models that answer all alike are never distinguished
        largest = (np.abs(drawn - apart) / spread).max(axis=1) if len(sound) else np.array([np.inf])
        bar = float(np.quantile(largest, level))
        with np.errstate(invalid="ignore"):  # 0 * inf if all answer alike: NaN, which is neither above nor below
            reach = bar * spread
        better, worse = int(np.sum(apart > reach)), int(np.sum(apart < -reach))
        intervals.append(RankInterval(1 + better, len(estimates) - worse))
    return intervals
