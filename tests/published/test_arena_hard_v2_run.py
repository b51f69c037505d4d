"""Arena-Hard v2.0 whole: all 750 prompts through `harness run`, then out to its own files and in again.

Upstream's creative baseline and judge prompts are not at hand: stand-ins of the same form take their place. Questions,
the hard prompts' baseline and the judge's configuration are the pinned ones. Needs HARNESS_MIRROR.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.main import app
from harness.store.official import pinned_files
from harness.suites.arena_hard.suite import read_judge_settings
from harness.suites.files import read_json_lines
from tests.fakes.commands import run_command
from tests.fakes.openai_server import FakeOpenAI, Request, serving
from tests.unit.test_arena_hard_v2 import JUDGE_UTILS

MIRROR = os.environ.get("HARNESS_MIRROR", "")
pytestmark = pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR is not set: no upstream files at hand")
LABELS = ("A>>B", "A>B", "A=B", "B>A", "B>>A", "none")


def upstream(name: str) -> Path:
    return Path(MIRROR) / pinned_files()[f"arena_hard_v2/{name}"].path


def label(text: str) -> str:
    """A deterministic verdict; one game in thirty has none."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return "none" if number % 30 == 0 else LABELS[number % 5]


def judge(request: Request) -> str:
    found = label(request.last)
    return "I cannot tell." if found == "none" else f"On reflection [[{found.lower()}]]"


def questions() -> list[dict[str, Any]]:
    return read_json_lines(upstream("questions"))


@dataclass(frozen=True)
class Run:
    folder: Path
    card: dict[str, Any]
    answers: dict[str, str]
    judged: list[Request]


@pytest.fixture(scope="module")
def pins() -> Iterator[None]:
    """The stand-ins' own hashes in place of those of the two files that they stand for."""
    changed = dict(pinned_files())
    for name, text in (("judge_prompts", JUDGE_UTILS), ("baseline/creative_writing", creative_answers())):
        file = changed[f"arena_hard_v2/{name}"]
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        changed[file.name] = replace(file, sha256=sha256, size=len(text.encode()))
    with mock.patch("harness.store.official.pinned_files", return_value=changed):
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pins: None) -> Run:
    folder = tmp_path_factory.mktemp("v2")
    stand_ins = {"judge_prompts": JUDGE_UTILS, "baseline/creative_writing": creative_answers()}
    for name, text in stand_ins.items():
        place = folder / "mirror" / pinned_files()[f"arena_hard_v2/{name}"].path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
    answer = FakeOpenAI(reply=lambda request: f"## {{QUESTION}} to {request.last[:40]} **end**")
    with serving(answer) as model, serving(FakeOpenAI(reply=judge)) as judging:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--judge", f"endpoint:gpt-4.1@{judging.url}")
        done = run_command(
            *words, "--suite", "arena_hard_v2", "--mirror", str(folder / "mirror"), "--json", cwd=folder,
            HARNESS_CACHE=str(folder / "cache"),
        )  # fmt: skip
    assert done.code == 0, done.err
    [card] = json.loads(done.out)["cards"]
    place = next((folder / "results/runs/fake").glob("arena_hard_v2@official-1/*"))
    rows = [json.loads(line) for line in (place / "answers.jsonl").read_text("utf-8").split("\n")[:-1]]
    return Run(folder, card, {row["prompt_id"]: row["turns"][0] for row in rows}, list(judging.requests))


def creative_answers() -> str:
    return "".join(
        json.dumps(
            {
                "uid": row["uid"],
                "model": "gemini-2.0-flash-001",
                "messages": [{"role": "assistant", "content": {"answer": f"gemini on {row['uid']}"}}],
                "metadata": {"token_len": 9, "header_count": {"h1": 1}, "list_count": {}, "bold_count": {}},
            }
        )
        + "\n"
        for row in questions()
        if row["category"] == "creative_writing"
    )


