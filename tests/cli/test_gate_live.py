"""A candidate judged in blocks stops when the verdict is safe; answers judged against answers. Real commands."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.analysis.finished_runs import find_runs
from harness.analysis.gate.evidence import promote
from harness.records import Answer
from harness.records.errors import ConfigError
from harness.records.protocols import SuiteData
from harness.suites import pocket
from harness.suites.head_to_head import HeadToHead
from harness.suites.mt_bench.suite import MtBench
from tests.fakes.commands import Done, run_command

POLICY = "checks: [{suite: mt_bench, margin: 1.0}, {suite: arena_hard, margin: 15}]\n"
GAMES = ("compare", "bad.jsonl", "good.jsonl", "--suite", "arena_hard", "--head-to-head", "--judge", "reference")
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


@dataclass(frozen=True)
class Judged:
    """A baseline run whole, and a bad candidate gated live against it."""

    folder: Path
    gate: Done

    def harness(self, *words: str) -> Done:
        return run_command(*words, cwd=self.folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("live")
    script(folder / "good.jsonl", 0.9)
    script(folder / "bad.jsonl", 0.3)
    (folder / "gate.yaml").write_text(POLICY)
    made = Judged(folder, Done(0, "", ""))
    run = made.harness(
        *("run", "--model", "good.jsonl", "--backend", "scripted", "--suite", "mt_bench,arena_hard"),
        *("--edition", "pocket"),
    )
    assert run.code == 0, run.err
    found = find_runs("good.jsonl", folder / "results")
    runs = [(one.card, one.folder) for one in found if one.folder is not None]
    promote(folder / "results", runs, name="default", by="test", why="first")
    return Judged(folder, made.harness("gate", "--candidate", "bad.jsonl", *LIVE, "--json"))


@pytest.mark.slow
def test_judging_stops_as_soon_as_the_verdict_is_safe(judged: Judged) -> None:
    results, done = judged.folder / "results", judged.gate

    assert done.code == 1, done.err
    assert done.err.splitlines()[-1].startswith("FAIL (exit 1): bad.jsonl against good.jsonl")
    found = json.loads(done.out)
    assert found["outcome"] == "fail"
    assert [(one["questions"], one["of"]) for one in found["sequential"]] == [(40, 80), (40, 60)]
    # 40 questions of two turns, of 80; 40 questions of two games, of 60: judged, and no more
    assert rows_of(results, "bad.jsonl", "mt_bench") == 80
    assert sum(one["calls"] for one in found["sequential"]) == 160
    assert [one["calls_saved"] for one in found["sequential"]] == [80, 40]
    (card,) = results.glob("runs/bad.jsonl/mt_bench@*/*/card.json")
    assert json.loads(card.read_text())["complete"] is False  # never ranked


@pytest.mark.slow
def test_head_to_head_is_a_run_of_its_own(judged: Judged) -> None:
    words = ("--model", "bad.jsonl", "--backend", "scripted", "--suite", "arena_hard", "--edition", "pocket")
    assert judged.harness("run", *words).code == 0  # completes what the gate began

    again = json.loads(judged.harness("gate", "--candidate", "bad.jsonl", *LIVE, "--json").out)
    assert [(row["calls"], row["calls_saved"]) for row in again["sequential"]] == [(80, 80), (80, 0)]

    done = judged.harness(*GAMES, "--json")

    assert done.code == 0, done.err
    (card,) = json.loads(done.out)["head_to_head"]
    assert (card["model"], card["protocol"]["baseline"]) == ("good.jsonl", "bad.jsonl")
    assert card["scores"]["win_rate"]["n"] == 120  # 60 questions in both orders
    assert card["scores"]["win_rate"]["ci_low"] > 50
    (pair,) = json.loads(done.out)["comparisons"]
    assert pair["differences"][0]["value"] == pytest.approx(card["scores"]["win_rate"]["value"] - 50)

    policy = judged.folder / "games.yaml"
    policy.write_text("checks: [{suite: head_to_head_arena_hard, metric: win_rate, margin: 3}]\n")
    sides = ("--candidate", "good.jsonl", "--baseline", "bad.jsonl")
    assert judged.harness("gate", *sides, "--policy", str(policy)).code == 0
    sides = ("--candidate", "bad.jsonl", "--baseline", "good.jsonl")  # these games were not played
    assert judged.harness("gate", *sides, "--policy", str(policy)).code == 4


@pytest.mark.slow
def test_the_same_commands_ask_nothing_twice(judged: Judged) -> None:
    results = judged.folder / "results"

    assert judged.harness("gate", "--candidate", "bad.jsonl", *LIVE).code == 1
    first, again = judged.harness(*GAMES), judged.harness(*GAMES)

    assert rows_of(results, "bad.jsonl", "mt_bench") == 80
    assert "good.jsonl beats bad.jsonl" in again.out.splitlines()[-1]
    assert first.code == again.code == 0
    assert rows_of(results, "good.jsonl", "head_to_head_arena_hard") in (80, 120)  # 40 answers, or all 60


def test_both_orders_are_asked_and_the_candidate_is_shown_first_in_one() -> None:
    from harness.records.protocols import SuiteOptions
    from harness.suites.alpaca_eval.suite import build

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

    with pytest.raises(ConfigError, match="no prompts for comparing two answers"):
        HeadToHead(MtBench(data), "m", [answer]).protocol()
