"""Pooled and adjusted differences, with numbers worked out by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats.combined import (
    JudgedPart,
    adjusted_difference,
    difference_of_parts,
    disagreement,
    pooled,
    slope_between,
)
from harness.stats.intervals import FloatArray
from harness.stats.paired import ClusteredEstimate


def test_two_suites_are_weighted_by_their_inverse_variances_in_one_unit() -> None:
    # in units of the first: -1 with variance 1, and -6 / 2 = -3 with variance (4 / 2)^2 = 4; weights 4/5 and 1/5
    estimate = pooled([ClusteredEstimate(-1, 1, 0, 805), ClusteredEstimate(-6, 4, 0, 500)], [1.0, 2.0])

    assert estimate.value == pytest.approx(-1.4)
    assert estimate.se == pytest.approx(math.sqrt(4 / 5))
    assert (estimate.n, estimate.df) == (1305, 0)


def test_degrees_of_freedom_are_those_of_the_heavier_suite() -> None:
    # Satterthwaite with shares 4/5 and 1/5: 1 / (0.64 / 10 + 0.04 / 20) = 15.2
    estimate = pooled([ClusteredEstimate(-1, 1, 10, 11), ClusteredEstimate(-6, 4, 20, 21)], [1.0, 2.0])

    assert estimate.df == pytest.approx(1 / 0.066)


def test_a_difference_without_spread_has_no_weight() -> None:
    with pytest.raises(ValueError, match="without spread"):
        pooled([ClusteredEstimate(0, 0, 10, 11), ClusteredEstimate(1, 1, 10, 11)], [1.0, 1.0])


def test_suites_disagree_if_their_differences_are_apart_in_one_unit() -> None:
    # 0 and 8 / 2 = 4 with variances 1 and (2 / 2)^2 = 1: Q = 2^2 + 2^2 = 8, and P(chi-squared of 1 > 8) = 0.0047
    both = [ClusteredEstimate(0, 1, 0, 500), ClusteredEstimate(8, 2, 0, 500)]

    assert disagreement(both, [1.0, 2.0]) == pytest.approx(0.00468, abs=1e-5)


def test_the_slope_is_the_ratio_of_spreads_whichever_board_is_the_unit() -> None:
    boards = np.array([10.0, 20.0, 40.0]), np.array([25.0, 40.0, 70.0])

    (slope, correlation), (back, _) = slope_between(*boards), slope_between(*boards[::-1])

    assert [slope, back] == pytest.approx([1.5, 1 / 1.5])
    assert correlation > 0.99


def test_a_copy_of_a_known_model_needs_no_more_questions() -> None:
    scores = np.tile([0.0, 100.0], 100).astype(np.float64)

    estimate = adjusted_difference(scores[:50], range(50), scores)

    # the prediction is exact up to the penalty: nothing is left to learn from the other 150 questions
    assert estimate is not None
    assert abs(estimate.value) < 0.1
    assert estimate.se_set < 0.5


def test_few_or_all_questions_have_no_adjustment() -> None:
    scores = np.linspace(0.0, 99.0, 100)

    assert adjusted_difference(scores[:29], range(29), scores) is None
    assert adjusted_difference(scores, range(100), scores) is None


def eight_models(rng: np.random.Generator) -> FloatArray:
    """Eight models' scores of 400 questions of which some are harder, 0 or 100."""
    skill, difficulty = np.linspace(-1, 1, 8), rng.normal(0, 2, 400)
    chances = 1 / (1 + np.exp(-(skill - difficulty[:, None])))
    return np.where(rng.random((400, 8)) < chances, 100.0, 0.0).astype(np.float64)


