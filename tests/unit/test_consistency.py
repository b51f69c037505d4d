"""Flips, agreement and variance of verdicts: shares counted by hand, the error's parts against the headline's own."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from harness.judging.jury import Jury, combine
from harness.records import Failure, Judgment, Preference, Rating, Score, Verdict
from harness.records.facts import QuestionRule
from harness.running.trust import differing, judging, order_flips, pair_agreement, repeat_flips, variance_parts
from harness.suites.scoring import Unit, mean_score, slot_unit

RATE, MEAN = QuestionRule("rate", 100.0), QuestionRule("mean", 1.0)


def said(
    prompt: str,
    verdict: Verdict | None,
    *,
    judge: str = "j",
    order: Literal["ab", "ba"] | None = None,
    repeat: int = 0,
    index: int = 0,
    turn: int | None = None,
) -> Judgment:
    return Judgment(
        prompt_id=prompt,
        index=index,
        model="m",
        judge=judge,
        template_sha="t",
        order=order,
        repeat=repeat,
        turn=turn,
        verdict=verdict,
        error=Failure(reason="parse", message="none") if verdict is None else None,
    )


def games(*pairs: tuple[float, float]) -> list[Judgment]:
    """A question a pair: preference when shown second, when shown first."""
    rows = []
    for at, (second, first) in enumerate(pairs):
        rows.append(said(f"q{at}", Preference(value=second), order="ab"))
        rows.append(said(f"q{at}", Preference(value=first), order="ba"))
    return rows


def test_a_verdict_flips_with_the_order_where_the_outcome_changes() -> None:
    """Win-win stays, win-loss and draw-win flip, loss-loss stays: 2 of 4. The answer shown first got, of each pair,
    (first + 1 - second) / 2 = 0.5, 0, 0.75, 0.5 of the points."""
    flips, first = order_flips(games((1, 1), (1, 0), (0.5, 1), (0, 0)))

    assert flips is not None
    assert first is not None
    assert (flips.value, flips.n) == (50.0, 4)
    assert first.value == pytest.approx(100 * (0.5 + 0 + 0.75 + 0.5) / 4)
    assert flips.ci_low is not None
    assert flips.ci_high is not None
    assert 0 <= flips.ci_low < 50 < flips.ci_high <= 100


def test_strength_is_no_flip_and_a_single_game_is_no_pair() -> None:
    rows = [
        said("q", Preference(value=1, strength=2), order="ab"),
        said("q", Preference(value=1), order="ba"),
        said("r", Preference(value=1), order="ab"),
        said("r", None, order="ba"),
    ]

    flips, _ = order_flips(rows)

    assert flips is not None
    assert (flips.value, flips.n) == (0.0, 1)
    assert order_flips(rows[2:]) == (None, None)


def test_repeats_flip_with_the_share_of_unequal_pairs() -> None:
    """Ratings 7, 7, 8: of 3 pairs 2 are unequal; 5, 5, 5: none. (2/3 + 0) / 2."""
    rows = [said("q", Rating(value=value), repeat=at) for at, value in enumerate((7, 7, 8))]
    rows += [said("r", Rating(value=5), repeat=at) for at in range(3)]

    found = repeat_flips(rows)

    assert found is not None
    assert found.value == pytest.approx(100 / 3)
    assert found.n == 2
    assert repeat_flips(rows[:1]) is None


def test_members_agree_on_outcomes_and_differ_on_questions() -> None:
    """a: win, win, loss, draw; b: win, loss, loss, draw: 3 of 4 alike; by chance (2*1 + 1*2 + 1*1) / 16 = 5/16, so
    kappa is (3/4 - 5/16) / (11/16) = 7/11."""
    a, b = (0.9, 1.0, 0.2, 0.5), (0.6, 0.0, 0.0, 0.5)
    rows = {
        name: [said(f"q{at}", Preference(value=value), judge=name) for at, value in enumerate(values)]
        for name, values in (("a", a), ("b", b))
    }

    found = pair_agreement(rows, "a", "b")

    assert (found.agreement.value, found.agreement.n) == (75.0, 4)
    assert found.kappa.value == pytest.approx(7 / 11)
    assert differing([*rows["a"], *rows["b"]]).value == 25.0


def test_the_parts_of_an_error_by_hand() -> None:
    """Two questions, two repeats: 1, 3 and 5, 9. Between repeats (2 + 8) / 2 = 5; between questions
    2 (2.5^2 + 2.5^2) = 25, (25 - 5) / 2 = 10. Variance of the mean (10 + 5/2) / 2; the judge's part (5/2) / 2."""
    rows = [said("q", Rating(value=value), repeat=at) for at, value in enumerate((1, 3))]
    rows += [said("r", Rating(value=value), repeat=at) for at, value in enumerate((5, 9))]

    found = variance_parts(rows, MEAN)

    assert found is not None
    assert (found.unit, found.questions, found.generation, found.judge) == ("points", 2, None, None)
    assert found.question == pytest.approx(10.0)
    assert found.repeat == pytest.approx(5.0)
    assert found.se == pytest.approx(6.25**0.5)
    assert found.judge_share == pytest.approx(20.0)


def test_one_verdict_a_question_says_nothing_about_the_judge() -> None:
    assert variance_parts([said(f"q{at}", Rating(value=at + 1)) for at in range(5)], MEAN) is None
    assert variance_parts([], MEAN) is None


