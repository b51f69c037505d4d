"""Repeats and members average within a slot: asking the same twice moves no score, no count and no interval."""

from __future__ import annotations

import asyncio
from functools import cache

import pytest

from harness.records import Answer, JudgeSpec, Judgment, Preference, Rating
from harness.records.protocols import Suite, SuiteOptions, load_plugin
from judges.reference import ReferenceJudge

SUITES = ("mt_bench", "alpaca_eval", "arena_hard")


@cache
def judged(name: str) -> tuple[Suite, tuple[Answer, ...], tuple[Judgment, ...]]:
    """The pocket suite with answers of which every third is the gold one, judged by rule."""
    suite: Suite = load_plugin("suites", name)(SuiteOptions(edition="pocket"))
    answers = tuple(
        Answer(
            prompt_id=prompt.id,
            model="m",
            turns=prompt.reference
            if at % 3 == 0
            else tuple(f"{text} or so" * (at % 5) + "x" for text in prompt.reference),
            finish=tuple("stop" for _ in prompt.reference),
        )
        for at, prompt in enumerate(suite.prompts())
    )
    judge = ReferenceJudge(JudgeSpec(name="j", kind="reference"))
    tasks = [
        task for prompt, answer in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, answer)
    ]

    async def all_of() -> tuple[Judgment, ...]:
        found = [await judge.judge(task) for task in tasks]
        shas = [task.answer.sha for task in tasks]
        return tuple(row.model_copy(update={"answer_sha": sha}) for row, sha in zip(found, shas, strict=True))

    return suite, answers, asyncio.run(all_of())


@pytest.mark.parametrize("change", [{"repeat": 1}, {"judge": "k"}])
@pytest.mark.parametrize("name", SUITES)
def test_the_same_verdicts_again_change_nothing(name: str, change: dict[str, object]) -> None:
    suite, answers, rows = judged(name)

    once = suite.score(suite.prompts(), answers, rows)
    twice = suite.score(suite.prompts(), answers, [*rows, *(row.model_copy(update=change) for row in rows)])

    left_out = {"arena_hard_reference"}
    assert {metric: score for metric, score in twice.scores.items() if metric not in left_out} == {
        metric: score for metric, score in once.scores.items() if metric not in left_out
    }
    assert once.scores[suite.headline].ci_low is not None


def test_the_references_interval_is_of_single_games_so_repeats_have_none() -> None:
    suite, answers, rows = judged("arena_hard")

    once = suite.score(suite.prompts(), answers, rows).scores["arena_hard_reference"]
    again = [row.model_copy(update={"repeat": 1}) for row in rows]
    twice = suite.score(suite.prompts(), answers, [*rows, *again]).scores["arena_hard_reference"]

    assert once.ci_low is not None
    assert (twice.value, twice.ci_low, twice.se) == (once.value, None, None)


def test_a_length_controlled_rate_is_of_the_mean_preference() -> None:
    """Repeats with preferences p and 1 come to what single ones of (p + 1) / 2 come to."""
    suite, answers, rows = judged("alpaca_eval")
    wins = [row.model_copy(update={"repeat": 1, "verdict": Preference(value=1.0)}) for row in rows]
    means = [
        row.model_copy(update={"verdict": Preference(value=(row.verdict.value + 1) / 2)}) for row in rows if row.verdict
    ]

    repeated = suite.score(suite.prompts(), answers, [*rows, *wins]).scores
    single = suite.score(suite.prompts(), answers, means).scores

    assert len(means) == len(rows)
    assert repeated["lc_win_rate"] == single["lc_win_rate"]
    assert repeated["win_rate"] == single["win_rate"]
    assert repeated["lc_win_rate"].value is not None


def test_a_repeat_without_a_verdict_leaves_the_other() -> None:
    suite, answers, rows = judged("mt_bench")
    ten = [row.model_copy(update={"verdict": Rating(value=10)}) for row in rows]
    failed = [
        Judgment.model_validate(
            row.model_dump() | {"repeat": 1, "verdict": None, "error": {"reason": "parse", "message": "none"}}
        )
        for row in rows
    ]

    found = suite.score(suite.prompts(), answers, [*ten, *failed]).scores["mt_bench"]

    assert (found.value, found.n, found.unscored) == (10.0, len(rows), 0)
