"""A candidate judged in blocks stops when the verdict is safe; answers judged against answers. Real commands."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Done

from harness.errors import ConfigError
from harness.protocols import SuiteData
from harness.records import Answer
from harness.suites import pocket
from harness.suites.head_to_head import HeadToHead
from harness.suites.mt_bench import MtBench

POLICY = "checks: [{suite: mt_bench, margin: 1.0}, {suite: arena_hard, margin: 15}]\n"
LIVE = ("--live", "--sequential", "--backend", "scripted", "--edition", "pocket", "--policy", "gate.yaml")


def script(path: Path, right: float) -> None:
    """A model of the pocket edition that is right so often."""
    draw, rows = random.Random(path.name), []
    suites: tuple[pocket.SuiteName, ...] = ("mt_bench", "arena_hard")
    for suite in suites:
        for prompt in pocket.load(suite).prompts:
            gold = (*prompt.reference, *prompt.reference, "none")[: len(prompt.turns)]
            said = [text if draw.random() < right else "no idea" for text in gold]
            rows.append(json.dumps({"prompt_id": prompt.id, "turns": said}) + "\n")
    path.write_text("".join(rows))


def rows_of(results: Path, model: str, suite: str) -> int:
    (file,) = results.glob(f"runs/{model}/{suite}@*/*/judgments.jsonl")
    return len(file.read_text().splitlines())


def test_judging_stops_as_soon_as_the_verdict_is_safe(harness: Callable[..., Done], tmp_path: Path) -> None:
    script(tmp_path / "good.jsonl", 0.9)
    script(tmp_path / "bad.jsonl", 0.3)
    (tmp_path / "gate.yaml").write_text(POLICY)
    run = harness(
        *("run", "--model", "good.jsonl", "--backend", "scripted", "--suite", "mt_bench,arena_hard"),
        *("--edition", "pocket"),
    )
    assert run.code == 0, run.err
    assert harness("gate", "promote", "good.jsonl", "--why", "first", "--by", "test").code == 0

    done = harness("gate", "--candidate", "bad.jsonl", *LIVE, "--json")

    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert found["outcome"] == "fail"
    assert [(one["questions"], one["of"]) for one in found["sequential"]] == [(40, 80), (40, 60)]
    # 40 questions of two turns, of 80; 40 questions of two games, of 60: judged, and no more
    assert rows_of(tmp_path / "results", "bad.jsonl", "mt_bench") == 80
    assert rows_of(tmp_path / "results", "bad.jsonl", "arena_hard") == 80
    assert [one["calls_saved"] for one in found["sequential"]] == [80, 40]
    (card,) = (tmp_path / "results").glob("runs/bad.jsonl/arena_hard@*/*/card.json")
    assert json.loads(card.read_text())["complete"] is False  # never ranked

    again = harness("gate", "--candidate", "bad.jsonl", *LIVE)

    assert again.code == 1
    assert again.out.splitlines()[-1].startswith("FAIL (exit 1): bad.jsonl against good.jsonl")
    assert rows_of(tmp_path / "results", "bad.jsonl", "mt_bench") == 80  # nothing asked twice


def test_head_to_head_is_a_run_of_its_own_that_resumes(harness: Callable[..., Done], tmp_path: Path) -> None:
    for name, right in (("good.jsonl", 0.9), ("bad.jsonl", 0.3)):
        script(tmp_path / name, right)
        run = harness(
            *("run", "--model", name, "--backend", "scripted", "--suite", "arena_hard", "--edition", "pocket")
        )
        assert run.code == 0, run.err
    words = ("compare", "bad.jsonl", "good.jsonl", "--head-to-head", "--judge", "reference")

    done = harness(*words, "--json")

    assert done.code == 0, done.err
    (card,) = json.loads(done.out)["head_to_head"]
    assert (card["model"], card["protocol"]["baseline"]) == ("good.jsonl", "bad.jsonl")
    assert card["scores"]["win_rate"]["n"] == 120  # 60 questions in both orders
    assert card["scores"]["win_rate"]["ci_low"] > 50
    again = harness(*words)
    assert "good.jsonl beats bad.jsonl" in again.out.splitlines()[-1]
    assert rows_of(tmp_path / "results", "good.jsonl", "head_to_head_arena_hard") == 120


def test_both_orders_are_asked_and_the_candidate_is_shown_first_in_one() -> None:
    from harness.protocols import SuiteOptions
    from harness.suites.alpaca_eval import build

    suite = build(SuiteOptions(edition="pocket"))
    prompt = suite.prompts()[0]
    mine, theirs = (
        Answer(prompt_id=prompt.id, model=name, turns=(f"by {name}",), finish=("stop",)) for name in ("new", "old")
    )

    games = HeadToHead(suite, "old", [theirs]).tasks(prompt, mine)

    shown = {task.order: (task.fields["output_1"], task.fields["output_2"]) for task in games}
    assert shown == {"ab": ("by old", "by new"), "ba": ("by new", "by old")}


def test_an_edition_without_words_for_two_answers_says_so() -> None:
    data: SuiteData = pocket.load("mt_bench")
    prompt = data.prompts[0]
    answer = Answer(prompt_id=prompt.id, model="m", turns=("a", "b"), finish=("stop", "stop"))

    with pytest.raises(ConfigError, match="no words for comparing two answers"):
        HeadToHead(MtBench(data), "m", [answer]).protocol()
