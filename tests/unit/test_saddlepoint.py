"""Bootstrap percentiles that are computed, beside percentiles that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.intervals import FloatArray, percentile_interval, ratio_interval, resampling_weights
from harness.stats.saddlepoint import ratio_quantiles


def drawn(above: FloatArray, below: FloatArray, resamples: int = 20_000) -> tuple[float, float, float]:
    rng = np.random.default_rng(9)
    estimates = [(rows @ above) / (rows @ below) for rows in resampling_weights(len(above), resamples, rng)]
    found = percentile_interval(np.concatenate(estimates))
    assert found is not None
    return found.low, found.high, found.se


def games(questions: int, wins: float) -> tuple[FloatArray, FloatArray]:
    """Two games a question, alike more often than not, some of weight 3: Arena-Hard's table."""
    rng = np.random.default_rng(questions)
    weight = rng.choice([1.0, 3.0], size=(questions, 2), p=[0.8, 0.2])
    side = rng.random((questions, 1)) < wins
    points = np.where(rng.random((questions, 2)) < 0.7, side, rng.random((questions, 2)) < wins)
    return (weight * points).sum(axis=1), weight.sum(axis=1)


@pytest.mark.parametrize(("questions", "wins"), [(500, 0.4), (500, 0.85), (250, 0.6), (60, 0.5)])
def test_computed_percentiles_are_those_of_many_draws(questions: int, wins: float) -> None:
    above, below = games(questions, wins)

    found = ratio_interval(above, below)

    assert found is not None
    low, high, error = drawn(above, below)
    assert found.low == pytest.approx(low, abs=0.03 * error)  # ends of 20,000 draws move by 0.02 errors
    assert found.high == pytest.approx(high, abs=0.03 * error)
    assert found.se == pytest.approx(error, rel=0.02)


def test_the_mean_of_ratings_has_the_interval_of_many_draws() -> None:
    ratings = np.random.default_rng(4).choice([1.0, 5, 8, 9, 10], size=80, p=[0.1, 0.1, 0.2, 0.4, 0.2])

    found = ratio_interval(ratings, np.ones(80))

    assert found is not None
    assert (found.low, found.high) == pytest.approx(drawn(ratings, np.ones(80))[:2], abs=0.01)


def test_nothing_that_varies_is_a_point() -> None:
    assert ratio_quantiles(np.full(80, 2.0), np.full(80, 4.0), (-1.96, 1.96)) == [0.5, 0.5]


def test_few_or_lopsided_questions_are_drawn() -> None:
    one_win = np.zeros(500)
    one_win[0] = 1.0

    assert ratio_quantiles(np.linspace(0, 1, 49, dtype=np.float64), np.ones(49), (-1.96, 1.96)) is None
    assert ratio_quantiles(one_win, np.ones(500), (-1.96, 1.96)) is None
    found = ratio_interval(one_win, np.ones(500))
    assert found is not None
    assert found.low == 0.0  # a resample leaves the one win out with probability 0.37
