"""`--baseline`: AlpacaEval and Arena-Hard against a run, a file or a model of the user's choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from harness.suites.pocket import load
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI

Call = Callable[..., Done]
Serve = Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]
POCKET = ("--edition", "pocket", "--json")


def answers(path: Path, suite: Any, text: Callable[[int, str], str]) -> Path:
    prompts = load(suite).prompts
    rows = [{"prompt_id": p.id, "turns": [text(at, p.reference[0])]} for at, p in enumerate(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(folder: Path, model: str) -> Path:
    """The folder of the model's only run."""
    [card] = (folder / "results" / "runs" / model).rglob("card.json")
    return card.parent


def card_of(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    [card] = json.loads(done.out)["cards"]
    return dict(card)


def run(harness: Call, model: Path, suite: str, *more: str) -> Done:
    return harness("run", "--model", str(model), "--backend", "scripted", "--suite", suite, *POCKET, *more)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["arena_hard", "alpaca_eval"])
def test_a_run_and_its_file_are_the_same_baseline(harness: Call, tmp_path: Path, suite: str) -> None:
    good = answers(tmp_path / "good.jsonl", suite, lambda at, gold: gold if at % 3 else "no idea")
    bad = answers(tmp_path / "bad.jsonl", suite, lambda at, gold: gold if at % 2 else "no " * (1 + at % 7))
    plain = card_of(run(harness, good, suite))
    card_of(run(harness, bad, suite))
    by_run = card_of(run(harness, good, suite, "--baseline", str(run_of(tmp_path, "bad.jsonl"))))
    by_file = card_of(run(harness, good, suite, "--baseline", f"{suite}={bad}"))

    assert by_run["protocol"]["baseline"] == "bad.jsonl"
    assert by_file["protocol"]["baseline"] == "bad"
    assert by_run["scores"] == by_file["scores"]
    assert by_run["protocol"]["baseline_answers"] == by_file["protocol"]["baseline_answers"]
    assert plain["protocol"].get("baseline_answers") is None
    assert any("instead of the benchmark" in note for note in by_run["notes"])
    assert not any("instead of the benchmark" in note for note in plain["notes"])
    assert by_run["scores"] != plain["scores"]


@pytest.mark.slow
def test_length_control_fits_on_the_other_baselines_lengths(harness: Call, tmp_path: Path) -> None:
    good = answers(tmp_path / "good.jsonl", "alpaca_eval", lambda at, gold: gold if at % 3 else "no idea")
    short = answers(tmp_path / "short.jsonl", "alpaca_eval", lambda at, gold: "x" * (1 + at % 5))
    long = answers(tmp_path / "long.jsonl", "alpaca_eval", lambda at, gold: "x" * (500 + 100 * (at % 5)))
    cards = [card_of(run(harness, good, "alpaca_eval", "--baseline", str(path))) for path in (short, long)]
    rates = [card["scores"]["lc_win_rate"]["value"] for card in cards]
    assert rates[0] != rates[1]
    folders = [file.parent for file in (tmp_path / "results/runs/good.jsonl").rglob("card.json")]
    again = harness("compare", *map(str, folders), "--force", "--json")
    assert again.code == 0, again.err


@pytest.mark.slow
def test_a_baseline_without_any_answer_or_a_suite_without_baseline_is_refused(harness: Call, tmp_path: Path) -> None:
    good = answers(tmp_path / "good.jsonl", "arena_hard", lambda at, gold: gold)
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "unknown", "answer": "x"}\n')
    refused = run(harness, good, "arena_hard", "--baseline", str(other))
    assert refused.code == 2
    assert "no answer to any question of arena_hard" in refused.err
    rated = run(harness, good, "mt_bench", "--baseline", str(good))
    assert rated.code == 2
    assert "does not compare with a baseline" in rated.err
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_model_is_asked_each_question_once(harness: Call, serve: Serve, tmp_path: Path) -> None:
    good = answers(tmp_path / "good.jsonl", "arena_hard", lambda at, gold: gold)
    with serve(FakeOpenAI(reply=lambda request: "no idea")) as model:
        words = ("--baseline", f"endpoint:fake@{model.url}", "--limit", "12")
        few = card_of(run(harness, good, "arena_hard", *words))
        asked = len([request for request in model.requests if request.messages])
        whole = card_of(run(harness, good, "arena_hard", *words[:2]))
        card_of(run(harness, good, "arena_hard", *words[:2], "--seed", "1"))
        after = len([request for request in model.requests if request.messages])
    assert asked == 12  # those of --limit
    assert after == len(load("arena_hard").prompts)
    assert few["scores"]["arena_hard"]["value"] == 100.0
    assert few["protocol"]["baseline_answers"] == whole["protocol"]["baseline_answers"]
