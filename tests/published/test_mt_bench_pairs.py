"""The suite mt_bench_pairs: MT-Bench's pairwise mode as a run, with the requests that FastChat sends. Needs the pinned
files (HARNESS_MIRROR)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.records import Answer, Failure, Judgment, Preference
from harness.records.protocols import SuiteOptions
from harness.store.official import pinned_files
from harness.suites.mt_bench.pairs import MtBenchPairs, build
from tests import ROOT
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, Request, serving

MIRROR = os.environ.get("HARNESS_MIRROR", "")
pytestmark = pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR is not set: no upstream files at hand")
LETTERS = ("A", "B", "C", "none")


def upstream(name: str) -> Path:
    return Path(MIRROR) / pinned_files()[name].path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def write_baseline(folder: Path) -> Path:
    rows = [
        {
            "question_id": number,
            "model_id": "gpt-3.5-turbo",
            "choices": [{"turns": [f"{{0}} {number}", "[[C]] second"]}],
        }
        for number in range(81, 161)
    ]
    path = folder / "gpt-3.5-turbo.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def letter(request: Request) -> str:
    text = json.dumps(request.messages, ensure_ascii=False)
    said = LETTERS[hashlib.sha256(text.encode()).digest()[0] % 4]
    return "I cannot say." if said == "none" else f"My verdict: [[{said}]]"


def counted(bodies: list[dict[str, Any]]) -> Counter[str]:
    kept = [{key: value for key, value in body.items() if key != "model"} for body in bodies]
    return Counter(json.dumps(body, sort_keys=True, ensure_ascii=False) for body in kept)


@pytest.mark.slow
def test_a_run_sends_the_320_requests_that_fastchat_sends(harness: Callable[..., Done], tmp_path: Path) -> None:
    if find_spec("fastchat") is None:
        pytest.skip("fschat is not installed")
    baseline = write_baseline(tmp_path)
    answered = FakeOpenAI(reply=lambda request: f"{{question}} {len(request.messages)} to {request.last[:40]}  \n")
    with serving(answered) as model, serving(FakeOpenAI(reply=letter)) as judge:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--judge", f"endpoint:gpt-4@{judge.url}", "--json")
        # strict, as the baseline's answers have a mark of their own
        done = harness(*words, "--suite", f"mt_bench_pairs:{baseline}", "--strict-reference")

    assert len(model.requests) == 160
    folder = next((tmp_path / "results/runs/fake").glob("mt_bench_pairs@official-1/*"))
    theirs = fastchat_requests(tmp_path / "fastchat", baseline, lines(folder / "answers.jsonl"))
    assert len(theirs) == 320
    assert counted([request.body for request in judge.requests]) == counted(theirs)
    [card] = json.loads(done.out)["cards"]
    check_rates(card, [request.messages for request in judge.requests], judge.requests)


def fastchat_requests(folder: Path, baseline: Path, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    bench = folder / "data" / "mt_bench"
    for name in ("reference_answer", "model_answer"):
        (bench / name).mkdir(parents=True)
    shutil.copy(upstream("mt_bench/judge_prompts"), folder / "data" / "judge_prompts.jsonl")
    shutil.copy(upstream("mt_bench/questions"), bench / "question.jsonl")
    shutil.copy(upstream("mt_bench/references/official"), bench / "reference_answer" / "gpt-4.jsonl")
    shutil.copy(baseline, bench / "model_answer" / "gpt-3.5-turbo.jsonl")
    rows = [
        {"question_id": int(row["prompt_id"]), "model_id": "fake", "choices": [{"index": 0, "turns": row["turns"]}]}
        for row in answers
    ]
    (bench / "model_answer" / "fake.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "replies.json").write_text("{}")
    command = [sys.executable, str(ROOT / "tests" / "fakes" / "reference_requests.py"), "fastchat_pairs", str(folder)]
    environment = os.environ | {"OPENAI_API_KEY": "none"}
    done = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return lines(folder / "judge.jsonl")


def check_rates(card: dict[str, Any], messages: list[Any], requests: list[Request]) -> None:
    """A quarter of the games has no letter; the rest is a win only where both games agree."""
    unscored = card["scores"]["win_rate"]["unscored"]
    failed = sum(letter(request) == "I cannot say." for request in requests)
    assert failed / 2 <= unscored <= failed
    assert card["scores"]["win_rate"]["n"] + unscored == 160
    assert card["scores"]["win_rate"]["value"] <= card["scores"]["win_rate_adjusted"]["value"]
    assert (card["headline"], card["complete"]) == ("win_rate_adjusted", False)
    assert card["protocol"]["baseline"] == "gpt-3.5-turbo"
    assert set(card["protocol"]["templates"]) == {
        "pair-v2",
        "pair-v2-multi-turn",
        "pair-math-v1",
        "pair-math-v1-multi-turn",
    }


@pytest.fixture
def suite(tmp_path: Path) -> MtBenchPairs:
    return build(SuiteOptions(argument=str(write_baseline(tmp_path))))


def said(*turns: str) -> Answer:
    return Answer(prompt_id="81", model="m", turns=turns, finish=tuple("stop" for _ in turns))


def judged(suite: MtBenchPairs, values: list[float | None]) -> list[Judgment]:
    """Verdicts on question 81: turn 1 in both orders, then turn 2."""
    tasks = suite.tasks(suite.prompts()[0], said("one", "two"))
    return [
        Judgment(
            prompt_id="81",
            model="m",
            judge="j",
            template_sha="",
            turn=task.turn,
            order=task.order,
            verdict=None if value is None else Preference(value=value),
            error=Failure(reason="parse", message="none") if value is None else None,
        )
        for task, value in zip(tasks, values, strict=True)
    ]


@pytest.mark.parametrize(
    ("values", "wins", "adjusted", "scored"),
    [
        ([1, 1, 0, 0], 50.0, 50.0, 2),
        ([1, 0, 1, 1], 50.0, 75.0, 2),  # two games that differ are a tie
        ([0.5, 1, 0.5, 0.5], 0.0, 50.0, 2),
        ([1, 1, None, 1], 100.0, 100.0, 1),  # a pair with a broken game is out
    ],
)
def test_a_pair_of_games_is_one_outcome(
    suite: MtBenchPairs, values: list[float | None], wins: float, adjusted: float, scored: int
) -> None:
    found = suite.score(suite.prompts()[:1], [said("one", "two")], judged(suite, values)).scores

    assert (found["win_rate"].value, found["win_rate_adjusted"].value) == (wins, adjusted)
    assert (found["win_rate"].n, found["win_rate"].unscored) == (scored, 2 - scored)


def test_what_the_baselines_file_marks_as_failed_is_not_judged(tmp_path: Path) -> None:
    path = write_baseline(tmp_path)
    path.write_text(path.read_text().replace("[[C]] second", "$ERROR$", 1))
    suite = build(SuiteOptions(argument=str(path)))

    assert [task.turn for task in suite.tasks(suite.prompts()[0], said("one", "two"))] == [1, 1]


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        (":none.jsonl", "no file with a baseline's answers: 'none.jsonl'"),
        (":short.jsonl", "has no answer of two turns to 79 questions, e.g. 82"),
        (":two.jsonl", "contains answers of 2 models"),
    ],
)
def test_a_baseline_that_cannot_be_is_one_sentence(
    harness: Callable[..., Done], tmp_path: Path, argument: str, sentence: str
) -> None:
    row = {"question_id": 81, "model_id": "a", "choices": [{"turns": ["x", "y"]}]}
    (tmp_path / "short.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "two.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"model_id": "b"}) + "\n")
    words = ("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", "--judge", "endpoint:j@http://127.0.0.1:1/v1")

    done = harness(*words, "--suite", f"mt_bench_pairs{argument}")

    assert done.code == 2
    assert sentence in done.err
    assert not (tmp_path / "results").exists()
