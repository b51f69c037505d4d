"""Verdicts of several judges become one; what is missing is counted, never filled in."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import JsonValue

from harness.judging.jury import CardProtocol, Jury, agreed, combine, scored
from harness.records import Failure, Judgment, JuryRule, Preference, Rating, Verdict
from harness.suites.scoring import verdicts_by_slot

WIN, LOSS, DRAW = Preference(value=1), Preference(value=0), Preference(value=0.5)
GREAT_WIN, GREAT_LOSS = Preference(value=1, strength=2), Preference(value=0, strength=2)


def row(judge: str, verdict: Verdict | None, *, prompt: str = "q", repeat: int = 0) -> Judgment:
    error = Failure(reason="parse", message="no verdict") if verdict is None else None
    return Judgment(
        prompt_id=prompt, model="m", judge=judge, template_sha="t", repeat=repeat, verdict=verdict, error=error
    )


def jury(rule: JuryRule, members: int = 3) -> Jury:
    return Jury(tuple("abcde"[:members]), rule)


def one_verdict(rule: JuryRule, *verdicts: Verdict) -> Verdict | None:
    (judgment,) = combine(
        [row("abcde"[at], one) for at, one in enumerate(verdicts)], jury(rule, len(verdicts))
    ).judgments
    assert judgment.judge == "+".join("abcde"[: len(verdicts)])
    return judgment.verdict


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((WIN, WIN, LOSS), WIN),
        ((WIN, LOSS, DRAW), DRAW),  # nobody has more than half
        ((WIN, WIN, LOSS, LOSS), DRAW),
        ((GREAT_WIN, GREAT_WIN, WIN), GREAT_WIN),
        ((GREAT_WIN, WIN, LOSS), WIN),  # one of two is not more than half
        ((Preference(value=0.9), Preference(value=0.6), Preference(value=0.1)), WIN),  # outcomes, not probabilities
    ],
)
def test_the_majority_of_preferences_is_the_outcome_of_more_than_half(
    verdicts: tuple[Verdict, ...], expected: Verdict
) -> None:
    assert one_verdict("majority", *verdicts) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((GREAT_LOSS, LOSS, WIN), LOSS),
        ((GREAT_LOSS, GREAT_LOSS, WIN), GREAT_LOSS),
        ((WIN, LOSS), DRAW),  # the mean of the middle two
        ((GREAT_WIN, GREAT_LOSS), DRAW),
        ((GREAT_WIN, GREAT_WIN, GREAT_WIN, LOSS), GREAT_WIN),
        ((GREAT_WIN, WIN), WIN),  # strong only where both are
        ((Preference(value=0.75), Preference(value=0.5), Preference(value=0.25), WIN), Preference(value=0.625)),
    ],
)
def test_the_median_of_preferences_is_the_middle_of_side_and_strength(
    verdicts: tuple[Verdict, ...], expected: Verdict
) -> None:
    assert one_verdict("median", *verdicts) == expected


def test_ratings_by_majority_and_median() -> None:
    seven, eight, two = Rating(value=7), Rating(value=8), Rating(value=2)

    assert one_verdict("majority", seven, two, seven) == seven
    assert one_verdict("majority", seven, eight, two) == seven  # no majority: the median
    assert one_verdict("median", eight, two) == Rating(value=5)
    assert agreed([seven, eight, two, two], "median") == Rating(value=4.5)


def test_the_mean_hands_all_verdicts_to_the_scorer_which_averages_within_the_slot() -> None:
    found = combine([row("a", Rating(value=4)), row("b", Rating(value=9))], jury("mean", 2))

    ((_, verdicts),) = verdicts_by_slot(found.judgments, []).items()
    assert [verdict.value for verdict in verdicts] == [4, 9]


def test_more_than_half_of_the_members_must_give_a_verdict() -> None:
    rows = [row("a", WIN), row("b", WIN), row("c", None)]  # two of three: enough
    rows += [row("a", WIN, prompt="r"), row("b", None, prompt="r"), row("c", None, prompt="r")]  # one: too few
    rows += [row(name, LOSS, prompt="s") for name in "abc"]
    rows += [row("a", WIN, prompt="u"), row("b", LOSS, prompt="u")]  # the third was never asked: no majority of two

    found = combine(rows, jury("majority"))

    counts = found.counts
    assert (counts.questions, counts.full, counts.part, counts.short, counts.undecided) == (4, 1, 2, 1, 1)
    by_prompt = {judgment.prompt_id: judgment for judgment in found.judgments}
    failed = by_prompt["r"].error
    assert failed is not None
    assert failed.message == "1 of 3 judges gave a verdict; more than half must"
    assert by_prompt["q"].verdict == WIN


def test_a_jury_of_two_that_lost_one_is_no_jury() -> None:
    rules: tuple[JuryRule, ...] = get_args(JuryRule)
    for rule in set(rules) - {"cyclic"}:  # of which only one member is asked
        (judgment,) = combine([row("a", WIN), row("b", None)], Jury(("a", "b"), rule)).judgments
        assert judgment.verdict is None


def test_repeats_are_combined_each_by_itself() -> None:
    rows = [row("a", WIN), row("b", WIN), row("a", LOSS, repeat=1), row("b", LOSS, repeat=1)]

    found = combine(rows, jury("majority", 2)).judgments

    assert [(judgment.repeat, judgment.verdict) for judgment in found] == [(0, WIN), (1, LOSS)]


def test_a_protocol_tells_whether_a_jury_judged() -> None:
    member: dict[str, JsonValue] = {"name": "a", "kind": "llm", "model": "m", "params": {}}
    one: dict[str, JsonValue] = {"judge": member}
    two: dict[str, JsonValue] = {
        "judge": {"name": "a+b", "kind": "jury", "rule": "median", "members": [member, {**member, "name": "b"}]}
    }
    rows = [row("a", Rating(value=4)), row("b", Rating(value=9))]

    assert CardProtocol.read(one).jury is None
    assert CardProtocol.read(one).judges == {"a": member}
    assert CardProtocol.read(two).jury == Jury(("a", "b"), "median")
    assert list(CardProtocol.read(two).judges) == ["a", "b"]
    assert scored(rows, one) == tuple(rows)
    assert [judgment.verdict for judgment in scored(rows, two)] == [Rating(value=6.5)]
