"""Standard errors, bootstrap, tests and intervals against statsmodels, scipy and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.stats.methods import bca_interval, jackknife, ratio_replicates, wilson
from harness.stats.intervals import FloatArray, percentile_interval
from harness.stats.paired import (
    RankInterval,
    _draw_swaps,
    benjamini_hochberg,
    clustered_se,
    correlation,
    holm,
    least_errors,
    least_se,
    paired_difference,
    rank_intervals,
    ratio_estimate,
    ratio_interval,
    swap_test,
    swap_tests,
    two_sided_p,
)

RNG = np.random.default_rng(5)
FIRST, SECOND = RNG.normal(7, 2, 60), RNG.normal(6.5, 2, 60)
ONES = np.ones(60)


def test_a_mean_has_the_textbook_error() -> None:
    found = ratio_estimate(FIRST, ONES)

    assert found is not None
    assert found.se == pytest.approx(np.std(FIRST, ddof=1) / math.sqrt(60))
    assert found.interval() == pytest.approx(stats.ttest_1samp(FIRST, 0).confidence_interval(0.95))


def test_the_paired_difference_is_the_paired_t_test() -> None:
    found, theirs = paired_difference((FIRST, ONES), (SECOND, ONES)), stats.ttest_rel(FIRST, SECOND)

    assert found is not None
    assert found.p_two_sided() == pytest.approx(theirs.pvalue)
    assert found.interval() == pytest.approx(theirs.confidence_interval(0.95))
    assert found.p_below(0.0) == pytest.approx(stats.ttest_rel(FIRST, SECOND, alternative="less").pvalue)
    assert found.p_above(0.0) == pytest.approx(stats.ttest_rel(FIRST, SECOND, alternative="greater").pvalue)


@pytest.mark.slow
def test_clustered_errors_are_statsmodels_without_its_factor_for_regressors() -> None:
    sm = pytest.importorskip("statsmodels.api")
    clusters = [number // 4 for number in range(60)]
    fit = sm.OLS(FIRST, np.ones((60, 1))).fit(cov_type="cluster", cov_kwds={"groups": np.array(clusters)})
    # statsmodels multiplies by (n - 1) / (n - k), which is 1 for a mean (k = 1), and by G / (G - 1), as we do
    ours, df = clustered_se(FIRST - FIRST.mean(), clusters)

    assert ours == pytest.approx(float(fit.bse[0]))
    assert df == 14


def test_a_ratio_with_weights_is_linearised() -> None:
    above, below = np.array([3.0, 0.0, 1.0]), np.array([4.0, 1.0, 1.0])
    found = ratio_estimate(above, below)
    # r = 4/6, mean(below) = 2: u = (3 - 8/3, 0 - 2/3, 1 - 2/3) / 2 = (1/6, -1/3, 1/6)
    # SE = sqrt(3/2 * (1/36 + 4/36 + 1/36)) / 3 = 0.5 / 3

    assert found is not None
    assert found.value == pytest.approx(2 / 3)
    assert found.se == pytest.approx(1 / 6)


def test_one_question_or_one_cluster_has_no_error() -> None:
    assert ratio_estimate(np.ones(1), np.ones(1)) is None
    assert paired_difference((FIRST, ONES), (SECOND, ONES), clusters=["a"] * 60) is None
    with pytest.raises(ValueError, match="two clusters"):
        clustered_se(np.zeros(3), ["a", "a", "a"])


def test_models_that_answer_alike_differ_by_nothing_for_certain() -> None:
    found = paired_difference((FIRST, ONES), (FIRST, ONES))

    assert found is not None
    assert (found.value, found.se, found.p_two_sided()) == (0.0, 0.0, 1.0)


def test_few_equal_differences_of_bounded_scores_are_as_uncertain_as_one_question_lost_and_one_won() -> None:
    alike = paired_difference((np.full(5, 9.0), np.ones(5)), (np.full(5, 9.0), np.ones(5)), bounds=(1, 10))

    assert alike is not None
    assert alike.se == least_se(5, 0.0, (1, 10)) == pytest.approx(9 * math.sqrt(2 / 42))
    assert alike.interval()[0] == pytest.approx(-2.776445105 * alike.se)
    assert alike.p_two_sided() == 1.0
    # 1, 1, 1, 1, -1 and 1: mean 2/3, sum of squares 5 / 9 + 25 / 9
    assert least_se(4, 1.0, (0, 1)) == pytest.approx(math.sqrt(30 / 9 / (5 * 6)))


def test_bounds_do_not_widen_differences_that_vary_more_than_that() -> None:
    plain, bounded = (paired_difference((FIRST, ONES), (SECOND, ONES), bounds=ends) for ends in (None, (1, 10)))

    assert plain == bounded


def test_replicates_of_many_models_are_those_of_each_alone() -> None:
    above, below = np.column_stack([FIRST, SECOND]), np.ones((60, 2))
    drawn = ratio_replicates(above, below, resamples=20_000, seed=3)
    together, alone = percentile_interval(drawn[:, 1]), ratio_interval(SECOND, ONES)

    assert together is not None
    assert alone is not None
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high), abs=0.03)
    assert together.se == pytest.approx(alone.se, rel=0.02)


def test_bca_is_scipys() -> None:
    skewed = np.random.default_rng(1).exponential(size=40)
    theirs = stats.bootstrap((skewed,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    drawn = ratio_replicates(skewed[:, None], np.ones((40, 1)), resamples=20_000, seed=1)[:, 0]
    ours = bca_interval(float(skewed.mean()), drawn, jackknife(skewed, np.ones(40)))

    assert ours is not None
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_bca_without_spread_is_the_percentile_interval() -> None:
    same = np.full(100, 2.0)
    found = bca_interval(2.0, same, np.full(10, 2.0))

    assert found is not None
    assert (found.low, found.high) == (2.0, 2.0)
    assert two_sided_p(same, 2.0) == 0.0
    assert two_sided_p(np.zeros(9), 0.0) == 1.0


def test_the_swap_test_is_the_exact_sign_flip_test() -> None:
    first, second = FIRST[:8], SECOND[:8]
    exact = stats.permutation_test((first, second), lambda a, b: np.mean(a - b), permutation_type="samples")
    ours = swap_test((first, np.ones(8)), (second, np.ones(8)), flips=20_000)

    assert ours == pytest.approx(exact.pvalue, abs=0.01)


def test_the_swap_test_is_never_zero_and_says_nothing_of_equals() -> None:
    assert swap_test((RNG.uniform(1, 2, 30), np.ones(30)), (np.zeros(30), np.ones(30)), flips=99) == 0.01
    assert swap_test((np.ones(30), np.ones(30)), (np.zeros(30), np.ones(30)), flips=99) == pytest.approx(2**-29)
    assert swap_test((FIRST, ONES), (FIRST, ONES), flips=99) == 1.0


def test_many_pairs_are_tested_as_each_pair_alone() -> None:
    rng = np.random.default_rng(3)
    models = [(weight * rng.random(40).round(1), weight) for weight in rng.integers(1, 4, (4, 40)).astype(float)]
    models.append((np.zeros(40), np.zeros(40)))  # no ratio: NaN counts against us
    pairs = [(0, 1), (3, 0), (2, 2), (1, 4)]

    together = swap_tests(models, pairs, flips=500, seed=7)
    assert together == [swap_test(models[first], models[other], flips=500, seed=7) for first, other in pairs]
    assert together[0] == p_by_definition(models[0], models[1])
    assert together[2:] == [1.0, 1.0]


def p_by_definition(first: tuple[FloatArray, FloatArray], other: tuple[FloatArray, FloatArray]) -> float:
    """The p by swapping row after row, as the definition says."""
    swaps = np.concatenate(list(_draw_swaps(40, 500, 7))).astype(bool)
    rows = np.stack([*first, *other])  # (4, questions)
    observed = abs(rows[0].sum() / rows[1].sum() - rows[2].sum() / rows[3].sum())
    as_far = 0
    for swap in swaps:
        above, below, above_other, below_other = np.where(swap, rows[[2, 3, 0, 1]], rows).sum(axis=1)
        as_far += abs(above / below - above_other / below_other) >= observed - 1e-12
    return (1 + as_far) / 501


def right_or_wrong(won: int, lost: int, *, alike: int = 12) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Two models' answers: `won` right in the first only, `lost` in the second only."""
    first = np.array([1.0] * won + [0.0] * lost + [1.0] * alike)
    second = np.array([0.0] * won + [1.0] * lost + [1.0] * alike)
    return (first, np.ones(len(first))), (second, np.ones(len(first)))


