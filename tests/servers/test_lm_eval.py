"""`--suite lm_eval:…`: the installed lm-eval asks the served model, and its numbers join cards and leaderboard."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from harness.records import Score, SuiteScores
from harness.records.errors import ConfigError, IncompleteError
from harness.records.judge_choice import is_judged, suite_names
from harness.records.protocols import Numbers, OwnRun, Served
from harness.running.execute import run_own
from harness.suites.lm_eval.suite import child_environment
from tests.fakes.commands import Done, harness_process
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, serving
from tests.fakes.processes import gone, running

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


@pytest.mark.slow
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
    assert "| 1 (1-1) | fake | 0.50" in shown.out


@pytest.mark.slow
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
        ("lm_eval:a b", "'a b' is not an lm-eval task name"),
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


def test_a_dry_run_shows_the_task(harness: Callable[..., Done], tmp_path: Path) -> None:
    write_task(tmp_path, "toy")
    words = ("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", "--suite", "lm_eval:toy.yaml+gsm8k", "--dry-run")

    shown, as_json = harness(*words), harness(*words, "--json")

    assert "lm_eval:toy" in shown.out
    assert [row["suite"] for row in json.loads(as_json.out)["dry_run"]] == ["lm_eval:toy", "lm_eval:gsm8k"]
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_stopped_run_asks_only_what_is_missing_and_a_fresh_one_everything(
    harness: Callable[..., Done], tmp_path: Path, offline: dict[str, str]
) -> None:
    task, broken = write_task(tmp_path, "toy"), [True]

    def reply(request: Request) -> Reply | str:
        return Reply(status=503) if broken[0] and request.last[-1] in "12" else "a"

    with serving(FakeOpenAI(reply=reply)) as model:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--suite", f"lm_eval:{task}", "--json")
        stopped = harness(*words, **offline)
        broken[0], before = False, len(model.requests)
        done = harness(*words, **offline)
        resumed, before = len(model.requests) - before, len(model.requests)
        fresh = harness(*words, "--fresh", **offline)

    assert stopped.code == 4
    assert stopped.err.strip().splitlines()[-1].startswith("harness: lm-eval failed on 'toy.yaml' (exit 1): ")
    assert resumed == 2
    assert cards(done)["lm_eval:toy"]["scores"]["exact_match,none"]["value"] == 1.0
    assert cards(fresh)["lm_eval:toy"]["scores"]["exact_match,none"]["n"] == 4
    assert len(model.requests) - before == 4


@pytest.mark.slow
def test_a_server_that_is_gone_is_one_sentence(
    harness: Callable[..., Done], tmp_path: Path, offline: dict[str, str]
) -> None:
    task, model = write_task(tmp_path, "toy"), FakeOpenAI(latency=60)
    with serving(model):
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--suite", f"lm_eval:{task}")
        process = harness_process(*words, cwd=tmp_path, **offline)
        wait_until(lambda: bool(model.requests))
    _, err = process.communicate(timeout=120)

    assert process.returncode == 4
    assert err.strip().splitlines()[-1] == f"harness: no server at {model.url}: " + err.strip().rsplit(": ", 1)[-1]
    assert "Traceback" not in err


def test_a_task_of_log_likelihoods_needs_the_checkpoints_tokenizer(
    harness: Callable[..., Done], tmp_path: Path, offline: dict[str, str]
) -> None:
    task = write_task(tmp_path, "compared", choices=True)
    with serving(FakeOpenAI()) as model:
        done = harness("run", "--model", f"endpoint:fake@{model.url}", "--suite", f"lm_eval:{task}", **offline)

    assert done.code == 2
    assert "compares log-likelihoods, which requires the checkpoint's tokenizer" in done.err
    assert model.requests == []


@pytest.mark.slow
def test_sigterm_leaves_no_process_behind(tmp_path: Path, offline: dict[str, str]) -> None:
    name = f"toy{os.getpid()}x"
    task = write_task(tmp_path, name)
    with serving(FakeOpenAI(latency=60)) as model:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--suite", f"lm_eval:{task}")
        process = harness_process(*words, cwd=tmp_path, **offline)
        wait_until(lambda: bool(model.requests))
        assert len(running(name)) >= 3  # harness, warden, lm-eval

        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)

        assert process.returncode == 4
        assert "run the same command again to resume" in err
        assert gone(name, 10)


class DiesOnce:
    """A backend whose server dies under the first suite that asks it."""

    revivals = 0

    def served(self) -> Served:
        return Served("m", f"http://127.0.0.1:{1 + self.revivals}/v1")

    async def revive(self) -> bool:
        self.revivals += 1
        return self.revivals == 1


class Asks:
    """A suite that runs by itself, and fails on some servers."""

    name, version = "asks", "1"

    def __init__(self, *fails: str) -> None:
        self.asked: list[str] = []
        self._fails = fails

    def protocol(self) -> dict[str, JsonValue]:
        return {}

    async def run(self, server: Served, own: OwnRun) -> Numbers:
        self.asked.append(server.url)
        if server.url in self._fails:
            raise IncompleteError("no server")
        return Numbers("asks", "1", "none", "m", SuiteScores(scores={"m": Score(value=1, n=1)}), {}, {})


def test_a_suite_runs_again_on_a_server_that_was_brought_back(tmp_path: Path) -> None:
    suite = Asks("http://127.0.0.1:1/v1")

    found = asyncio.run(run_own(suite, DiesOnce(), OwnRun(tmp_path)))

    assert found.scores.scores["m"].value == 1
    assert suite.asked == ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    with pytest.raises(IncompleteError, match="no server"):
        asyncio.run(run_own(Asks("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"), DiesOnce(), OwnRun(tmp_path)))


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow
def test_real_vllm_answers_chat_and_log_likelihood_tasks(
    harness: Callable[..., Done], tmp_path: Path, vllm_checkpoint: Path, offline: dict[str, str]
) -> None:
    said, compared = write_task(tmp_path, "said"), write_task(tmp_path, "compared", choices=True)
    words = ("run", "--model", str(vllm_checkpoint), "--suite", f"lm_eval:{said}+{compared}", "--json")

    found = cards(harness(*words, **offline))

    assert {name: card["protocol"]["chat_template"] for name, card in found.items()} == {
        "lm_eval:said": "server",
        "lm_eval:compared": "none",
    }
    for card in found.values():
        head = card["scores"][card["headline"]]
        assert 0 <= head["value"] <= 1
        assert head["n"] == 4
        # four answers that are all right or all wrong show no error
        assert (head["se"] is None) == (head["value"] in (0.0, 1.0))


def test_lm_eval_sees_no_key_but_its_servers_and_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "GEMINI_API_KEY", "DB_PASSWORD", "HF_TOKEN"):
        monkeypatch.setenv(name, "sesame")

    seen = child_environment(Served("m", "http://127.0.0.1:1/v1", key="of-this-server"))

    assert seen["OPENAI_API_KEY"] == "of-this-server"
    assert {name for name, value in seen.items() if value == "sesame"} == {"HF_TOKEN"}
    assert seen["PYTHONSAFEPATH"] == "1"  # a folder called judges in the working directory is not imported