def simulated(rng: np.random.Generator, questions: int = 60) -> list[Judgment]:
    """Ratings of two turns: 2 draws, 2 judges of which b is 1 lower, 3 repeats; sds 1, 0.5, 0.4 and 0.6."""
    rows = []
    for question in range(questions):
        level = rng.normal(5, 1)
        for index in range(2):
            answer = level + rng.normal(0, 0.5)
            for judge in "ab":
                told = answer - (judge == "b") + rng.normal(0, 0.4)
                for repeat in range(3):
                    noise = rng.normal(0, 0.6)
                    rows += [
                        said(
                            f"q{question}",
                            Rating(value=told + noise - (turn == 2), low=-100, high=100),
                            judge=judge,
                            repeat=repeat,
                            index=index,
                            turn=turn,
                        )
                        for turn in (1, 2)
                    ]
    return rows


@pytest.mark.slow
def test_simulated_parts_are_found_and_add_up_to_the_headlines_own_error() -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(30):
        rows = simulated(rng)
        parts = variance_parts(rows, MEAN)
        assert parts is not None
        own = mean_score([Unit(row.prompt_id, row.verdict.value) for row in rows if row.verdict], len(rows))
        assert own.se is not None
        assert parts.se == pytest.approx(own.se, rel=0.06)
        found.append((parts.question, parts.generation or 0, parts.judge or 0, parts.repeat or 0))

    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(30)
    assert np.all(np.abs(mean - np.array([1.0, 0.25, 0.16, 0.36])) < 3 * error + 0.01)


def test_strong_verdicts_count_as_in_the_headline() -> None:
    """The error the parts add up to is the clustered one of the weighted ratio, not of the plain mean."""
    rng = np.random.default_rng(6)
    rows = []
    for at in range(400):
        skill = rng.normal(0, 1)
        for order in ("ab", "ba"):
            told = skill + rng.normal(0, 1)
            verdict = Preference(value=float(told > 0), strength=2 if abs(told) > 1.5 else 1)
            rows.append(said(f"q{at}", verdict, order="ab" if order == "ab" else "ba"))
    parts = variance_parts(rows, RATE)
    weights = [3.0 if isinstance(row.verdict, Preference) and row.verdict.strength == 2 else 1.0 for row in rows]
    units = [
        Unit(row.prompt_id, weight * row.verdict.value, weight)
        for row, weight in zip(rows, weights, strict=True)
        if row.verdict
    ]
    own = mean_score(units, len(rows), scale=100.0)

    assert parts is not None
    assert own.se is not None
    assert parts.unit == "percent"
    assert parts.se == pytest.approx(own.se, rel=0.05)


def test_a_jury_is_told_with_each_members_headline_and_one_judge_without() -> None:
    rows = [
        said(f"q{at}", Rating(value=value), judge=judge)
        for judge, values in (("a", (4, 5, 6)), ("b", (4, 5, 9)))
        for at, value in enumerate(values)
    ]

    def mean(some: Sequence[Judgment]) -> Score:
        values = [row.verdict.value for row in some if row.verdict]
        return Score(value=sum(values) / len(values), n=len(values))

    asked = {"q0": "c", "q1": "c", "q2": "c"}
    both = judging(rows, combine(rows, Jury(("a", "b"), "mean")), repeats=1, rule=MEAN, categories=asked, headline=mean)
    alone = judging(rows[:3], None, repeats=1, rule=MEAN, categories=asked, headline=mean)

    assert {name: score.value for name, score in both.members.items()} == {"a": 5.0, "b": 6.0}
    assert both.differing is not None
    assert both.differing.value == pytest.approx(100 / 3)
    assert both.rule == "mean"
    assert alone.members == {}
    assert alone.rule is None


PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
OUTCOME = {"A>>B": 0.0, "A>B": 0.0, "A=B": 0.5, "B>A": 1.0, "B>>A": 1.0}
"""Game 0, the baseline shown as A: the candidate's outcome."""


@pytest.mark.skipif(PUBLISHED is None, reason="HARNESS_PUBLISHED names the folder of recorded judgments")
def test_the_official_verdicts_of_gpt_4_0613_flip_in_171_of_500_questions() -> None:
    """Flips counted here from the labels; the error the parts add up to is the bootstrap's of the headline, 2.02."""
    path = Path(str(PUBLISHED)) / "arena_hard" / "official_verdicts.gpt-4-0613.jsonl.xz"
    with lzma.open(path, "rt") as file:
        labels = [[game["score"] for game in json.loads(line)["games"]] for line in file]
    rows, flipped = [], 0
    for at, (first, second) in enumerate(labels):
        told = OUTCOME[first], 1 - OUTCOME[second]
        flipped += told[0] != told[1]
        strong = [2 if ">>" in label else 1 for label in (first, second)]
        rows.append(said(f"q{at}", Preference(value=told[0], strength=strong[0]), order="ab"))
        rows.append(said(f"q{at}", Preference(value=told[1], strength=strong[1]), order="ba"))

    flips, _ = order_flips(rows)
    parts = variance_parts(rows, RATE)

    assert flipped == 171
    assert flips is not None
    assert flips.value == pytest.approx(34.2)
    assert parts is not None
    units = [slot_unit(row.prompt_id, [row.verdict]) for row in rows if row.verdict]
    own = mean_score(units, 1000, scale=100.0)
    assert own.value == pytest.approx(37.9, abs=0.05)
    assert own.se is not None
    assert parts.se == pytest.approx(own.se, rel=0.02)
    assert parts.judge_share == pytest.approx(31.4, abs=0.1)