def baseline_answers() -> dict[str, str]:
    hard = {
        row["uid"]: row["messages"][-1]["content"]["answer"]
        for row in read_json_lines(upstream("baseline/hard_prompt"))
    }
    creative = {row["uid"]: f"gemini on {row['uid']}" for row in questions() if row["category"] == "creative_writing"}
    return hard | creative


@pytest.mark.slow
def test_both_games_of_all_750_prompts_are_asked_in_their_categorys_words(run: Run) -> None:
    config = yaml.safe_load(upstream("judge_config").read_text("utf-8"))
    settings, baseline = read_judge_settings(JUDGE_UTILS), baseline_answers()
    wanted = []
    for row in questions():
        pair = (baseline[row["uid"]], run.answers[row["uid"]])
        for first, second in (pair, pair[::-1]):
            user = config["prompt_template"].format(QUESTION=row["prompt"], ANSWER_A=first, ANSWER_B=second)
            messages = [
                {"role": "system", "content": settings[row["category"]]["system_prompt"]},
                {"role": "user", "content": user},
            ]
            wanted.append({"messages": messages, "temperature": 0, "max_tokens": 16000})

    assert len(wanted) == 1500
    assert counted([request.body for request in run.judged]) == counted(wanted)


def counted(bodies: list[dict[str, Any]]) -> Counter[str]:
    kept = [{key: value for key, value in body.items() if key != "model"} for body in bodies]
    return Counter(json.dumps(body, sort_keys=True) for body in kept)


@pytest.mark.slow
def test_the_scores_are_those_of_the_labels(run: Run) -> None:
    """Weighted wins over battles, each question with both games or not at all, by category."""
    baseline = baseline_answers()
    by_question: dict[str, dict[str, list[str]]] = {}
    categories = {row["uid"]: row["category"] for row in questions()}
    prompts = {row["prompt"]: row["uid"] for row in questions()}
    for request in run.judged:
        uid = next(uid for prompt, uid in prompts.items() if prompt in request.last and baseline[uid] in request.last)
        first = request.last.index(run.answers[uid]) < request.last.index(baseline[uid])
        by_question.setdefault(categories[uid], {}).setdefault(uid, []).append(
            swapped(label(request.last)) if not first else label(request.last)
        )
    for category, metric in (("hard_prompt", "arena_hard"), ("creative_writing", "creative_writing")):
        games = [label for labels in by_question[category].values() if "none" not in labels for label in labels]
        points = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B=A": 0.5, "B>A": 0.0, "B>>A": 0.0}
        weight = {label: 3 if ">>" in label else 1 for label in points}
        value = 100 * sum(weight[game] * points[game] for game in games) / sum(weight[game] for game in games)
        score = run.card["scores"][metric]
        assert score["value"] == pytest.approx(value, abs=1e-9)
        assert score["n"] == len(games)


def swapped(label: str) -> str:
    return label.translate(str.maketrans("AB", "BA"))


def harness(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_out_to_v2_files_and_in_again_the_numbers_stay(run: Run) -> None:
    out, results = run.folder / "files", run.folder / "imported"
    harness("export", "fake", "--format", "arena_hard", "--out", out, "--results", run.folder / "results",
            "--mirror", run.folder / "mirror")  # fmt: skip

    [scored] = json.loads(harness("score", out, "--format", "arena_hard", "--json"))["cards"]
    brought = harness(
        "import", out / "model_answer", out / "model_judgment", "--format", "arena_hard", "--suite", "arena_hard_v2",
        "--model", "fake", "--results", results, "--mirror", run.folder / "mirror", "--json",
    )  # fmt: skip

    [imported] = json.loads(brought)["cards"]
    assert imported["scores"]["avg_tokens"]["value"] == run.card["scores"]["avg_tokens"]["value"]
    for card in (scored, imported):
        assert card["suite"] == "arena_hard_v2"
        for metric in ("arena_hard", "creative_writing"):
            for key in ("value", "n", "unscored", "ci_low", "ci_high"):
                assert card["scores"][metric][key] == pytest.approx(run.card["scores"][metric][key]), (metric, key)
