"""A suite of the user's own: from a YAML file to the gate, against local servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, Request

Call = Callable[..., Done]
Serve = Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]

RUBRIC = """\
prompts: questions.jsonl
system: You answer customers of a bicycle shop.
judge:
  kind: rubric
  items:
    - {name: correct, text: 'Does the answer name the right part?', weight: 3}
    - {name: polite, text: 'Is it polite?'}
    - {name: detail, text: 'How detailed is it?', low: 0, high: 4}
sampling: {temperature: 0, max_tokens: 200}
margin: 12
"""
PAIRWISE = """\
prompts: questions.jsonl
judge:
  kind: pairwise
  labels: {first: 1, second: 0, neither: 0.5}
baseline: {file: baseline.jsonl}
"""


def write_suite(folder: Path, text: str, name: str = "bicycles.yaml", *, prompts: int = 10) -> None:
    rows = [
        {"id": f"q{n}", "prompt": f"Which part is number {n}?", "category": ("chain", "wheel")[n % 2]}
        for n in range(prompts)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / name).write_text(text)


def write_answers(path: Path, text: Callable[[int], str], prompts: int = 10) -> Path:
    rows = [{"prompt_id": f"q{n}", "turns": [text(n)]} for n in range(prompts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rubric_reply(request: Request) -> str:
    answer = re.search(r"<answer>\n(.*?)\n</answer>", request.last, re.DOTALL)
    text = answer[1] if answer else ""
    right, polite = "yes" if "right" in text else "no", "yes" if "please" in text else "no"
    return f"It names it. [[1: {right}]]\nPolite? [[2: {polite}]]\nDetail: [[3: {min(4, len(text) // 10)}]]"


def longer_reply(request: Request) -> str:
    shown = [re.search(rf"<answer {side}>\n(.*?)\n</answer", request.last, re.DOTALL) for side in "AB"]
    first, second = (len(match[1]) if match else 0 for match in shown)
    return f"[[{'first' if first > second else 'second' if first < second else 'neither'}]]"


def cards(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return list(json.loads(done.out)["cards"])


def run_words(answers: Path, judge: str, *more: str) -> tuple[str, ...]:
    model = ("--model", str(answers), "--backend", "scripted", "--json")
    return ("run", *model, "--judge", f"endpoint:gpt-x@{judge}", *more)


@pytest.mark.slow
def test_a_rubric_suite_goes_from_its_file_to_the_gate(harness: Call, serve: Serve, tmp_path: Path) -> None:
    write_suite(tmp_path, RUBRIC)
    good = write_answers(tmp_path / "good.jsonl", lambda n: "the right one, please take it home")  # 34 characters
    bad = write_answers(tmp_path / "bad.jsonl", lambda n: "the right one" if n < 5 else "who knows")
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        [first] = cards(harness(*run_words(good, judge.url, "--suite", "bicycles.yaml")))
        [second] = cards(harness(*run_words(bad, judge.url, "--suite", "custom:bicycles.yaml")))
        asked = len(judge.requests)
        [again] = cards(harness(*run_words(good, judge.url, "--suite", "pairs:bicycles.yaml")))
        shown = judge.requests[0].last

    assert "1. Does the answer name the right part? (yes or no)" in shown
    assert "3. How detailed is it? (0 to 4)" in shown
    assert len(judge.requests) == asked == 20  # the third run is the first, resumed
    assert again["scores"] == first["scores"]
    assert (first["suite"], first["headline"]) == ("custom:bicycles", "rubric")
    # (3 * 1 + 1 + 3/4) / 5 points
    assert first["scores"]["rubric"]["value"] == pytest.approx(95.0)
    assert first["scores"]["item_detail"]["value"] == pytest.approx(75.0)
    # half of the answers: (3 + 1/4) / 5; the other half: 0, as 9 characters are no detail
    assert second["scores"]["rubric"]["value"] == pytest.approx((65 + 0) / 2)
    assert second["scores"]["item_correct"]["value"] == pytest.approx(50.0)
    assert second["scores"]["rubric"]["ci_low"] is not None

    (tmp_path / "bicycles.yaml").unlink()  # runs have a copy of what they asked
    compared = harness("compare", "good.jsonl", "bad.jsonl", "--json")
    assert compared.code == 0, compared.err
    report = json.loads(compared.out)["comparisons"][0]
    by_category = {row["category"]: row["value"] for row in report["differences"] if row["metric"] == "rubric"}
    assert by_category[None] == pytest.approx(32.5 - 95)
    assert set(by_category) == {None, "chain", "wheel"}
    words = ("gate", "--candidate", "bad.jsonl", "--baseline", "good.jsonl", "--json")
    gate = harness(*words)
    assert gate.code == 3, gate.err  # ten questions decide nothing unless the policy says so
    [check] = json.loads(gate.out)["checks"]
    assert (check["suite"], check["metric"], check["margin"]) == ("custom:bicycles", "rubric", 12)
    (tmp_path / "gate.yaml").write_text("checks: [{suite: 'custom:bicycles', margin: 12, min_questions: 10}]\n")
    assert harness(*words, "--policy", "gate.yaml").code == 1
    assert harness(*words[:1], "--candidate", "good.jsonl", *words[3:4], "bad.jsonl", "--policy", "gate.yaml").code == 0
    board = harness("leaderboard")
    assert "custom:bicycles" in board.out
    assert board.code == 0
    row = json.loads(next(tmp_path.glob("results/runs/good.jsonl/*/*/judgments.jsonl")).read_text().splitlines()[0])
    assert row["verdict"]["items"] == {"correct": 1.0, "polite": 1.0, "detail": 3.0}


def test_a_pairwise_suite_plays_both_orders_against_a_file(harness: Call, serve: Serve, tmp_path: Path) -> None:
    write_suite(tmp_path, PAIRWISE)
    write_answers(tmp_path / "baseline.jsonl", lambda n: "middling")
    mine = write_answers(tmp_path / "mine.jsonl", lambda n: "a longer answer" if n < 8 else "short")
    with serve(FakeOpenAI(reply=longer_reply)) as judge:
        [card] = cards(harness(*run_words(mine, judge.url, "--suite", "bicycles.yaml")))

    assert len(judge.requests) == 20
    assert card["headline"] == "win_rate"
    assert card["scores"]["win_rate"]["value"] == pytest.approx(80.0)
    assert card["protocol"]["baseline"] == "baseline"


@pytest.mark.slow
def test_prompts_alone_are_rated_or_compared_with_a_model_that_is_asked_once(
    harness: Call, serve: Serve, tmp_path: Path
) -> None:
    write_suite(tmp_path, "", "unused.yaml")
    mine = write_answers(tmp_path / "mine.jsonl", lambda n: "a longer answer")
    yours = write_answers(tmp_path / "yours.jsonl", lambda n: "x")

    def reply(request: Request) -> str:
        if "<answer A>" in request.last:
            return longer_reply(request).replace("first", "A>B").replace("second", "B>A").replace("neither", "A=B")
        return "Fine. [[8]]"

    with serve(FakeOpenAI(reply=reply)) as judge, serve(FakeOpenAI(reply=lambda request: "medium")) as model:
        words = ("--suite", "questions.jsonl")
        [rated] = cards(harness(*run_words(mine, judge.url, *words)))
        against = ("--baseline", f"endpoint:fake@{model.url}")
        dry = harness(*run_words(mine, judge.url, *words, *against, "--dry-run"))
        assert dry.code == 0, dry.err
        assert not [request for request in model.requests if request.messages]
        [won] = cards(harness(*run_words(mine, judge.url, *words, *against)))
        [lost] = cards(harness(*run_words(yours, judge.url, *words, *against)))
        asked = [request for request in model.requests if request.messages]

    assert (rated["headline"], rated["scores"]["rating"]["value"]) == ("rating", 8.0)
    assert won["scores"]["win_rate"]["value"] == 100.0
    assert lost["scores"]["win_rate"]["value"] == 0.0
    assert won["protocol"] == lost["protocol"]
    assert won["protocol"]["baseline"] == "fake"
    assert len(asked) == 10  # once, for both candidates


def test_a_prompts_own_items_are_scored_after_those_of_all(harness: Call, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "lists.yaml").write_text(
        "prompts:\n"
        "  - {id: a, prompt: Name a fruit, items: [{name: safe, weight: 4}, {name: harmful, weight: -5}]}\n"
        "  - {id: b, prompt: Name a tree}\n"
        "judge: {kind: rubric, items: [{name: short}]}\n"
    )
    rows = [{"prompt_id": name, "turns": ["an apple"]} for name in "ab"]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replies = {"Name a fruit": "[[1: yes]] [[2: no]] [[3: yes]]", "Name a tree": "[[1: yes]]"}

    def reply(request: Request) -> str:
        return next(text for question, text in replies.items() if question in request.last)

    with serve(FakeOpenAI(reply=reply)) as judge:
        [card] = cards(harness(*run_words(tmp_path / "m.jsonl", judge.url, "--suite", "lists.yaml")))

    # a: (1 - 5) of 5 points; b: all
    assert card["scores"]["rubric"]["value"] == pytest.approx((-80 + 100) / 2)
    assert card["scores"]["item_short"]["value"] == 100.0


def test_checks_need_no_judge(harness: Call, tmp_path: Path) -> None:
    text = "prompts:\n  - {id: a, prompt: 'Say {{1}}', reference: '1'}\n  - {id: b, prompt: Say 2, reference: '2'}\n"
    (tmp_path / "digits.yaml").write_text(text + "judge: {kind: checks, checks: [exact_match, valid_json]}\n")
    rows = [{"prompt_id": "a", "turns": ["1"]}, {"prompt_id": "b", "turns": ["two"]}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    words = ("--model", "m.jsonl", "--backend", "scripted", "--suite", "digits.yaml", "--json")
    [card] = cards(harness("run", *words))

    assert card["judge"] == "checks"
    assert card["scores"]["pass_rate"]["value"] == 50.0
    assert card["scores"]["item_exact_match"]["value"] == 50.0
    assert card["counts"]["unjudged"] == {}
