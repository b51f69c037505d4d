"""Question sums are the score card's own terms."""

from __future__ import annotations

import pytest

from harness.records import Judgment, Order, Preference, Rating
from harness.records.facts import facts_of
from harness.suites.scoring import common, disagreements, question_sums, rules_of


def game(prompt: str, order: Order, value: float, strength: int = 1) -> Judgment:
    return Judgment(
        prompt_id=prompt,
        model="m",
        baseline="b",
        judge="j",
        template_sha="t",
        order=order,
        verdict=Preference(value=value, strength=strength),
    )


def rated(prompt: str, turn: int, value: float) -> Judgment:
    return Judgment(prompt_id=prompt, model="m", judge="j", template_sha="t", turn=turn, verdict=Rating(value=value))


def test_a_strong_verdict_counts_three_times_above_and_below_the_line() -> None:
    sums = question_sums(
        facts_of("arena_hard").rules[0], [], [game("a", "ab", 1.0, 2), game("a", "ba", 0.0), game("b", "ab", 0.5)]
    )

    assert sums.ids == ("a", "b")
    assert list(sums.above) == [3.0, 0.5]
    assert list(sums.below) == [4.0, 1.0]
    assert sums.value == pytest.approx(100 * 3.5 / 5)


def test_turns_of_a_question_are_summed_and_one_turn_can_be_taken_alone() -> None:
    rows = [rated("10", 1, 8), rated("10", 2, 6), rated("9", 1, 4)]
    both, first, _ = (question_sums(rule, [], rows) for rule in facts_of("mt_bench").rules)

    assert both.ids == ("9", "10")  # by number, not by letter
    assert list(both.above) == [4.0, 14.0]
    assert list(both.below) == [1.0, 2.0]
    assert first.value == 6.0


def test_version_two_drops_a_question_with_one_broken_game_and_counts_its_own_category() -> None:
    rows = [
        game("a", "ab", 1.0),
        game("b", "ab", 1.0),
        game("b", "ba", 0.5),
        game("c", "ab", 0.0),
        game("c", "ba", 0.0),
    ]
    headline, _, creative = facts_of("arena_hard_v2").rules
    categories = {"a": "hard_prompt", "b": "hard_prompt", "c": "creative_writing"}

    assert question_sums(headline, [], rows, categories=categories).ids == ("b",)
    assert question_sums(creative, [], rows, categories=categories).value == 0.0


def test_a_suite_from_elsewhere_is_a_mean_of_ratings_or_a_rate() -> None:
    assert rules_of("own", "mean", [rated("a", 1, 5)])[0].scale == 1.0
    assert rules_of("own", "rate", [game("a", "ab", 1.0)])[0].scale == 100.0


def test_common_keeps_the_questions_that_all_have_in_one_order() -> None:
    rule = facts_of("mt_bench").rules[0]
    one = question_sums(rule, [], [rated("1", 1, 5), rated("2", 1, 6), rated("3", 1, 7)])
    two = question_sums(rule, [], [rated("3", 1, 1), rated("2", 1, 2), rated("4", 1, 9)])

    left, right = common([one, two])

    assert left.ids == right.ids == ("2", "3")
    assert list(left.scores()) == [6.0, 7.0]
    assert list(right.scores()) == [2.0, 1.0]


def test_disagreement_is_the_difference_between_the_two_orders() -> None:
    rows = [
        game("a", "ab", 1.0),
        game("a", "ba", 0.0),
        game("b", "ab", 0.5),
        game("b", "ba", 0.5),
        game("c", "ab", 1.0),
    ]

    assert disagreements([], rows) == {"a": 1.0, "b": 0.0}
