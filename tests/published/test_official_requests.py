"""One whole official run against local servers: what it sent, and what the original tools send for the same answers.

FastChat and alpaca-eval are installed and run here as they are; Arena-Hard is no package, so its requests are composed
anew from its pinned files. Needs HARNESS_MIRROR.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.store.official import pinned_files
from tests import ROOT
from tests.fakes.commands import run_command
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, judge_reply, serving

MIRROR = os.environ.get("HARNESS_MIRROR", "")
pytestmark = pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR is not set: no upstream files at hand")
REASK = "continue your judgment and finish by outputting a final verdict label"
UNDECIDED = "I cannot say yet."


def number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def awkward_answer(request: Request) -> str:
    """Braces, slot names, template marks, foreign letters, spaces at both ends: whatever templates could trip over.
    Not `<|im_end|>`: there alpaca-eval cuts its own prompt short and ours does not (suites.alpaca_eval.read_chatml)."""
    number = number_of(json.dumps(request.messages, ensure_ascii=False))
    tricks = (
        "{output_2} {instruction}",
        "{question_2} {0} {{x}}",
        "[[9]] <|eot_id|>",
        "naïve – 東京 🙂",
        "  spaced\n\n",
    )
    return f"{number} {tricks[number % len(tricks)]} to {request.last[:30]}{tricks[number % len(tricks)]}"


def undecided_now_and_then(request: Request) -> Reply | str:
    """As any judge; but one Arena-Hard game in seven gets no label at first, and some of these none at all."""
    decided = judge_reply(request)
    if request.body["max_tokens"] != 4096:
        return decided
    number = number_of(request.messages[1]["content"])
    asked_again = len(request.messages) == 4
    return UNDECIDED if number % 7 == 0 and (not asked_again or number % 2) else decided


@dataclass(frozen=True)
class OfficialRun:
    cards: dict[str, Any]
    folders: dict[str, Path]
    asked: list[Request]
    judged: list[Request]

    def answers(self, suite: str) -> dict[str, list[str]]:
        """Prompt id -> texts of the turns."""
        rows = map(json.loads, (self.folders[suite] / "answers.jsonl").read_text("utf-8").split("\n")[:-1])
        return {row["prompt_id"]: row["turns"] for row in rows}

    def judge_bodies(self, max_tokens: int) -> list[dict[str, Any]]:
        """Judge requests of one suite: each has a limit of its own (2048, 1, 4096)."""
        return [request.body for request in self.judged if request.body["max_tokens"] == max_tokens]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OfficialRun:
    folder = tmp_path_factory.mktemp("official")
    model, judge = FakeOpenAI(reply=awkward_answer), FakeOpenAI(reply=undecided_now_and_then)
    with serving(model), serving(judge):
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--judge", f"endpoint:gpt-4@{judge.url}")
        # strict, as the awkward answers have slots' names and marks of their own
        done = run_command(*words, "--suite", "all", "--strict-reference", "--json", cwd=folder)
    assert done.code == 0, done.err
    cards = {card["suite"]: card for card in json.loads(done.out)["cards"]}
    folders = {suite: next((folder / "results" / "runs").glob(f"*/{suite}@*/*/")) for suite in cards}
    return OfficialRun(cards, folders, list(model.requests), list(judge.requests))


def upstream(name: str) -> Path:
    return Path(MIRROR) / pinned_files()[name].path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def counted(bodies: list[dict[str, Any]], *, without: str = "model") -> Counter[str]:
    """Bodies as canonical JSON, the model's name left out."""
    kept = [{key: value for key, value in body.items() if key != without} for body in bodies]
    return Counter(json.dumps(body, sort_keys=True, ensure_ascii=False) for body in kept)


def reference(*words: str) -> None:
    command = [sys.executable, str(ROOT / "tests" / "fakes" / "reference_requests.py"), *words]
    done = subprocess.run(
        command, input="\n", capture_output=True, text=True, timeout=500, env=os.environ | {"OPENAI_API_KEY": "none"}
    )
    assert done.returncode == 0, done.stderr[-2000:]


