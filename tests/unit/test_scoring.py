"""Scores worked out by hand: units, weights, missing rows, repeats, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.records import Answer, Failure, Judgment, Preference, Rating
from harness.stats.length_control import (
    LengthControl,
    LengthRows,
    assign_folds,
    control_length,
    control_length_interval,
    fit_replicates,
    sigmoid,
)
from harness.stats.paired import ratio_interval
from harness.suites.scoring import Slot, Unit, draws, mean_score, verdict_bounds, verdicts_by_slot


def answer(prompt_id: str, text: str = "x", index: int = 0) -> Answer:
    return Answer(prompt_id=prompt_id, model="m", index=index, turns=(text,), finish=("stop",))


def judgment(of: Answer, value: float | None, *, repeat: int = 0, turn: int | None = 1) -> Judgment:
    return Judgment(
        prompt_id=of.prompt_id,
        model="m",
        judge="j",
        template_sha="t",
        answer_sha=of.sha,
        turn=turn,
        repeat=repeat,
        verdict=None if value is None else Rating(value=value),
        error=Failure(reason="parse", message="no") if value is None else None,
    )


def test_mean_counts_what_is_missing_and_never_scores_it() -> None:
    score = mean_score([Unit("a", 8), Unit("a", 4), Unit("b", 6)], 5)
    assert (score.value, score.n, score.unscored) == (6.0, 3, 2)


def test_weighted_units_are_a_ratio_of_sums() -> None:
    # one strong win (weight 3) against one plain loss: 3 of 4
    score = mean_score([Unit("a", 3, 3), Unit("b", 0, 1)], 2, scale=100)
    assert score.value == 75.0


def test_one_question_has_no_interval() -> None:
    score = mean_score([Unit("a", 1), Unit("a", 0)], 2)
    assert score.ci_low is score.ci_high is score.se is None


def test_interval_is_over_questions_not_rows() -> None:
    # the same two values in each of 100 questions' two rows, or spread over 200 questions: the first is wider
    rng = np.random.default_rng(1)
    values = rng.random(100)
    doubled = mean_score([Unit(str(n), value) for n, value in enumerate(values) for _ in range(2)], 200)
    spread = mean_score([Unit(f"{n}-{k}", value) for n, value in enumerate(values) for k in range(2)], 200)
    assert doubled.se == pytest.approx(np.std(values, ddof=1) / 10, rel=0.03)
    assert spread.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(200), rel=0.03)


def test_five_equal_ratings_have_the_interval_of_seven_with_a_1_and_a_10() -> None:
    # 9, 9, 9, 9, 9, 1, 10: mean 8, variance (5 + 49 + 4) / 6, Student's t of 6 degrees of freedom
    score = mean_score([Unit(str(n), 9) for n in range(5)], 5, bounds=(1, 10))
    se = math.sqrt(58 / 6 / 7)
    assert score.value == 9.0
    assert score.se == pytest.approx(se)
    assert score.ci_low == pytest.approx(8 - 2.446911851 * se)
    assert score.ci_high == 10.0


def test_an_interval_stays_within_the_bounds_and_contains_the_score() -> None:
    interval = ratio_interval(np.ones(400), np.ones(400), (0.0, 1.0))
    assert interval is not None
    assert (0.99 < interval.low < 1.0, interval.high) == (True, 1.0)


def test_without_bounds_an_interval_is_the_plain_t_interval_and_equal_scores_have_none() -> None:
    interval = ratio_interval(np.array([1.0, 2.0, 3.0]), np.ones(3))
    assert interval is not None
    assert interval.high == pytest.approx(2 + 4.302652730 / math.sqrt(3))
    assert ratio_interval(np.ones(30), np.ones(30)) is None
    assert ratio_interval(np.array([0.0, 2.0, 4.0]), np.ones(3), (0.0, 1.0)) == ratio_interval(
        np.array([0.0, 2.0, 4.0]), np.ones(3)
    )


def test_bounds_are_those_that_the_verdicts_state() -> None:
    rows = [judgment(answer("a"), 4.0), judgment(answer("b"), None)]
    assert verdict_bounds(rows) == (1, 10)
    assert verdict_bounds(rows[1:]) is None


def test_the_last_of_equal_judgments_wins_and_repeats_stay_apart() -> None:
    one = answer("a")
    rows = [judgment(one, 2), judgment(one, 5), judgment(one, 7, repeat=1)]
    found = verdicts_by_slot(rows, [one])
    assert [verdict.value for verdict in found[Slot("a", turn=1)]] == [5, 7]


def test_a_later_failure_replaces_an_earlier_verdict() -> None:
    one = answer("a")
    assert not verdicts_by_slot([judgment(one, 2), judgment(one, None)], [one])


def test_a_judgment_of_another_text_is_left_out() -> None:
    assert not verdicts_by_slot([judgment(answer("a", "old"), 9)], [answer("a", "new")])


def test_draws_are_one_more_than_the_highest_index() -> None:
    assert draws([]) == 1
    assert draws([answer("a"), answer("a", index=2)]) == 3


def test_stable_folds_go_round_robin_from_the_last_row() -> None:
    assert assign_folds(7, 5, "stable").tolist() == [1, 0, 4, 3, 2, 1, 0]


def test_published_folds_keep_the_stable_order_up_to_sixteen_rows() -> None:
    assert assign_folds(16).tolist() == assign_folds(16, order="stable").tolist()
    assert assign_folds(40).tolist() != assign_folds(40, order="stable").tolist()
    assert np.bincount(assign_folds(2415)).tolist() == [483] * 5


def synthetic(rows: int, seed: int = 0) -> LengthRows:
    """Preferences that follow difficulty and length by a known law: 1.0 * tanh(length) + 0.5 * difficulty - 0.2."""
    rng = np.random.default_rng(seed)
    difference = rng.normal(0, 300, rows)
    difficulty = rng.normal(0, 1, rows)
    law = np.tanh(difference / np.std(difference, ddof=1)) + 0.5 * difficulty - 0.2
    return LengthRows(preference=sigmoid(law), length_difference=difference, difficulty=difficulty)


GAMED = tuple((float(sigmoid(np.array(np.tanh(x)))), float(x), 0.0) for x in np.linspace(-2, 2, 40))


def test_length_control_finds_the_law_and_reads_it_out_at_equal_length() -> None:
    pytest.importorskip("sklearn")
    rows = synthetic(300)
    fit = control_length(rows, GAMED)
    assert fit is not None
    assert fit.coefficients == pytest.approx((1.0, 0.5, -0.2), abs=0.05)
    assert fit.win_rate == pytest.approx(100 * np.mean(sigmoid(0.5 * rows.difficulty - 0.2)), abs=0.5)
    interval = control_length_interval(rows, GAMED, fit, refits=100)
    assert interval is not None
    assert interval.low < fit.win_rate < interval.high


def test_rows_without_verdict_do_not_fit_but_are_read_out() -> None:
    pytest.importorskip("sklearn")
    rows = synthetic(300)
    holes = rows.preference.copy()
    holes[:20] = np.nan
    fit = control_length(LengthRows(holes, rows.length_difference, rows.difficulty), GAMED)
    assert fit is not None
    assert fit.coefficients == pytest.approx((1.0, 0.5, -0.2), abs=0.05)


def test_length_control_refuses_too_few_verdicts_and_equal_lengths() -> None:
    rows = synthetic(9)
    assert control_length(rows, GAMED) is None
    same = synthetic(50)
    assert control_length(LengthRows(same.preference, np.zeros(50), same.difficulty), GAMED) is None


def test_exact_solver_agrees_with_liblinear() -> None:
    pytest.importorskip("sklearn")
    rows = synthetic(200, seed=5)
    noisy = np.clip(rows.preference + np.random.default_rng(6).normal(0, 0.2, 200), 0, 1)
    rows = LengthRows(noisy, rows.length_difference, rows.difficulty)
    fit = control_length(rows, GAMED)
    assert isinstance(fit, LengthControl)
    gamed = np.array(GAMED)
    length = np.tanh(rows.length_difference / np.std(rows.length_difference, ddof=1))
    exact = fit_replicates(
        varying=np.concatenate([np.tanh(gamed[:, 1]), length])[:, None],
        shared=np.column_stack(
            [np.concatenate([gamed[:, 2], rows.difficulty]), np.concatenate([np.zeros(40), np.ones(200)])]
        ),
        target=np.concatenate([gamed[:, 0], noisy]),
        weight=np.concatenate([np.full(40, 0.1), np.ones(200)])[:, None],
        start=np.zeros(3),
        strength=fit.strength,
    )
    assert exact[:, 0] == pytest.approx(fit.coefficients, abs=5e-3)


def test_strong_penalty_drives_all_coefficients_to_zero() -> None:
    found = fit_replicates(
        varying=np.ones((4, 2)),
        shared=np.ones((4, 2)),
        target=np.array([0.9, 0.8, 0.9, 0.7]),
        weight=np.ones((4, 2)),
        start=np.full(3, 0.5),
        strength=1e-4,
    )
    assert found == pytest.approx(np.zeros((3, 2)), abs=1e-9)


def test_preference_units_may_hold_probabilities() -> None:
    assert Preference(value=0.25).strength == 1
    assert mean_score([Unit("a", 0.25), Unit("b", 0.75)], 2, scale=100).value == 50.0
