"""docs/own_suite.md: its files and commands, run as printed there against local servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import ROOT
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, Request

PAGE = (ROOT / "docs" / "own_suite.md").read_text("utf-8")


def block(language: str, start: str) -> str:
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return next(text for text in blocks if text.startswith(start))


def reply(request: Request) -> str:
    if "<answer A>" in request.last:
        first = request.last.index("Right:") < request.last.index("Sorry")
        return "The first is right. [[A>B]]" if first else "The second is right. [[B>A]]"
    score = "yes" if "Right:" in request.last else "no"
    return f"[[1: {score}]] [[2: yes]] [[3: {4 if score == 'yes' else 2}]] [[4: no]]"


@pytest.mark.slow
def test_the_page_goes_from_yaml_to_gate(
    harness: Callable[..., Done],
    serve: Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]],
    tmp_path: Path,
) -> None:
    (tmp_path / "bicycles.yaml").write_text(block("yaml", "# bicycles.yaml"))
    (tmp_path / "bicycles.jsonl").write_text(block("json", '{"id": "q1"'))
    (tmp_path / "gate.yaml").write_text(block("yaml", "# gate.yaml"))
    (tmp_path / "duel.yaml").write_text(block("yaml", "# duel.yaml"))
    rows = [json.loads(line) for line in (tmp_path / "bicycles.jsonl").read_text().splitlines()]
    for model, start in (("new", "Right: "), ("old", "Sorry, no idea about: ")):
        lines = [{"prompt_id": row["id"], "turns": [start + row["prompt"]]} for row in rows]
        (tmp_path / model).write_text("".join(json.dumps(line) + "\n" for line in lines))
    commands = block("sh", "harness suite check") + block("sh", "harness run --model ./old")
    check, run_old, run_new, compare, gate = (line.split()[1:] for line in commands.splitlines())

    with serve(FakeOpenAI(reply=reply)) as judge:
        served = ("--backend", "scripted", "--judge", f"endpoint:gpt-x@{judge.url}")
        checked = harness(*check)
        assert not judge.requests
        runs = [harness(*words, *served, "--json") for words in (run_old, run_new)]
        duel = harness(*block("sh", "harness run --model ./new --suite duel").split()[1:], *served, "--json")
        (tmp_path / "other.jsonl").write_text('{"id": "q1", "prompt": "What is a brake?"}\n')
        other = harness("run", "--model", "./new", "--suite", "other.jsonl", "--baseline", "run:old", *served)
        no_judge = harness("run", "--model", "./new", "--suite", "bicycles.yaml", "--backend", "scripted")

    assert checked.code == 0, checked.err
    assert "1. Is the advice right, compared with the good answer? (yes or no)" in checked.out
    assert "prompts: 10" in checked.out
    old, new = (json.loads(done.out)["cards"][0]["scores"] for done in runs)
    assert (old["rubric"]["value"], new["rubric"]["value"]) == (100 * 1.5 / 5, 100.0)
    shown = harness(*compare)
    assert shown.code == 0, shown.err
    assert "rubric" in shown.out
    assert harness(*gate).code == 0
    turned = [{"new": "old", "old": "new"}.get(word, word) for word in gate]
    assert harness(*turned).code == 1
    assert duel.code in (0, 4), duel.err
    assert other.code == 2
    assert "no run of custom:other, or of the same questions, named 'old'" in other.err
    assert "no judge is configured" in no_judge.err
    assert "pocket" not in no_judge.err
    assert json.loads(duel.out)["cards"][0]["scores"]["win_rate"]["value"] == 100.0
