"""Agreement, its intervals, and corrections of a judge's number: by hand, by the papers' examples, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from harness.stats.agreement import (
    JudgedSample,
    agreement,
    flip_rate,
    krippendorff_alpha,
    position_consistency,
    prediction_powered,
    rank_correlation,
    rogan_gladen,
)

CELLS = [("win", "win")] * 20 + [("win", "loss")] * 5 + [("loss", "win")] * 10 + [("loss", "loss")] * 15


def test_kappa_is_agreement_beyond_what_the_margins_give() -> None:
    found = agreement([one for one, _ in CELLS], [other for _, other in CELLS])

    assert found.raw.value == pytest.approx(35 / 50)
    assert found.kappa.value == pytest.approx((0.7 - 0.5) / (1 - 0.5))  # pe = .5 * .6 + .5 * .4


def test_kappas_error_is_that_of_fleiss_cohen_and_everitt_with_one_more_row_in_each_cell() -> None:
    found = agreement([one for one, _ in CELLS], [other for _, other in CELLS])
    # cells 21, 6, 11, 16 of 54; po = 37/54, pe = 1/2, margins 27 + 32 and 27 + 22
    one, other, apart = 59 / 54, 49 / 54, 17 / 54
    agreed = 21 / 54 * (0.5 - one * apart) ** 2 + 16 / 54 * (0.5 - other * apart) ** 2
    differing = apart**2 * (6 / 54 * one**2 + 11 / 54 * other**2)
    variance = (agreed + differing - (37 / 108 - apart) ** 2) / 0.5**4

    interval = found.kappa.interval
    assert interval is not None
    assert interval.se == pytest.approx(np.sqrt(variance / 53), rel=1e-9)
    assert (interval.low + interval.high) / 2 == pytest.approx(2 * 37 / 54 - 1)


def test_eleven_equal_rows_do_not_show_that_judges_agree_beyond_doubt() -> None:
    found = agreement(["win"] * 10 + ["loss"], ["win"] * 10 + ["loss"])

    assert found.kappa.value == 1.0
    assert found.kappa.interval is not None
    assert (found.kappa.interval.low < 0.3, found.kappa.interval.high) == (True, 1.0)


@pytest.mark.parametrize("rows", [20, 30, 60])
def test_kappas_interval_covers_when_93_percent_of_the_rows_have_one_label(rows: int) -> None:
    rng, covered, kappa = np.random.default_rng(rows), 0, 0.4
    for _ in range(300):
        first, alone = rng.random((2, rows)) < 0.93
        second = np.where(rng.random(rows) < kappa, first, alone)
        measured = agreement(first.tolist(), second.tolist()).kappa
        covered += measured.interval is None or measured.interval.low <= kappa <= measured.interval.high
    assert covered / 300 >= 0.93


def test_rows_of_one_question_count_as_one_when_they_are_alike() -> None:
    alone = agreement([1, 0, 1, 1], [1, 1, 0, 1])
    tripled = agreement([1, 0, 1, 1] * 3, [1, 1, 0, 1] * 3, clusters=["a", "b", "c", "d"] * 3)

    assert tripled.raw.interval == alone.raw.interval
    assert tripled.kappa.interval is not None
    assert alone.kappa.interval is not None
    assert tripled.kappa.interval.low < alone.kappa.interval.low + 0.1  # the pseudo-rows weigh less among 12 rows


def test_kappa_of_judges_who_say_one_thing_only_is_not_defined() -> None:
    assert agreement(["win"] * 3, ["win"] * 3).kappa.value is None
    assert agreement([], []).raw.value is None


def test_kappas_interval_covers_the_true_kappa_with_clustered_rows() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        hard = rng.random(80) < 0.5  # on a hard question both throw coins; else the second repeats the first
        first = rng.integers(0, 2, size=(80, 3))
        second = np.where(hard[:, None], rng.integers(0, 2, size=(80, 3)), first)
        clusters = np.repeat(np.arange(80), 3).tolist()
        interval = agreement(first.ravel().tolist(), second.ravel().tolist(), clusters).kappa.interval
        assert interval is not None
        covered += interval.low <= 0.5 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_a_shares_interval_is_wilsons_and_stays_within_0_and_1() -> None:
    found = agreement(["a"] * 20, ["a"] * 19 + ["b"]).raw  # 19 of 20; t of 19 degrees is 2.093
    t2, n, p = 2.093024**2, 20 * 19 / 20, 0.95  # SE^2 = p(1-p)/n * 20/19: the effective number of rows is 19
    half = np.sqrt(t2 * (p * (1 - p) + t2 / (4 * n)) / n) / (1 + t2 / n)

    assert found.interval is not None
    assert found.interval.high == pytest.approx((p + t2 / (2 * n)) / (1 + t2 / n) + half, rel=1e-5)
    all_agree = agreement(["a"] * 3, ["a"] * 3).raw
    assert all_agree.interval is not None
    assert all_agree.interval.low < 0.5 < all_agree.interval.high == 1


def test_a_shares_interval_covers_the_truth_near_one_with_few_clustered_rows() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(600):
        hard = rng.random(40) < 0.1
        same = rng.random((40, 3)) > np.where(hard, 0.5, 0.02)[:, None]  # true share 0.932
        rows = same.ravel().tolist()
        interval = agreement(rows, [True] * 120, np.repeat(np.arange(40), 3).tolist()).raw.interval
        assert interval is not None
        covered += interval.low <= 0.932 <= interval.high
    assert 0.92 <= covered / 600 <= 0.99


KRIPPENDORFF_2011 = [  # his example: 12 units, four observers, missing verdicts left out
    *([1, 1, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4]),
    *([4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [5, 5, 5], [1, 1], [3]),
]


def test_alpha_gives_the_figures_of_krippendorffs_example() -> None:
    nominal = krippendorff_alpha(KRIPPENDORFF_2011)
    interval = krippendorff_alpha(KRIPPENDORFF_2011, interval_metric=True)

    assert nominal == pytest.approx(0.743, abs=5e-4)
    assert interval == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None


def test_a_judge_that_always_takes_the_first_is_never_consistent() -> None:
    second, first = np.zeros(10), np.ones(10)  # the candidate loses when shown second, wins when shown first

    found = position_consistency(second, first, range(10))

    assert found.consistent.value == 0
    assert found.first_shown.value == 1


def test_consistency_asks_for_the_side_not_for_the_same_probability() -> None:
    found = position_consistency(np.array([0.9, 0.4, 0.5]), np.array([0.6, 0.6, 0.5]), range(3))

    assert found.consistent.value == pytest.approx(2 / 3)


def test_flip_rate_is_the_chance_that_two_repeats_differ() -> None:
    # 3 repeats of which one differs: 2 of 3 pairs unequal; 2 equal repeats: none; a single one tells nothing
    assert flip_rate([["a", "a", "b"], ["a", "a"], ["b"]]).value == pytest.approx((2 / 3 + 0) / 2)


# ----------------------------------------------------------------------------------------------------- correction


def test_a_judge_no_better_than_chance_cannot_be_corrected() -> None:
    people = np.array([1.0, 1.0, 0.0, 0.0] * 20)

    assert rogan_gladen(JudgedSample(np.array([1.0, 0.0, 1.0, 0.0] * 20), people, range(80))).value is None
    assert rogan_gladen(JudgedSample(np.ones(2), np.full(2, np.nan), range(2))).value is None


def test_a_judge_is_corrected_from_50_rows_that_people_judged() -> None:
    judge, people = np.array([1.0, 0.0] * 50), np.array([1.0, 0.0] * 25 + [np.nan] * 50)
    fewer = people.copy()
    fewer[0] = np.nan

    assert rogan_gladen(JudgedSample(judge, people, range(100))).value == 0.5
    assert prediction_powered(JudgedSample(judge, people, range(100))).value == 0.5
    assert rogan_gladen(JudgedSample(judge, fewer, range(100))).value is None
    assert prediction_powered(JudgedSample(judge, fewer, range(100))).value is None


def test_rogan_gladens_interval_is_lang_and_reiczigels() -> None:
    # 8664 of 10100 judged a win; people call 60 wins, 54 of them judged so, and 40 losses, 30 of them judged so
    judge = np.array([1.0] * 54 + [0.0] * 6 + [1.0] * 10 + [0.0] * 30 + [1.0] * 8600 + [0.0] * 1400)
    people = np.array([1.0] * 60 + [0.0] * 40 + [np.nan] * 10_000)
    z2 = 1.959963984540054**2
    p, q1, q0 = (8664 + z2 / 2) / (10_100 + z2), 55 / 62, 31 / 42
    theta = (p + q0 - 1) / (q1 + q0 - 1)
    shift = 2 * z2 * (theta * q1 * (1 - q1) / 62 - (1 - theta) * q0 * (1 - q0) / 42)

    interval = rogan_gladen(JudgedSample(judge, people, range(10_100))).interval

    assert interval is not None
    reach = theta + shift - interval.low
    assert interval.high == pytest.approx(min(1.0, theta + shift + reach))
    # the paper's samples are independent; here people judged 100 of the 10,100 rows
    apart = p * (1 - p) / (10_100 + z2) + theta**2 * q1 * (1 - q1) / 62 + (1 - theta) ** 2 * q0 * (1 - q0) / 42
    assert interval.se == pytest.approx(np.sqrt(apart) / (q1 + q0 - 1), rel=0.01)


def test_rogan_gladen_of_rows_is_that_of_counts_and_ties_are_left_out() -> None:
    # eight times: the judge, 6 of 10 wins (and a tie); people on 7 of them: 3 of 4 wins seen, 2 of 3 losses seen
    judge = np.tile([1, 1, 1, 0, 0, 0, 1, 1, 0, 1, 0.5], 8)
    people = np.tile([1, 1, 1, 1, 0, 0, 0, np.nan, np.nan, np.nan, 1], 8)

    found = rogan_gladen(JudgedSample(judge, people, range(88)))

    assert found.value == pytest.approx((0.6 + 2 / 3 - 1) / (2 / 3 + 3 / 4 - 1))


def test_rogan_gladen_of_rows_covers_the_truth_when_a_questions_rows_are_alike() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        lean = rng.normal(0, 0.15, 80)[:, None]
        truth = (rng.random((80, 10)) < 0.6 + lean).astype(float)
        kept = rng.random((80, 10)) < np.where(truth == 1, 0.85, 0.75)
        judge = np.where(kept, truth, 1 - truth)
        people = np.where(rng.random((80, 10)) < 0.4, truth, np.nan)
        rows = JudgedSample(judge.ravel(), people.ravel(), np.repeat(np.arange(80), 10).tolist())
        interval = rogan_gladen(rows).interval
        assert interval is not None
        covered += interval.low <= 0.6 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_prediction_powered_by_hand() -> None:
    judge = np.array([1.0, 1.0, 0.0, 1.0] * 25)
    people = np.array([1.0, 0.0, np.nan, np.nan] * 25)

    found = prediction_powered(JudgedSample(judge, people, range(100)))

    assert found.value == pytest.approx(3 / 4 + (0 - 1) / 2)  # judge's mean over all, plus people - judge where both


def test_prediction_powered_covers_the_truth_and_tuning_narrows_it() -> None:
    rng = np.random.default_rng(2)
    covered = tuned_covered = 0
    width = tuned_width = 0.0
    for _ in range(400):
        lean = rng.normal(0, 0.15, 80)[:, None]  # questions lean to one side: their rows are alike
        truth = (rng.random((80, 5)) < 0.6 + lean).astype(float)
        judge = np.where(rng.random((80, 5)) < 0.75, truth, 1.0)  # a judge too kind
        people = np.where(rng.random((80, 5)) < 0.3, truth, np.nan)
        rows = JudgedSample(judge.ravel(), people.ravel(), np.repeat(np.arange(80), 5).tolist())
        plain, tuned = prediction_powered(rows), prediction_powered(rows, tuned=True)
        assert plain.interval is not None
        assert tuned.interval is not None
        covered += plain.interval.low <= 0.6 <= plain.interval.high
        tuned_covered += tuned.interval.low <= 0.6 <= tuned.interval.high
        width += plain.interval.high - plain.interval.low
        tuned_width += tuned.interval.high - tuned.interval.low
    assert 0.92 <= covered / 400 <= 0.98
    assert 0.92 <= tuned_covered / 400 <= 0.98
    assert tuned_width < width


def test_a_useless_judge_leaves_peoples_own_mean_when_tuned() -> None:
    people = np.array([1.0, 0.0, 1.0, np.nan] * 20)

    assert prediction_powered(JudgedSample(np.ones(80), people, range(80)), tuned=True).value == pytest.approx(2 / 3)


def test_people_who_agree_on_all_they_saw_do_not_make_a_rate_certain() -> None:
    people = np.array([1.0] * 50 + [np.nan] * 50)

    interval = prediction_powered(JudgedSample(np.ones(100), people, range(100)), bounds=(0.0, 1.0)).interval

    assert interval is not None
    assert (interval.low < 0.95, interval.high) == (True, 1.0)


# ----------------------------------------------------------------------------------------------- rank correlation


def test_rank_correlations_are_scipys_ties_included() -> None:
    sums = np.array([[3.0, 1.0, 2.0, 2.0, 5.0]])
    board = np.array([10.0, 20.0, 20.0, 5.0, 30.0])

    found = rank_correlation(sums, np.ones((1, 5)), board)

    assert found.spearman.value == pytest.approx(spearmanr(sums[0], board).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(sums[0], board).statistic)


def test_rank_correlation_of_noisy_scores_has_an_interval_below_one() -> None:
    rng = np.random.default_rng(4)
    sums = np.linspace(0, 1, 8) + rng.normal(0, 1.5, (80, 8))

    found = rank_correlation(sums, np.ones((80, 8)), np.arange(8.0, dtype=np.float64))

    assert found.spearman.value is not None
    assert found.spearman.interval is not None
    assert found.spearman.interval.low < found.spearman.value <= 1
    assert rank_correlation(sums[:, :2], np.ones((80, 2)), np.arange(2.0, dtype=np.float64)).spearman.value is None
