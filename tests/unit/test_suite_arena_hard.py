"""Arena-Hard: tasks and scores, on data small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pydantic import JsonValue

from harness.records import Answer, JudgeTemplate, Judgment, Preference, Prompt, Verdict
from harness.records.protocols import SuiteData
from harness.suites.arena_hard.rows import read_questions
from harness.suites.arena_hard.suite import ArenaHard
from harness.suites.files import SourceFile
from judges.llm import render
from tests.fakes.suite_rows import judged, said, value


def arena_suite(prompts: int = 2) -> ArenaHard:
    template = JudgeTemplate(name="t", user="{question_1} {answer_1} {answer_2}", parser="arena_label")
    ids = [str(number) for number in range(prompts)]
    return ArenaHard(
        SuiteData(
            version="test-1",
            prompts=tuple(Prompt(id=one, turns=(f"q{one}",), category="hard") for one in ids),
            templates={"t": template},
            baseline_name="base",
            baseline={one: said(one, f"base{one}", model="base") for one in ids},
        )
    )


def arena_rows(suite: ArenaHard, answers: Sequence[Answer], verdicts: Sequence[Verdict | None]) -> list[Judgment]:
    tasks = [task for prompt, one in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, one)]
    return [judged(task, verdict) for task, verdict in zip(tasks, verdicts, strict=True)]


def test_arena_hard_plays_two_games_with_sides_swapped() -> None:
    suite = arena_suite(1)
    first, second = suite.tasks(suite.prompts()[0], said("0", "mine"))
    assert (first.order, second.order) == ("ab", "ba")
    assert render(first) == [{"role": "user", "content": "q0 base0 mine"}]
    assert render(second) == [{"role": "user", "content": "q0 mine base0"}]


def test_arena_hard_significant_verdicts_count_three_times() -> None:
    suite = arena_suite()
    answers = [said("0", "a"), said("1", "b")]
    strong_win, loss, draw = Preference(value=1, strength=2), Preference(value=0), Preference(value=0.5)
    rows = arena_rows(suite, answers, [strong_win, loss, draw, loss])
    # (3 + 0 + 0.5 + 0) / (3 + 1 + 1 + 1)
    assert value(suite, "arena_hard", answers, rows) == pytest.approx(100 * 3.5 / 6)


def test_arena_hard_keeps_the_other_game_of_a_broken_one() -> None:
    suite = arena_suite()
    answers = [said("0", "a"), said("1", "b")]
    rows = arena_rows(suite, answers, [Preference(value=1), None, Preference(value=0), Preference(value=0)])
    score = suite.score(suite.prompts(), answers, rows).scores["arena_hard"]
    assert score.value == pytest.approx(100 / 3)
    assert (score.n, score.unscored) == (3, 1)


def test_arena_hard_average_tokens_is_floored() -> None:
    suite = arena_suite()
    answers = [said("0", "a", tokens=(10,)), said("1", "b", tokens=(15,))]
    assert value(suite, "avg_tokens", answers, []) == 12.0


def test_arena_hard_without_verdicts_has_no_score() -> None:
    suite = arena_suite()
    score = suite.score(suite.prompts(), [], []).scores["arena_hard"]
    assert (score.value, score.n, score.unscored) == (None, 0, 4)


@pytest.mark.parametrize(
    ("winners", "games"),
    [
        ("b", [(1.0, 1), (None, 1)]),
        ("ab", [(0.0, 1), (1.0, 1)]),
        ("bbb", [(1.0, 2), (None, 1)]),
        ("bbba", [(1.0, 2), (0.0, 1)]),
        ("abbb", [(0.0, 1), (1.0, 2)]),
        ("aaabbb", [(0.0, 2), (1.0, 2)]),
    ],
)
def test_three_rows_of_a_battle_table_are_one_strong_verdict(
    winners: str, games: list[tuple[float | None, int]]
) -> None:
    rows: tuple[dict[str, JsonValue], ...] = tuple(
        {"question_id": "q", "model_a": "base", "model_b": "m", "winner": f"model_{winner}"} for winner in winners
    )
    [question] = read_questions([SourceFile("battles.jsonl", rows)], strict=False)
    assert [(game.points, game.strength) for game in question.games] == games
