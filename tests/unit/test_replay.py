"""Recorded verdicts as a judge: the same text or none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import Answer, Failure, JudgeTask, Judgment, Prompt, Rating
from harness.records.errors import ConfigError
from harness.records.judge_choice import find_judge
from judges.replay import ReplayJudge
from tests.fakes.commands import Done
from tests.fakes.toys import TEMPLATE


def task(text: str = "said", *, turn: int = 1, repeat: int = 0, model: str = "m") -> JudgeTask:
    return JudgeTask(
        prompt=Prompt(id="q", turns=("?", "?"), category="c"),
        answer=Answer(prompt_id="q", model=model, turns=(text,), finish=("stop",)),
        turn=turn,
        repeat=repeat,
        template=TEMPLATE,
        fields={},
    )


def recorded(value: float | None, **changes: object) -> Judgment:
    row = Judgment(
        prompt_id="q",
        model="m",
        judge="gpt-4",
        template_sha="t",
        answer_sha=task().answer.sha,
        turn=1,
        verdict=None if value is None else Rating(value=value),
        error=Failure(reason="parse", message="none") if value is None else None,
        cost=0.1,
    )
    return row.model_copy(update=changes)


def file(folder: Path, *rows: Judgment) -> Path:
    path = folder / "judgments.jsonl"
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    return path


def said(path: Path, *tasks: JudgeTask) -> list[Judgment]:
    judge = ReplayJudge(find_judge(f"replay:{path}", {}))
    return [asyncio.run(judge.judge(one)) for one in tasks]


def test_a_verdict_is_found_again_at_no_cost(tmp_path: Path) -> None:
    file(tmp_path, recorded(7))

    (row,) = said(tmp_path, task())  # a run's folder, or the file in it

    assert (row.verdict, row.cost) == (Rating(value=7), 0)
    assert row.judge.startswith("replay:")


def test_another_text_turn_or_repeat_has_no_verdict(tmp_path: Path) -> None:
    path = file(tmp_path, recorded(7))

    rows = said(path, task("said otherwise"), task(turn=2), task(repeat=1))

    assert [row.error.reason if row.error else None for row in rows] == ["missing"] * 3
    assert "a different text" in (rows[0].error or Failure(reason="other", message="")).message


def test_without_a_recorded_text_the_models_name_decides(tmp_path: Path) -> None:
    path = file(tmp_path, recorded(7, answer_sha=None))

    mine, other = said(path, task(), task(model="another"))

    assert mine.verdict == Rating(value=7)
    assert other.verdict is None


def test_a_failure_never_hides_a_verdict(tmp_path: Path) -> None:
    (row,) = said(file(tmp_path, recorded(7), recorded(None)), task())
    assert row.verdict == Rating(value=7)


def test_verdicts_of_two_judges_are_not_mixed(tmp_path: Path) -> None:
    path = file(tmp_path, recorded(7), recorded(3, judge="gpt-5"))
    with pytest.raises(ConfigError, match=r"verdicts of 2 judges \(gpt-4, gpt-5\); replay needs exactly one"):
        said(path)


def test_a_file_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"give a run's folder or its judgments.jsonl"):
        said(tmp_path / "none")
    (tmp_path / "judgments.jsonl").write_text('{"question_id": 81}\n')
    with pytest.raises(ConfigError, match=r"line 1 is not a judgment.*harness import"):
        said(tmp_path)


@pytest.mark.slow
def test_a_run_judged_by_its_own_record_has_the_same_scores(harness: Callable[..., Done], tmp_path: Path) -> None:
    words = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket", "--json")
    first = json.loads(harness(*words).out)["cards"][0]
    folder = next((tmp_path / "results").rglob("judgments.jsonl")).parent

    again = json.loads(harness(*words, "--judge", f"replay:{folder}").out)["cards"][0]

    assert again["scores"] == first["scores"]
    assert again["protocol"]["judge"]["recorded"] == ["reference"]
    assert again["protocol"] != first["protocol"]


def test_its_identity_is_the_recorded_judge_and_the_files_digest(tmp_path: Path) -> None:
    found = ReplayJudge(find_judge(f"replay:{file(tmp_path, recorded(7))}", {})).identity()
    assert found["recorded"] == ["gpt-4"]
    assert len(str(found["file"])) == 64
    assert str(tmp_path) not in str(found)
