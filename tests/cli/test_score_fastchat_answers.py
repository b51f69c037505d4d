"""`harness score --format fastchat --answers`: what was judged, and with which reference answers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.store.official import pinned_files

PUBLISHED, MIRROR = os.environ.get("HARNESS_PUBLISHED"), os.environ.get("HARNESS_MIRROR")
published = pytest.mark.skipif(not PUBLISHED, reason="HARNESS_PUBLISHED names the folder of published judgments")
mirrored = pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR names the folder of pinned upstream files")
MT = Path(PUBLISHED or "", "mt_bench")


def score(*words: str | Path) -> list[dict[str, Any]]:
    command = ["score", *map(str, words), "--format", "fastchat", "--json", "--no-intervals"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)["cards"]
    return found


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(turn: int, stored: float, prompt: str | None = None, question: int = 81) -> dict[str, Any]:
    found = {"question_id": question, "model": "m", "judge": ["gpt-4", "single-v1"], "score": stored, "turn": turn}
    return found if prompt is None else found | {"user_prompt": prompt}


def answer(first: str, second: str) -> dict[str, Any]:
    return {"question_id": 81, "model_id": "m", "choices": [{"index": 0, "turns": [first, second]}]}


@pytest.mark.parametrize(
    ("turns", "ours"),
    [(("fine", "$ERROR$"), 8.0), (("$ERROR$", "fine"), None), (("fine", "good"), 5.0)],
)
def test_a_judged_failed_call_is_unscored_but_for_the_reference(
    tmp_path: Path, turns: tuple[str, str], ours: float | None
) -> None:
    judgments = write(tmp_path / "j.jsonl", [row(1, 8), row(2, 2)])
    answers = write(tmp_path / "m.jsonl", [answer(*turns)])

    [card] = score(judgments, "--answers", answers)
    [strict] = score(judgments, "--answers", answers, "--strict-reference")

    assert card["scores"]["mt_bench"]["value"] == ours
    assert strict["scores"]["mt_bench"]["value"] == 5.0
    failed = sum("the answer judged is $ERROR$" in note for note in card["notes"])
    assert (
        failed == sum("the answer judged is $ERROR$" in note for note in strict["notes"]) == (turns != ("fine", "good"))
    )


def test_a_failed_call_is_found_in_the_judges_prompt_without_answers(tmp_path: Path) -> None:
    judgments = write(
        tmp_path / "j.jsonl",
        [row(1, 3, "[The Start]\n$ERROR$\n[The End]"), row(2, 9, "[The Start]\nit prints $ERROR$ twice\n[The End]")],
    )

    [card] = score(judgments)

    assert card["scores"]["mt_bench"]["value"] == 9.0
    assert "1 unscored: the answer judged is $ERROR$" in card["notes"]


def test_judgments_of_other_answers_are_counted(tmp_path: Path) -> None:
    judgments = write(tmp_path / "j.jsonl", [row(1, 3, "about one"), row(2, 9, "about one and two")])
    answers = write(tmp_path / "m.jsonl", [answer("one", "three")])

    [card] = score(judgments, "--answers", answers)

    assert "1 judgments are of other answers than given" in card["notes"]


def test_a_pair_with_a_failed_answer_has_no_outcome(tmp_path: Path) -> None:
    pair = {"question_id": 81, "model_1": "m", "model_2": "n", "turn": 1, "judge": ["gpt-4", "pair-v2"]}
    judgments = write(tmp_path / "j.jsonl", [pair | {"g1_winner": "model_1", "g2_winner": "model_1"}])
    answers = write(tmp_path / "n.jsonl", [answer("$ERROR$", "x") | {"model_id": "n"}])

    cards = score(judgments, "--answers", answers)

    assert [card["scores"]["win_rate"]["value"] for card in cards] == [None, None]
    assert all("2 games unscored: an answer judged is $ERROR$" in card["notes"] for card in cards)


def test_pairs_without_a_row_are_counted_as_missing(tmp_path: Path) -> None:
    pair = {"model_1": "m", "model_2": "n", "turn": 1, "judge": ["gpt-4", "pair-v2"], "g1_winner": "model_1"}
    rows = [
        pair | {"question_id": number, "g2_winner": "error" if number == 81 else "tie"} for number in range(81, 161)
    ]

    cards = score(write(tmp_path / "j.jsonl", rows))

    # 80 questions have two turns, and one game of the 80 first turns failed: 80 + 1 pairs are unscored
    assert [card["scores"]["win_rate"]["unscored"] for card in cards] == [81, 81]
    for card in cards:
        assert "80 pairs unscored: no row in the files" in card["notes"]
        assert any(note.startswith("1 game unscored: ") for note in card["notes"])


@mirrored
@pytest.mark.parametrize("name", ["official", "pr3158"])
def test_the_reference_set_is_read_from_the_judges_prompts(tmp_path: Path, name: str) -> None:
    path = Path(str(MIRROR)) / pinned_files()[f"mt_bench/references/{name}"].path
    rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    texts = {found["question_id"]: found["choices"][0]["turns"] for found in rows}
    shown = [row(turn, 5, " / ".join(texts[id_][:turn]), id_) for id_ in texts for turn in (1, 2)]

    [card] = score(write(tmp_path / "j.jsonl", shown))
    [other] = score(write(tmp_path / "k.jsonl", [*shown, row(2, 5, "nothing", 111)]))

    assert card["protocol"]["references"] == name
    assert other["protocol"]["references"] == "other"


@published
@mirrored
def test_the_published_judgments_were_made_with_the_official_references() -> None:
    cards = score(MT / "judgments", "--answers", MT / "model_answer")

    stated = [card["protocol"]["references"] for card in cards]
    assert set(stated) <= {"official", "not stated"}
    assert stated.count("official") == 18
    notes = {card["model"]: card["notes"] for card in cards}
    assert "158 judgments are of other answers than given" in notes["mistral-orpo"]