def test_right_and_wrong_answers_are_compared_by_mcnemars_exact_test() -> None:
    # Bentur et al.: 21 children, 1 only before, 7 only after, as worked out in Fagerland, Lydersen and Laake 2014
    # (exact p 0.070). By hand: 2 (C(8,0) + C(8,1)) / 2^8 = 18/256.
    assert swap_test(*right_or_wrong(1, 7)) == pytest.approx(18 / 256)
    assert swap_test(*right_or_wrong(0, 0)) == 1.0
    assert swap_test(*right_or_wrong(4, 4)) == 1.0


def test_mcnemars_test_is_statsmodels_and_the_share_of_all_swaps() -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    for won, lost in ((0, 5), (3, 9), (12, 12), (40, 22)):
        p = swap_test(*right_or_wrong(won, lost))
        assert p == pytest.approx(stats.binomtest(won, won + lost).pvalue)
        assert p == pytest.approx(tables.mcnemar([[5, won], [lost, 5]], exact=True).pvalue)
    swaps = 2 * (np.arange(2**12)[:, None] >> np.arange(12) & 1) - 1
    assert swap_test(*right_or_wrong(3, 9)) == pytest.approx(np.mean(np.abs(swaps.sum(axis=1)) >= 6))


def test_wilson_is_scipys() -> None:
    for successes, n in ((0, 10), (3, 10), (10, 10), (250, 500)):
        theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((theirs.low, theirs.high))
    assert wilson(0, 0) == (0.0, 1.0)


