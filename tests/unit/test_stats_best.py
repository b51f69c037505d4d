"""Hsu's comparisons with the best: numbers worked out by hand, and coverage in a simulation."""

import numpy as np
import pytest

from harness.stats.best import compare_with_best
from harness.stats.paired import t_quantile


def test_of_two_models_the_bounds_are_those_of_one_sided_tests_cut_at_zero() -> None:
    # independent errors of 3 and 4: the difference of 6 has an error of 5, and 6 - 1.645 * 5 = -2.22, 6 + 8.22 = 14.22
    first, second = compare_with_best(np.array([56.0, 50.0]), np.diag([9.0, 16.0]), df=0)
    reach = t_quantile(0.95, 0) * 5
    assert (first.low, first.high) == pytest.approx((6 - reach, 6 + reach), abs=0.15)
    assert (second.low, second.high) == pytest.approx((-6 - reach, -6 + reach), abs=0.15)
    assert first.may_be_best
    assert second.may_be_best


def test_a_model_that_is_surely_best_is_alone_in_the_set() -> None:
    # a difference of 10 with an error of 5 is beyond 8.22: the second is worse by something between 0 and 18.22
    first, second = compare_with_best(np.array([60.0, 50.0]), np.diag([9.0, 16.0]), df=0)
    reach = t_quantile(0.95, 0) * 5
    assert (first.low, second.high) == (0.0, 0.0)
    assert (first.high, second.low) == pytest.approx((10 + reach, -10 - reach), abs=0.15)
    assert [first.may_be_best, second.may_be_best] == [True, False]


def test_three_models_with_equal_errors_have_dunnetts_critical_value() -> None:
    # Dunnett's one-sided 5 % value for two comparisons with a control, correlation 0.5, infinite df: 1.916
    # (Dunnett 1955, table 1a, shows 1.92), on differences with an error of sqrt(2)
    bounds = compare_with_best(np.array([2.0, 1.0, -2.0]), np.eye(3), df=0)
    reach = 1.916 * 2**0.5  # 2.71
    assert bounds[0].high == pytest.approx(1 + reach, abs=0.06)
    assert bounds[1].high == pytest.approx(-1 + reach, abs=0.06)
    assert bounds[2].high == 0.0  # -4 + 2.71 < 0: worse than the best
    assert bounds[2].low == pytest.approx(-4 - reach, abs=0.06)
    assert bounds[0].low == pytest.approx(1 - reach, abs=0.06)  # compared with the only other candidate


def test_correlation_separates_models_that_separate_errors_would_not() -> None:
    # variance of the difference: 25 + 25 - 2 * 24 = 2, so 6 is beyond 1.645 * 1.41 but not beyond 1.645 * 7.07
    correlated = np.array([[25.0, 24.0], [24.0, 25.0]])
    assert [bounds.may_be_best for bounds in compare_with_best(np.array([56.0, 50.0]), correlated, df=0)] == [
        True,
        False,
    ]
    apart = compare_with_best(np.array([56.0, 50.0]), np.diag([25.0, 25.0]), df=0)
    assert all(bounds.may_be_best for bounds in apart)


def test_models_without_an_error_of_their_difference_are_not_distinguished() -> None:
    alike = np.ones((2, 2))
    assert all(bounds.may_be_best for bounds in compare_with_best(np.array([51.0, 50.0]), alike, df=9))
    least = np.array([[0.0, 0.1], [0.1, 0.0]])  # t of 9 degrees of freedom: 1.833
    first, second = compare_with_best(np.array([51.0, 50.0]), alike, df=9, least=least)
    assert (first.low, first.high) == pytest.approx((0.0, 1.1833), abs=1e-3)
    assert not second.may_be_best


def test_few_degrees_of_freedom_widen_the_bounds() -> None:
    values, covariance = np.array([2.0, 1.0, -2.0]), np.eye(3)
    narrow, wide = compare_with_best(values, covariance, df=0), compare_with_best(values, covariance, df=5)
    # Dunnett's value for 5 degrees of freedom is 2.44
    assert wide[0].high == pytest.approx(1 + 2.44 * 2**0.5, abs=0.12)
    assert wide[0].high > narrow[0].high


def test_one_model_has_no_other_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="one model"):
        compare_with_best(np.array([1.0]), np.eye(1), df=0)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [(0.0, 0.0, 0.0, 0.0), (0.3, 0.3, 0.0, -0.2)])
def test_all_intervals_hold_at_once_in_at_least_95_percent_of_experiments(truth: tuple[float, ...]) -> None:
    rng, questions, trials = np.random.default_rng(5), 60, 400
    means = np.array(truth)
    targets = np.array([means[row] - np.delete(means, row).max() for row in range(len(means))])
    covered = kept = 0
    for _ in range(trials):
        scores = means + rng.standard_normal((questions, 1)) + rng.standard_normal((questions, len(means)))
        bounds = compare_with_best(scores.mean(axis=0), np.cov(scores.T) / questions, df=questions - 1)
        covered += all(row.low <= target <= row.high for row, target in zip(bounds, targets, strict=True))
        kept += bounds[int(means.argmax())].may_be_best
    assert covered / trials > 0.93  # 0.95 less two standard errors of 400 trials
    assert kept / trials > 0.93
