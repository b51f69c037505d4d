"""Variance of verdicts by its source: worked out by hand, and found again in simulated verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.intervals import FloatArray
from harness.stats.variance import IntArray, Parts, centred, variance_split, within_difference


def labels(*values: int) -> IntArray:
    return np.array(values, dtype=np.int64)


def test_a_nested_analysis_of_variance_worked_out_by_hand() -> None:
    """Two questions, two draws each, two repeats. Means of draws 2, 6, 2, 12; of questions 4, 7; of all 5.5.

    Within draws: 2 + 2 + 0 + 8 = 12 over 4 degrees, 3. Between draws: 2 (4 + 4 + 25 + 25) = 116 over 2, 58, so
    (58 - 3) / 2 = 27.5. Between questions: 4 (2.25 + 2.25) = 18 over 1, so (18 - 58) / 4 = -10.
    """
    values = np.array([1.0, 3, 5, 7, 2, 2, 10, 14])
    split = variance_split(values, [labels(0, 0, 0, 0, 1, 1, 1, 1), labels(0, 0, 1, 1, 2, 2, 3, 3), np.arange(8)])

    assert split is not None
    assert split.raw == pytest.approx((-10.0, 27.5, 3.0))
    assert split.components == pytest.approx((0.0, 27.5, 3.0))
    assert split.truncated == (0,)
    assert split.weights == pytest.approx((1.0, 1 / 2, 1 / 4))
    assert split.parts == pytest.approx((0.0, 27.5 / 4, 3 / 8))


def test_an_unbalanced_one_way_analysis_worked_out_by_hand() -> None:
    """Groups of 1, 2 and 3 values: 4 | 1, 3 | 6, 7, 8; means 4, 2, 7; of all 29/6.

    Within: 0 + 2 + 2 = 4 over 3. Between: (4 - 29/6)^2 + 2 (2 - 29/6)^2 + 3 (7 - 29/6)^2 = 185/6 over 2 = 185/12.
    n0 = (6 - 14/6) / 2 = 11/6, so (185/12 - 4/3) / (11/6) = 169/22.
    """
    values = np.array([4.0, 1, 3, 6, 7, 8])
    split = variance_split(values, [labels(0, 1, 1, 2, 2, 2), np.arange(6)])

    assert split is not None
    assert split.raw == pytest.approx((169 / 22, 4 / 3))
    assert split.weights == pytest.approx((1.0, (1 + 1 / 2 + 1 / 3) / 3))


def test_a_harsher_judge_is_no_variance_and_costs_a_degree_of_freedom() -> None:
    """Two questions by two judges, the second 3 lower: 5, 2 | 9, 6. Centred: 3.5, 3.5 | 7.5, 7.5, nothing is left."""
    values = centred(np.array([5.0, 2, 9, 6]), labels(0, 1, 0, 1))
    split = variance_split(values, [labels(0, 0, 1, 1), np.arange(4)], removed=(0, 1))

    assert values == pytest.approx([3.5, 3.5, 7.5, 7.5])
    assert split is not None
    assert split.raw == pytest.approx((8.0, 0.0))


def test_without_a_second_value_anywhere_there_is_nothing_to_split() -> None:
    assert variance_split(np.array([1.0, 2, 3]), [labels(0, 1, 2), np.arange(3)]) is None
    assert variance_split(np.array([1.0, 2]), [labels(0, 0), np.arange(2)]) is None
    assert variance_split(np.zeros(0), [labels(), labels()]) is None


def simulated(rng: np.random.Generator) -> tuple[FloatArray, list[IntArray], IntArray]:
    """40 questions (sd 3), 1-3 draws (sd 2), 3 judges of other harshness (sd 1.5 on an answer), 1-3 repeats (sd 1)."""
    rows: list[tuple[float, int, int, int, int]] = []
    draw = cell = 0
    for question in range(40):
        level = rng.normal(0, 3)
        for _ in range(rng.integers(1, 4)):
            answer = level + rng.normal(0, 2)
            for judge in range(3):
                told = answer + 4.0 * judge + rng.normal(0, 1.5)
                rows += [(told + rng.normal(0, 1), question, draw, cell, judge) for _ in range(rng.integers(1, 4))]
                cell += 1
            draw += 1
    table = np.array(rows)
    columns = [table[:, place].astype(np.int64) for place in range(1, 5)]
    return centred(table[:, 0], columns[3]), [*columns[:3], np.arange(len(rows))], columns[3]


def test_the_components_of_simulated_verdicts_are_found_without_bias() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        values, levels, _ = simulated(rng)
        split = variance_split(values, levels, removed=(0, 0, 2))
        assert split is not None
        found.append(split.raw)

    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
    assert np.all(np.abs(mean - np.array([9.0, 4.0, 2.25, 1.0])) < 3 * error + 0.01)


def test_the_error_the_parts_add_up_to_is_that_of_the_mean_over_questions() -> None:
    """40 questions of variance 4, 2 draws of 1, 3 verdicts of 0.5: (4 + 1/2 + 0.5/6) / 40."""
    rng = np.random.default_rng(2)
    means, errors = [], []
    for _ in range(400):
        effects = [rng.normal(0, sd, shape) for sd, shape in ((2, (40, 1, 1)), (1, (40, 2, 1)), (0.5**0.5, (40, 2, 3)))]
        values = (effects[0] + effects[1] + effects[2]).ravel()
        split = variance_split(values, [np.arange(240) // 6, np.arange(240) // 3, np.arange(240)])
        assert split is not None
        means.append(values.mean())
        errors.append(sum(split.parts))

    assert np.mean(errors) == pytest.approx((4 + 1 / 2 + 0.5 / 6) / 40, rel=0.05)
    assert np.var(means) == pytest.approx(np.mean(errors), rel=0.25)


def test_repeats_that_never_differ_have_no_variance_at_all() -> None:
    values = np.repeat([12.345678, 98.7654321, 33.3333333], 4) / 3  # no power of two: sums of squares are rounded
    questions, singles = np.repeat([0, 1, 2], 4), np.arange(12)

    split = variance_split(values, [questions, singles])

    assert split is not None
    assert split.raw[1] == 0.0


def table(*rows: tuple[float, ...]) -> FloatArray:
    return np.array(rows, dtype=np.float64)


def test_the_noise_on_fixed_questions_worked_out_by_hand() -> None:
    """A: 8, 6 | 5, 5 | 9, 7: means 7, 5, 8, variances 2, 0, 2. B: 6, 6, 3 | 4, 5, 6 | 7, 7, 7: means 5, 5, 7, 3, 1, 0.

    se^2 = (2/2 + 0/2 + 2/2 + 3/3 + 1/3 + 0/3) / 9 = 10/27. Degrees of freedom: sum v = 10/3 (times 1/9 cancels),
    sum v^2 / (f + 2) = 1/3 + 0 + 1/3 + 1/4 + 1/36 + 0 = 17/18, so (100/9) / (17/18) - 2 = 166/17.
    """
    first = Parts(table((8, 6), (5, 5), (9, 7)), np.ones((3, 2)), added=True)
    second = Parts(table((6, 6, 3), (4, 5, 6), (7, 7, 7)), np.ones((3, 3)), added=True)
    difference = within_difference(first, second)

    assert difference is not None
    assert difference.value == pytest.approx(20 / 3 - 17 / 3)
    assert difference.se**2 == pytest.approx(10 / 27)
    assert difference.df == pytest.approx(166 / 17)
    # repeats of one answer are averaged rather than added, which changes nothing if every question has as many
    repeats = (Parts(part.above, part.below, added=False) for part in (first, second))
    assert within_difference(*repeats) == difference


def test_a_ratio_on_fixed_questions_uses_the_linearised_terms() -> None:
    """Draws (above, below): q0 (3, 3), (0, 1); q1 (1, 1), (0, 3). r = 4/8; above - r * below: 1.5, -0.5 | 0.5, -1.5.

    Both variances are 2, the sums of two draws have 4 each: se^2 = 8 / 64 for this run, and 0 for the other.
    """
    first = Parts(table((3, 0), (1, 0)), table((3, 1), (1, 3)), added=True)
    second = Parts(table((1, 1), (0, 0)), np.ones((2, 2)), added=True)
    difference = within_difference(first, second, scale=100.0)

    assert difference is not None
    assert difference.value == pytest.approx(0.0)
    assert difference.se == pytest.approx(100 * (8 / 64) ** 0.5)


def test_a_question_with_one_draw_gets_the_pooled_variance() -> None:
    """Variances 2 and 8 of two draws each pool to 5, which the third question's one draw gets too.

    Of the sum over five draws the variance is 2*2 + 2*8 + 1*5, and that of the ratio a 25th of it.
    """
    first = Parts(table((8, 6), (1, 5), (3, np.nan)), table((1, 1), (1, 1), (1, np.nan)), added=True)
    same = Parts(table((4, 4), (4, 4), (4, 4)), np.ones((3, 2)), added=True)
    single = Parts(table((4,), (4,), (4,)), np.ones((3, 1)), added=True)

    difference = within_difference(first, same)
    assert difference is not None
    # r = 23/5; with below = 1 the ratio shifts all errors alike
    assert difference.se**2 == pytest.approx((2 * 2 + 2 * 8 + 5) / 25)
    assert within_difference(first, single) is None


@pytest.mark.slow
def test_equal_models_differ_on_fixed_questions_in_five_of_a_hundred_comparisons() -> None:
    """Unequal noise per question, two or three draws, few and many questions: 2000 comparisons each."""
    rng = np.random.default_rng(0)
    for questions, draws in ((10, (2, 2)), (80, (2, 3))):
        level, noise = rng.normal(0, 3, (questions, 1)), rng.uniform(0.2, 2, (questions, 1))
        alarms = 0
        for _ in range(2000):
            first, second = (
                Parts(level + noise * rng.standard_normal((questions, count)), np.ones((questions, count)), added=True)
                for count in draws
            )
            difference = within_difference(first, second)
            assert difference is not None
            alarms += difference.p_two_sided() <= 0.05
        assert 0.038 <= alarms / 2000 <= 0.062  # 5 % within two and a half standard errors
