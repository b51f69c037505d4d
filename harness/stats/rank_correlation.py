"""Measure whether two scores rank models alike: Spearman's rho and Kendall's tau-b, with intervals. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .agreement import Measure
from .intervals import FloatArray, Interval, percentile_interval, resampling_weights

RESAMPLES = 2000
"""Enough for a correlation's interval, whose ends then vary by about 0.04 standard errors."""


@dataclass(frozen=True)
class RankCorrelation:
    """Both coefficients; their values are None with fewer than three models, or if a side ranks all models equal."""

    spearman: Measure
    kendall: Measure


def rank_correlation(sums: FloatArray, counts: FloatArray, board: FloatArray, *, seed: int = 0) -> RankCorrelation:
    """Correlate each model's mean over questions with `board`, shape (models,), ignoring the board's own noise.

    `sums` and `counts`, shape (questions, models): a question's contribution to a model's score and its number of
    verdicts. Questions are resampled; a resample that leaves a model without any is skipped.
    """
    models = len(board)
    total = counts.sum(axis=0)
    if models < 3 or not total.all():
        return RankCorrelation(Measure(None, None, models), Measure(None, None, models))
    drawn = []
    for weights in resampling_weights(len(sums), RESAMPLES, np.random.default_rng(seed)):
        below = weights @ counts
        whole = below.all(axis=1)
        drawn.append((weights @ sums)[whole] / below[whole])
    point, scores = (sums.sum(axis=0) / total)[None, :], np.concatenate(drawn)
    return RankCorrelation(
        *(
            _measure(coefficient(point, board), coefficient(scores, board), models)
            for coefficient in (_spearman, _kendall)
        )
    )


def _measure(point: FloatArray, resampled: FloatArray, models: int) -> Measure:
    if np.isnan(point[0]):
        return Measure(None, None, models)
    value, interval = float(point[0]), percentile_interval(resampled[~np.isnan(resampled)])
    if interval is not None:  # resampling adds noise, which pulls a correlation to 0, so the estimate may exceed all
        interval = Interval(low=min(interval.low, value), high=max(interval.high, value), se=interval.se)
    return Measure(value, interval, models)


def _spearman(scores: FloatArray, board: FloatArray) -> FloatArray:
    """Return Pearson's correlation of the ranks (mean ranks for ties) for each row; NaN for a row of ties only."""
    ranks, board_ranks = _ranks(scores), _ranks(board[None, :])[0]
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    board_ranks = board_ranks - board_ranks.mean()
    norm = np.sqrt((ranks**2).sum(axis=1) * (board_ranks**2).sum())
    return _ratio(ranks @ board_ranks, norm)


def _ranks(rows: FloatArray) -> FloatArray:
    """Return the ranks within each row, from 1, with ties at their mean.

    Compared pair by pair, because scipy.stats.rankdata takes a second to import.
    """
    below = (rows[:, :, None] > rows[:, None, :]).sum(axis=2)
    level = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
    ranks: FloatArray = below + (level + 1) / 2
    return ranks


def _kendall(scores: FloatArray, board: FloatArray) -> FloatArray:
    """Return tau-b = (concordant - discordant) / sqrt(pairs untied in scores * pairs untied in board) for each row."""
    lower, upper = np.triu_indices(len(board), 1)
    signs, board_signs = np.sign(scores[:, lower] - scores[:, upper]), np.sign(board[lower] - board[upper])
    return _ratio(signs @ board_signs, np.sqrt((signs**2).sum(axis=1) * (board_signs**2).sum()))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> FloatArray:
    ratio: FloatArray = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return ratio
