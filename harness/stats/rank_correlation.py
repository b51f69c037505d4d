"""Whether two scores rank models alike: Spearman's rho and Kendall's tau-b, with intervals over questions. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .agreement import Measure
from .intervals import FloatArray, Interval, percentile_interval, resampling_weights

RESAMPLES = 2000
"""The ends of a correlation's interval need no more: they move by about 0.04 standard errors."""


@dataclass(frozen=True)
class RankCorrelation:
    """Both coefficients are None with fewer than three models, or where a side ranks all the same."""

    spearman: Measure
    kendall: Measure


def rank_correlation(sums: FloatArray, counts: FloatArray, board: FloatArray, *, seed: int = 0) -> RankCorrelation:
    """Of each model's mean over questions with `board`, shape (models,), whose own noise is left out.

    `sums` and `counts`, shape (questions, models): what a question adds to a model's score, and how many verdicts.
    Questions are resampled; a resample that leaves a model without any is skipped.
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
    if interval is not None:  # resampling adds noise, which pulls a correlation to 0: the estimate may lie above all
        interval = Interval(low=min(interval.low, value), high=max(interval.high, value), se=interval.se)
    return Measure(value, interval, models)


def _spearman(scores: FloatArray, board: FloatArray) -> FloatArray:
    """Return pearson's correlation of the ranks (mean ranks for ties), a row each; NaN where a row is all ties."""
    ranks, board_ranks = _ranks(scores), _ranks(board[None, :])[0]
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    board_ranks = board_ranks - board_ranks.mean()
    norm = np.sqrt((ranks**2).sum(axis=1) * (board_ranks**2).sum())
    return _ratio(ranks @ board_ranks, norm)


def _ranks(rows: FloatArray) -> FloatArray:
    """Ranks within each row, from 1, ties at their mean: one more than the models below, plus half of the others level.

    Compared pair by pair: scipy.stats.rankdata would take a second to import.
    """
    below = (rows[:, :, None] > rows[:, None, :]).sum(axis=2)
    level = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
    ranks: FloatArray = below + (level + 1) / 2
    return ranks


def _kendall(scores: FloatArray, board: FloatArray) -> FloatArray:
    """tau-b = (concordant - discordant) / sqrt(pairs untied here * pairs untied there), a row each."""
    lower, upper = np.triu_indices(len(board), 1)
    signs, board_signs = np.sign(scores[:, lower] - scores[:, upper]), np.sign(board[lower] - board[upper])
    return _ratio(signs @ board_signs, np.sqrt((signs**2).sum(axis=1) * (board_signs**2).sum()))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> FloatArray:
    ratio: FloatArray = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return ratio