# --------------------------------------------------------------------------------------------------------- MT-Bench


@pytest.fixture(scope="module")
def fastchat_folder(run: OfficialRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder FastChat's scripts worked in, on our answers: judge.jsonl and answer.jsonl hold what they sent."""
    if find_spec("fastchat") is None:
        pytest.skip("fschat is not installed")
    folder = tmp_path_factory.mktemp("fastchat")
    bench = folder / "data" / "mt_bench"
    for name in ("reference_answer", "model_answer"):
        (bench / name).mkdir(parents=True)
    shutil.copy(upstream("mt_bench/judge_prompts"), folder / "data" / "judge_prompts.jsonl")
    shutil.copy(upstream("mt_bench/questions"), bench / "question.jsonl")
    shutil.copy(upstream("mt_bench/references/official"), bench / "reference_answer" / "gpt-4.jsonl")
    rows = [
        {"question_id": int(prompt_id), "model_id": "fake", "choices": [{"index": 0, "turns": turns}]}
        for prompt_id, turns in run.answers("mt_bench").items()
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (bench / "model_answer" / "fake.jsonl").write_text(text, "utf-8")
    replies = {
        question: answer
        for row in lines(bench / "question.jsonl")
        for question, answer in zip(row["turns"], run.answers("mt_bench")[str(row["question_id"])], strict=True)
    }
    (folder / "replies.json").write_text(json.dumps(replies), "utf-8")
    reference("fastchat", str(folder))
    return folder


@pytest.mark.slow
def test_mt_bench_sends_the_160_judge_requests_that_fastchat_sends(run: OfficialRun, fastchat_folder: Path) -> None:
    theirs = lines(fastchat_folder / "judge.jsonl")

    assert len(theirs) == 160
    assert counted(run.judge_bodies(2048)) == counted(theirs)


@pytest.mark.slow
def test_mt_bench_asks_the_model_what_fastchat_asks(run: OfficialRun, fastchat_folder: Path) -> None:
    """Same turns, temperature and limit. FastChat's template also puts a system message of its own before them; ours is
    the model's own chat template, and a seed goes along, so that the run can be repeated."""
    theirs = lines(fastchat_folder / "answer.jsonl")
    for body in theirs:
        assert body["messages"].pop(0)["role"] == "system"
        assert body.pop("n") == 1  # the protocol's default
    ours = [request.body for request in run.asked if request.body["max_tokens"] == 1024]
    for body in ours:
        body.pop("seed", None)
    assert len(theirs) == 160
    assert counted(ours) == counted(theirs)


# ------------------------------------------------------------------------------------------------------- AlpacaEval


@pytest.mark.slow
def test_alpaca_eval_sends_the_requests_that_alpaca_eval_sends(run: OfficialRun, tmp_path: Path) -> None:
    """All 805 over HTTP: messages, order switch and parameters. The verdicts are the same too."""
    if find_spec("alpaca_eval") is None:
        pytest.skip("alpaca-eval is not installed")
    baseline = json.loads(upstream("alpaca_eval/baseline").read_text("utf-8"))
    answers = run.answers("alpaca_eval")
    outputs = [
        {"instruction": row["instruction"], "output": answers[str(place)][0], "generator": "fake"}
        for place, row in enumerate(baseline)
    ]
    (tmp_path / "baseline.json").write_text(json.dumps(baseline), "utf-8")
    (tmp_path / "outputs.json").write_text(json.dumps(outputs), "utf-8")

    with serving(FakeOpenAI(reply=judge_reply)) as judge:
        reference("alpaca", str(tmp_path), judge.url)

    theirs = [request.body for request in judge.requests]
    assert len(theirs) == 805
    assert counted(run.judge_bodies(1)) == counted(theirs)
    _same_preferences(run, baseline, json.loads((tmp_path / "annotations.json").read_text("utf-8")))


def _same_preferences(run: OfficialRun, baseline: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    places = {row["instruction"]: str(place) for place, row in enumerate(baseline)}
    judgments = {row["prompt_id"]: row for row in lines(run.folders["alpaca_eval"] / "judgments.jsonl")}
    for row in theirs:
        ours = judgments[places[row["instruction"]]]["verdict"]["value"]
        assert row["preference"] - 1 == pytest.approx(ours, abs=1e-12)


@pytest.mark.slow
def test_alpaca_eval_asks_one_user_turn_an_instruction(run: OfficialRun) -> None:
    instructions = [row["instruction"] for row in json.loads(upstream("alpaca_eval/baseline").read_text("utf-8"))]
    asked = [
        request for request in run.asked if (request.body["max_tokens"], request.body["temperature"]) == (4096, 0.7)
    ]

    assert Counter(json.dumps(request.messages) for request in asked) == Counter(
        json.dumps([{"role": "user", "content": text}]) for text in instructions
    )


# ------------------------------------------------------------------------------------------------------- Arena-Hard


def arena_requests(run: OfficialRun) -> list[dict[str, Any]]:
    """First requests of both games of the 500, composed from the pinned files: baseline first, then swapped."""
    config = yaml.safe_load(upstream("arena_hard/judge_config").read_text("utf-8"))
    baseline = {
        row["question_id"]: row["choices"][0]["turns"][0]["content"] for row in lines(upstream("arena_hard/baseline"))
    }
    answers = run.answers("arena_hard")
    bodies = []
    for row in lines(upstream("arena_hard/questions")):
        pair = (baseline[row["question_id"]], answers[row["question_id"]][0])
        for first, second in (pair, pair[::-1]):
            user = config["prompt_template"][0].format(
                question_1=row["turns"][0]["content"], answer_1=first, answer_2=second
            )
            messages = [{"role": "system", "content": config["system_prompt"]}, {"role": "user", "content": user}]
            bodies.append({"messages": messages, "temperature": 0, "max_tokens": 4096})
    return bodies


@pytest.mark.slow
def test_arena_hard_sends_both_games_of_the_500_and_asks_again_where_there_is_no_label(run: OfficialRun) -> None:
    first = arena_requests(run)
    again = [
        {**body, "messages": [*body["messages"], {"role": "assistant", "content": UNDECIDED}, _user(REASK)]}
        for body in first
        if number_of(body["messages"][1]["content"]) % 7 == 0
    ]

    assert len(first) == 1000
    assert len(again) > 100
    assert counted(run.judge_bodies(4096)) == counted(first + again)


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.mark.slow
def test_arena_hard_asks_at_temperature_zero_without_a_system_message(run: OfficialRun) -> None:
    questions = [row["turns"][0]["content"] for row in lines(upstream("arena_hard/questions"))]
    asked = [request for request in run.asked if (request.body["max_tokens"], request.body["temperature"]) == (4096, 0)]

    assert Counter(json.dumps(request.messages) for request in asked) == Counter(
        json.dumps([_user(text)]) for text in questions
    )


# ------------------------------------------------------------------------------------------------------ the run itself


def test_each_thing_is_asked_once_and_only_the_undecided_games_are_unscored(run: OfficialRun) -> None:
    undecided = [
        body
        for body in arena_requests(run)
        if (number := number_of(body["messages"][1]["content"])) % 7 == 0 and number % 2
    ]

    assert len(run.asked) == 80 * 2 + 805 + 500
    scores = {
        suite: card["scores"][suite if suite != "alpaca_eval" else "win_rate"] for suite, card in run.cards.items()
    }
    assert {suite: score["n"] + score["unscored"] for suite, score in scores.items()} == {
        "mt_bench": 160,
        "alpaca_eval": 805,
        "arena_hard": 1000,
    }
    assert scores["arena_hard"]["unscored"] == len(undecided)
    assert (scores["mt_bench"]["unscored"], scores["alpaca_eval"]["unscored"]) == (0, 0)


def test_the_benchmarks_own_settings_are_no_deviation(run: OfficialRun) -> None:
    assert all("sampling_deviation" not in card["protocol"] for card in run.cards.values())
    assert run.cards["mt_bench"]["protocol"]["references"] == "official"
    assert "pr3158" not in json.dumps(run.cards["mt_bench"]["protocol"]["data"])