def test_the_adjusted_interval_covers_and_is_narrower() -> None:
    rng = np.random.default_rng(1)
    scores = eight_models(rng)
    true = scores[:, 4].mean() - scores[:, 3].mean()
    others = np.delete(scores, [3, 4], axis=1)

    adjusted, plain, covered = [], [], 0
    for _ in range(400):
        at = rng.choice(400, 100, replace=False)
        estimate = adjusted_difference(scores[at, 4], at, scores[:, 3], others)
        assert estimate is not None
        low, high = estimate.interval_set()
        covered += low <= true <= high
        adjusted.append(estimate.value - true)
        plain.append(scores[at, 4].mean() - scores[at, 3].mean() - true)

    # half a standard error of the share is 0.011 at 400 draws
    assert 0.92 < covered / 400 < 0.98
    assert np.var(adjusted) < 0.75 * np.var(plain)


def test_equal_parts_are_adjusted_as_their_difference() -> None:
    rng = np.random.default_rng(1)
    scores, at = eight_models(rng), rng.choice(400, 100, replace=False)
    first, second = JudgedPart(scores[at, 3], at), JudgedPart(scores[at, 4], at)

    estimate = difference_of_parts(second, first, scores[:, :3])
    apart = difference_of_parts(
        JudgedPart(scores[at, 4] - scores[at, 3], at), JudgedPart(np.zeros(100), at), scores[:, :3]
    )

    assert estimate is not None
    assert apart is not None
    assert [estimate.value, estimate.se_set, estimate.se] == pytest.approx([apart.value, apart.se_set, apart.se])
    assert (estimate.n, estimate.of, estimate.df) == (100, 400, 98)


@pytest.mark.parametrize("same", [True, False])
def test_two_limited_models_are_compared_over_all_questions(same: bool) -> None:
    rng = np.random.default_rng(2)
    scores = eight_models(rng)
    true = scores[:, 4].mean() - scores[:, 3].mean()
    models = np.delete(scores, [3, 4], axis=1)

    adjusted, means, covered = [], [], 0
    for _ in range(400):
        at = rng.choice(400, 100, replace=False)
        at_first = at if same else rng.choice(400, 100, replace=False)
        judged, reference = JudgedPart(scores[at, 4], at), JudgedPart(scores[at_first, 3], at_first)
        estimate = difference_of_parts(judged, reference, models)
        assert estimate is not None
        low, high = estimate.interval_set()
        covered += low <= true <= high
        adjusted.append(estimate.value - true)
        means.append(scores[at, 4].mean() - scores[at_first, 3].mean() - true)

    assert 0.92 < covered / 400 < 0.98
    assert np.var(adjusted) < (1.05 if same else 0.7) * np.var(means)


def test_parts_need_thirty_questions_each_and_something_to_predict() -> None:
    scores, few, half = np.linspace(0.0, 99.0, 100), np.arange(29), np.arange(50)
    short, part = JudgedPart(scores[few], few), JudgedPart(scores[half], half)
    everything = JudgedPart(scores, np.arange(100))

    assert difference_of_parts(short, part, scores[:, None]) is None
    assert difference_of_parts(everything, everything, scores[:, None]) is None
    assert difference_of_parts(part, everything, scores[:, None]) is not None


def test_equal_scores_have_the_error_of_one_more_question_won_and_one_lost() -> None:
    # range 9, 30 of 80 questions: 2 * 81 * 30 / (31 * 32) = 4.899; * (1/30 - 1/80) = 0.1021
    nines = np.full(80, 9.0)
    estimate = adjusted_difference(nines[:30], range(30), nines, widest=9.0)

    assert estimate is not None
    assert estimate.value == 0.0
    assert estimate.se_set**2 == pytest.approx(0.10206, abs=1e-4)
    assert estimate.se**2 == pytest.approx(0.10206 + 4.89919 / 80, abs=1e-4)


def test_wins_that_no_judged_question_shows_keep_the_interval_wide() -> None:
    """3 of 100 questions are won by either model, in none of the 30 judged: without a range the error would be 0."""
    scores = np.zeros(100)
    scores[-3:] = 100.0
    estimate = adjusted_difference(scores[:30], range(30), scores, widest=100.0)

    assert estimate is not None
    low, high = estimate.interval_set()
    assert low < 0 < high
