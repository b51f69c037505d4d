"""`--suite lm_eval:…`: the installed lm-eval asks the served model, and its numbers join cards and leaderboard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Done, serving
from fake_openai import FakeOpenAI

from harness.config import is_judged, suite_names
from harness.errors import ConfigError

pytest.importorskip("lm_eval")

TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{settings}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
metadata:
  version: 2.0
"""
GENERATE = 'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 16'
CHOICES = 'doc_to_choice: ["a", "b"]'


def write_task(folder: Path, name: str, *, choices: bool = False) -> str:
    """A task of four questions, as a user would write it; the answer to all of them is `a`."""
    rows = [{"question": f"{name} question {number}", "answer": "a"} for number in range(4)]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind, settings, metric = (
        ("multiple_choice", CHOICES, "acc") if choices else ("generate_until", GENERATE, "exact_match")
    )
    text = TASK.format(name=name, data=data, kind=kind, settings=settings, metric=metric)
    (folder / f"{name}.yaml").write_text(text)
    return f"{name}.yaml"


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    return {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}


def cards(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    return {card["suite"]: card for card in json.loads(done.out)["cards"]}


def test_a_suite_with_arguments_is_one_suite_an_argument() -> None:
    assert suite_names("mt_bench,lm_eval:gsm8k+ifeval") == ("mt_bench", "lm_eval:gsm8k", "lm_eval:ifeval")
    assert not is_judged("lm_eval:gsm8k")
    assert is_judged("mt_bench")
    with pytest.raises(ConfigError, match="no suite named 'lmeval:gsm8k'"):
        suite_names("lmeval:gsm8k")


def test_lm_evals_metrics_and_errors_join_card_and_leaderboard(
    harness: Callable[..., Done], tmp_path: Path, offline: dict[str, str]
) -> None:
    task = write_task(tmp_path, "toy")
    with serving(FakeOpenAI(reply=lambda request: "ab"[request.last[-1] in "12"])) as model:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--results", "results", "--json")
        done = harness(*words, "--suite", f"lm_eval:{task}", **offline)
        asked = len(model.requests)
        again = harness(*words, "--suite", f"lm_eval:{task}", **offline)
        assert asked == len(model.requests) == 4
        assert all(request.path == "/v1/chat/completions" for request in model.requests)
        assert model.requests[0].messages[0]["role"] == "user"

    card = cards(done)["lm_eval:toy"]
    score = card["scores"]["exact_match,none"]
    assert (score["value"], score["n"], score["unscored"]) == (0.5, 4, 0)
    assert score["se"] == pytest.approx((1 / 3 / 4) ** 0.5)  # of 1, 1, 0, 0: variance 1/3 over four rows
    assert (card["headline"], card["suite_version"], card["judge"]) == ("exact_match,none", "2.0", "none")
    assert card["protocol"]["chat_template"] == "server"
    assert str(tmp_path) not in json.dumps(card)
    assert cards(again)["lm_eval:toy"] == card
    shown = harness("leaderboard", "--format", "md")
    assert "| 1 | fake | 0.50" in shown.out


def test_lm_eval_stands_beside_judged_suites_and_its_failure_is_one_sentence(
    harness: Callable[..., Done], tmp_path: Path, offline: dict[str, str]
) -> None:
    with serving(FakeOpenAI()) as model:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--edition", "pocket", "--limit", "8")
        done = harness(*words, "--suite", "arena_hard,lm_eval:no_such_task", **offline)

    assert done.code == 4
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("harness: lm-eval failed on 'no_such_task' (exit 1): ")
    assert "Traceback" not in last
    assert len(list((tmp_path / "results/runs/fake").glob("*/*/judgments.jsonl"))) == 1


@pytest.mark.parametrize(
    ("suite", "sentence"),
    [
        ("lm_eval", "suite lm_eval needs a task"),
        ("lm_eval:none.yaml", "no lm-eval task file 'none.yaml'"),
        ("lm_eval:a b", "'a b' is no lm-eval task name"),
    ],
)
def test_a_suite_that_cannot_be_is_one_sentence(harness: Callable[..., Done], suite: str, sentence: str) -> None:
    done = harness("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", "--suite", suite)

    assert done.code == 2
    assert sentence in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_backend_without_a_server_is_refused(harness: Callable[..., Done], tmp_path: Path) -> None:
    done = harness("run", "--model", "echo", "--backend", "scripted", "--suite", "lm_eval:gsm8k")

    assert done.code == 2
    assert "backend 'scripted' has no server" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_real_vllm_answers_chat_and_log_likelihood_tasks(
    harness: Callable[..., Done], tmp_path: Path, vllm_checkpoint: Path, offline: dict[str, str]
) -> None:
    said, compared = write_task(tmp_path, "said"), write_task(tmp_path, "compared", choices=True)
    words = ("run", "--model", str(vllm_checkpoint), "--suite", f"lm_eval:{said}+{compared}", "--json")

    found = cards(harness(*words, timeout=500, **offline))

    assert {name: card["protocol"]["chat_template"] for name, card in found.items()} == {
        "lm_eval:said": "server",
        "lm_eval:compared": "none",
    }
    for card in found.values():
        head = card["scores"][card["headline"]]
        assert 0 <= head["value"] <= 1
        assert head["n"] == 4
        assert head["se"] is not None
