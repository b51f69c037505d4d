"""One checkpoint through a real vLLM: three suites, cards, leaderboard. The server is started once for all of these."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.records import Answer, Judgment
from harness.store import find_cards
from tests.fakes.commands import run_command
from tests.fakes.processes import running
from tests.servers.conftest import RealRun

ROWS = {"mt_bench": (80, 160), "alpaca_eval": (120, 120), "arena_hard": (60, 120)}


@pytest.fixture(scope="module")
def cards(real_run: RealRun) -> dict[str, Any]:
    assert real_run.done.code == 0, real_run.done.err
    return {card["suite"]: card for card in json.loads(real_run.done.out)["cards"]}


def test_every_suite_is_scored_whole_with_an_interval(cards: dict[str, Any]) -> None:
    assert set(cards) == set(ROWS)
    for name, card in cards.items():
        head = card["scores"][card["headline"]]
        assert card["complete"]
        assert (head["n"], head["unscored"]) == (ROWS[name][1], 0)
        assert head["ci_low"] < head["value"] < head["ci_high"]


def test_a_card_says_what_produced_it(cards: dict[str, Any], real_run: RealRun) -> None:
    for card in cards.values():
        made = card["provenance"]
        assert re.fullmatch(r"[0-9a-f]{64}", made["model"]["weights"])
        assert re.fullmatch(r"[0-9a-f]{64}", made["model"]["chat_template"])
        assert made["model"]["backend"] == "vllm"
        assert made["packages"]["torch"]
        assert made["seed"] == 0
        assert made["run_id"]
        assert card["protocol"]["judge"]["name"] == "reference"
        assert any("rule" in note for note in card["notes"])
        assert card["usage"]["tokens_per_second"] > 0
        assert card["usage"]["answer_seconds"] > 0
        assert str(real_run.model.parent) not in json.dumps(card)


def test_every_answer_and_judgment_is_kept(real_run: RealRun, cards: dict[str, Any]) -> None:
    for path in find_cards(real_run.results):
        name = json.loads(path.read_text())["suite"]
        answers = [Answer.model_validate_json(line) for line in (path.parent / "answers.jsonl").open()]
        judgments = [Judgment.model_validate_json(line) for line in (path.parent / "judgments.jsonl").open()]
        assert (len(answers), len(judgments)) == ROWS[name]
        assert all(answer.error is None and all(answer.completion_tokens) for answer in answers)


def test_progress_is_plain_lines_where_there_is_no_terminal(real_run: RealRun) -> None:
    said = [line for line in real_run.done.err.splitlines() if re.search(r" judgments \d+/", line)]

    assert said, real_run.done.err


def test_the_server_is_gone_and_its_log_is_there(real_run: RealRun) -> None:
    (log,) = (real_run.results / "runs").glob("*/logs/vllm.log")
    assert log.stat().st_size > 0
    assert not running(f"--model={real_run.model}")  # as the server's command line has it


def test_the_same_command_again_starts_no_server_and_gives_the_same_card(real_run: RealRun) -> None:
    before = [path.read_text() for path in find_cards(real_run.results)]
    words = ("run", "--model", str(real_run.model), "--suite", "all", "--edition", "pocket")

    again = run_command(*words, cwd=real_run.results.parent)

    assert again.code == 0, again.err
    assert "starting vllm" not in again.err
    assert [path.read_text() for path in find_cards(real_run.results)] == before


def test_the_leaderboard_ranks_it_in_three_tables(real_run: RealRun, tmp_path: Path) -> None:
    words = ("leaderboard", "--results", str(real_run.results), "--format", "md")

    shown = run_command(*words, cwd=tmp_path).out

    assert shown.count("## ") == 3
    assert shown.count(f"| 1 (1-1) | {real_run.model.name} |") == 3