def test_holm_and_benjamini_hochberg_are_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.01, 0.04, 0.03, 0.005, 0.5, 0.04]
    # by hand, Holm: 6 * 0.005, 5 * 0.01, 4 * 0.03, then 3 * 0.04 = 0.12 twice (never falling), 0.5

    assert holm(p_values) == pytest.approx([0.05, 0.12, 0.12, 0.03, 0.5, 0.12])
    assert holm(p_values) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]))
    assert benjamini_hochberg(p_values) == pytest.approx(list(stats.false_discovery_control(p_values)))
    assert holm([]) == benjamini_hochberg([]) == []


def test_ranks_are_certain_far_apart_and_open_between_equals() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (2000, 3))
    estimates = np.array([50.0, 30.0, 30.1])

    found = rank_intervals(estimates, estimates + noise)

    assert found == [RankInterval(1, 1), RankInterval(2, 3), RankInterval(2, 3)]
    assert rank_intervals(np.array([1.0]), np.ones((5, 1))) == [RankInterval(1, 1)]


def test_correlation_of_a_constant_is_none() -> None:
    assert correlation(FIRST, FIRST) == pytest.approx(1.0)
    assert correlation(FIRST, ONES) is None


def test_ranks_of_many_models_follow_from_the_definition() -> None:
    rng = np.random.default_rng(2)
    estimates = rng.normal(size=70)  # more models than are compared at a time
    replicates = estimates + 0.3 * rng.normal(size=(400, 1)) + 0.4 * rng.normal(size=(400, 70))

    intervals = rank_intervals(estimates, replicates)

    for model, interval in enumerate(intervals):
        rivals = np.delete(np.arange(70), model)
        apart, drawn = estimates[rivals] - estimates[model], replicates[:, rivals] - replicates[:, [model]]
        spread = drawn.std(axis=0, ddof=1)
        reach = np.quantile((np.abs(drawn - apart) / spread).max(axis=1), 0.95) * spread
        assert (interval.best, interval.worst) == (1 + np.sum(apart > reach), 70 - np.sum(apart < -reach))


def test_models_that_answer_all_alike_are_never_distinguished() -> None:
    estimates = np.array([0.1, 0.7, 0.4])

    intervals = rank_intervals(estimates, np.tile(estimates, (333, 1)))

    assert [(interval.best, interval.worst) for interval in intervals] == [(1, 3)] * 3


def test_few_questions_decide_no_ranks() -> None:
    """Five equal questions but for a rating: their resamples are nearly alike, and compare shows no difference."""
    ratings = [np.array([8.0, 8, 8, 8, 9]), np.array([6.0, 6, 6, 7, 6])]
    weights = np.random.default_rng(0).multinomial(5, np.full(5, 0.2), size=2000) / 5
    estimates, replicates = np.array([row.mean() for row in ratings]), np.stack([weights @ row for row in ratings], 1)
    bounded = [(row, np.ones(5)) for row in ratings]

    assert rank_intervals(estimates, replicates)[0] == RankInterval(1, 1)
    intervals = rank_intervals(estimates, replicates, df=4, least=least_errors(bounded, (1, 10)))
    assert intervals == [RankInterval(1, 2), RankInterval(1, 2)]


def test_joint_rank_intervals_hold_for_all_models_at_once() -> None:
    rng = np.random.default_rng(0)
    single = joint = 0
    for _ in range(60):  # ten equal models of 200 questions
        scores = rng.normal(size=(200, 10))
        values = scores.mean(axis=0)
        draws = values + rng.normal(size=(400, 200)) @ (scores - values) / 200
        order = np.argsort(np.argsort(-values)) + 1
        assert all(
            interval.best <= rank <= interval.worst
            for interval, rank in zip(rank_intervals(values, draws), order, strict=True)
        )
        single += any((interval.best, interval.worst) != (1, 10) for interval in rank_intervals(values, draws))
        joint += any(
            (interval.best, interval.worst) != (1, 10) for interval in rank_intervals(values, draws, joint=True)
        )
    assert joint <= 6  # equal models may have any rank: 5 % of boards say otherwise, with a standard error of 3
    assert joint < single


def test_right_and_wrong_answers_vary_at_least_as_if_one_more_was_won_and_one_lost() -> None:
    # 3 of 8 lost, none won; with one of each besides: (4 + 1) / 10 differ, 3 / 10 net
    first, second = right_or_wrong(3, 0, alike=5)

    estimate = paired_difference(second, first, bounds=(0, 1))

    assert estimate is not None
    assert (estimate.value, estimate.df) == (-0.375, 7)
    assert estimate.se == pytest.approx(max(((0.5 - 0.09) / 10) ** 0.5, (0.375 * 0.625 / 7) ** 0.5))
