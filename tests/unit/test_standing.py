"""A row against the one above it, and the ranks a card may have: paired where questions are shared, wider where not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.analysis.leaderboard import HeadlineDifference, RankRange, against, rank, rank_ranges
from harness.records import Score, ScoreCard
from harness.suites.scoring import QuestionSums
from tests.unit.test_leaderboard import card


def scored(model: str, value: float, se: float | None = 1.0) -> ScoreCard:
    low, high = (None, None) if se is None else (value - 2 * se, value + 2 * se)
    score = Score(value=value, ci_low=low, ci_high=high, se=se, n=4)
    return card(model, value).model_copy(update={"scores": {"mean": score}})


def sums(*values: float, metric: str = "mean", ids: str = "abcdefgh") -> QuestionSums:
    above = np.array(values, dtype=np.float64)
    return QuestionSums(metric, 1.0, tuple(ids[: len(values)]), above, np.ones(len(values)))


def test_without_questions_two_errors_are_joined_as_independent() -> None:
    """5 - 1 with errors 3 and 4: error 5, interval 4 -+ 1.96 * 5, z 0.8."""
    found = against(scored("a", 5.0, 3.0), scored("b", 1.0, 4.0), {})

    assert found is not None
    assert not found.paired
    assert (found.difference, round(found.ci_low, 2), round(found.ci_high, 2)) == (4.0, -5.8, 13.8)
    assert found.p == pytest.approx(0.4237, abs=1e-4)  # 2 * (1 - Phi(0.8))


def test_with_questions_it_is_the_paired_t_test() -> None:
    """Differences 1, 0, 1, 2: mean 1, sd sqrt(2/3), se sqrt(1/6); t 2.449 with 3 degrees of freedom, p 0.0917."""
    questions = {"run-a": sums(3, 1, 4, 6), "run-b": sums(2, 1, 3, 4)}
    found = against(scored("a", 3.5), scored("b", 2.5), questions)

    assert found is not None
    assert found.paired
    assert found.difference == 1.0
    assert found.p == pytest.approx(0.0917, abs=1e-4)
    assert found.ci_high - found.difference == pytest.approx(3.1824 * math.sqrt(1 / 6), abs=1e-4)


def test_another_metrics_questions_lend_their_correlation() -> None:
    """Terms that move as one (correlation 1) leave the difference of the errors: |3 - 2| = 1."""
    questions = {
        "run-a": sums(1, 2, 3, 4, metric="raw"),
        "run-b": sums(2, 4, 6, 8, metric="raw"),
    }
    found = against(scored("a", 9.0, 3.0), scored("b", 4.0, 2.0), questions)

    assert found is not None
    assert found.paired
    assert found.ci_high - found.difference == pytest.approx(3.1824, abs=1e-4)  # t of 3 degrees, error 1


def test_runs_that_share_too_few_questions_are_unpaired() -> None:
    questions = {"run-a": sums(1, 2, 3, 4), "run-b": sums(1, 2, 3, 4, ids="cdef")}
    found = against(scored("a", 2.0), scored("b", 1.0), questions)

    assert found is not None
    assert not found.paired


def test_a_star_needs_a_small_p_and_an_interval_without_0() -> None:
    step = HeadlineDifference(difference=1.0, ci_low=-0.2, ci_high=2.2, p=0.03, paired=True)

    assert not step.significant
    assert step.model_copy(update={"ci_low": 0.1}).significant
    assert not step.model_copy(update={"ci_low": 0.1, "p": 0.06}).significant


def test_no_error_no_comparison() -> None:
    assert against(scored("a", 2.0, None), scored("b", 1.0), {}) is None
    assert rank_ranges([scored("a", 2.0, None), scored("b", 1.0)], {}) == [None, None]


def test_ranks_stay_open_where_intervals_do() -> None:
    """10 and 9.5 cannot be told apart with errors of 1; 0 is far from both."""
    ranges = rank_ranges([scored("a", 10.0), scored("b", 9.5), scored("c", 0.0)], {})

    assert ranges == [RankRange(low=1, high=2), RankRange(low=1, high=2), RankRange(low=3, high=3)]


def test_shared_questions_tell_apart_what_errors_alone_do_not() -> None:
    """Two models half a point apart on every question, while questions differ by 100 points."""
    values = [0.0, 100.0, 20.0, 60.0, 80.0, 40.0, 30.0, 70.0]
    bump = [0.4, 0.6, 0.5, 0.5, 0.4, 0.6, 0.5, 0.5]
    questions = {"run-a": sums(*(one + more for one, more in zip(values, bump, strict=True))), "run-b": sums(*values)}
    cards = [scored("a", 50.5, 11.0), scored("b", 50.0, 11.0)]

    assert rank_ranges(cards, questions) == [RankRange(low=1, high=1), RankRange(low=2, high=2)]
    assert rank_ranges(cards, {}) == [RankRange(low=1, high=2), RankRange(low=1, high=2)]


def test_the_table_compares_each_ranked_row_with_the_one_above() -> None:
    broken = card("broken", 99.0, complete=False)
    (table,) = rank([scored("a", 3.0), scored("b", 1.0), broken])

    assert [row.above.difference if row.above else None for row in table.rows] == [None, -2.0, None]
    assert [row.rank_range is not None for row in table.rows] == [True, True, False]
