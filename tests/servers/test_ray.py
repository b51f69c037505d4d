"""Sampling and rewards on a Ray cluster of two nodes: one is killed, the driver is killed, and nothing shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.backends import warden
from harness.backends.cluster import Need, RayCluster
from recipes.stages.rewards import source_reward_steps
from recipes.steps import run_step
from tests import ROOT
from tests.fakes.commands import harness_process
from tests.fakes.processes import gone, running
from tests.fakes.ray_driver import DRAWS, PROMPTS
from tests.fakes.ray_nodes import Nodes, two_nodes
from tests.fakes.recipe_files import answers_step, prompt_rows, prompts_step, recipe
from tests.servers.conftest import RealRun

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")]

TEXTS = {f"p{number}": [f"answer {number} {draw}" for draw in range(4)] for number in range(15)}
FUNCTION = """
import os, pathlib, time

def count(prompts, completions):
    time.sleep(0.05)
    with (pathlib.Path(__file__).parent / "scored.txt").open("a") as file:
        file.write(f"{os.getpid()} {completions}\\n")
    return [len(one) + int(two.split()[1]) / (1 + int(two.split()[2])) for one, two in zip(prompts, completions)]
"""

DRIVER = ROOT / "tests" / "fakes" / "ray_driver.py"
ALL = PROMPTS * DRAWS


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with two_nodes() as made:
        yield made


@pytest.fixture
def driver(nodes: Nodes) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def call(backend: str, folder: Path) -> subprocess.Popen[str]:
        words = [sys.executable, str(DRIVER), backend, str(folder)]
        environment = os.environ | {"RAY_ADDRESS": nodes.address}
        with (folder.parent / f"{backend}.log").open("a") as log:
            started.append(subprocess.Popen(words, env=environment, stderr=log, text=True))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.wait()


def texts(folder: Path) -> list[tuple[str, int, list[str]]]:
    """Every row of the answers, in the order of prompts and draws."""
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return sorted((row["prompt_id"], row["index"], row["turns"]) for row in rows)


def expected() -> list[tuple[str, int, list[str]]]:
    return sorted((f"p{number}", index, [f"question {number}"]) for number in range(PROMPTS) for index in range(DRAWS))


def wait_for_rows(folder: Path, least: int, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: rows(folder) >= least, process)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.02)


def rows(folder: Path) -> int:
    path = folder / "answers.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_without_ray_the_echo_says_the_same(driver: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    assert driver("scripted", tmp_path / "out").wait(60) == 0
    assert texts(tmp_path / "out") == expected()


def test_a_killed_node_and_then_a_killed_driver_cost_no_answer(
    driver: Callable[..., subprocess.Popen[str]], nodes: Nodes, tmp_path: Path
) -> None:
    process = driver("ray", tmp_path / "out")
    log = tmp_path / "ray.log"
    wait_for(lambda: "2 of 2 workers" in log.read_text(), process)
    wait_for_rows(tmp_path / "out", rows(tmp_path / "out") + 40, process)

    nodes.kill_second()
    at_node = rows(tmp_path / "out")
    nodes.add()  # Ray places the lost worker there
    wait_for(lambda: log.read_text().count("2 of 2 workers") == 2, process)
    assert "what it had in flight is asked again" in log.read_text()
    wait_for_rows(tmp_path / "out", rows(tmp_path / "out") + 20, process)
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert gone("ray::EngineActor", 20)
    at_driver = rows(tmp_path / "out")
    assert 40 <= at_node < at_driver < ALL
    assert driver("ray", tmp_path / "out").wait(120) == 0, log.read_text()
    assert texts(tmp_path / "out") == expected()


def test_two_workers_give_the_rewards_of_one_process(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    function = tmp_path / "mine.py"
    function.write_text(FUNCTION)
    reward = {"kind": "function", "model": f"{function}:count", "batch_size": 2}

    found = []
    for name, more in (("here", {}), ("ray", {"workers": 2})):
        made = recipe(tmp_path / name, {**reward, **more})
        asked = prompts_step(made, prompt_rows(list(TEXTS)))
        answers = [answers_step(made.source(source), f"sources/{source}", TEXTS) for source in "ab"]
        step = source_reward_steps(made, asked, answers)[0]
        found.append((run_step(step).digest, (step.folder / "rewards.jsonl").read_text()))

    assert found[0] == found[1]
    assert len(found[0][1].splitlines()) == sum(map(len, TEXTS.values()))
    scored_by = {line.split()[0] for line in (tmp_path / "scored.txt").read_text().splitlines()}
    assert len(scored_by) == 3  # this process and two workers


def test_an_actor_that_is_killed_takes_its_server_with_it(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)

    class Serving:
        """A server under the warden that starts a process in a session of its own, as vLLM starts its engine."""

        def __init__(self) -> None:
            words = [sys.executable, "-I", warden.__file__, "sh", "-c", "setsid sleep 7654 & exec sleep 6543"]
            self.server = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)

    with RayCluster() as cluster:
        (actor,) = cluster.actors(Serving, [()], Need(), calls=1)
        limit = time.monotonic() + 60
        while not running("sleep\x007654"):
            assert time.monotonic() < limit
            time.sleep(0.05)

        import ray

        ray.kill(actor)
        assert gone("sleep\x007654", 10)
        assert gone("sleep\x006543", 1)


def test_a_real_vllm_worker_answers_as_vllm_does_without_ray(nodes: Nodes, real_run: RealRun, tmp_path: Path) -> None:
    words = ("run", "--model", str(real_run.model), "--suite", "alpaca_eval", "--edition", "pocket", "--limit", "12")
    on_ray = ("--backend", "ray", "--concurrency", "8", "--json")

    process = harness_process(*words, *on_ray, cwd=tmp_path, RAY_ADDRESS=nodes.address)
    out, err = process.communicate(timeout=400)

    assert process.returncode == 0, err
    (card,) = json.loads(out)["cards"]
    assert card["provenance"]["model"]["backend"] == "ray"
    found = said(tmp_path / "results")
    plain = said(real_run.results)
    assert len(found) == 12
    assert found == {key: plain[key] for key in found}
    assert gone(f"--model={real_run.model}", 5)
    assert list(tmp_path.glob("results/**/worker-0/vllm.log"))


def said(results: Path) -> dict[str, list[str]]:
    """Prompt id -> what was answered, of AlpacaEval."""
    (path,) = results.glob("runs/*/alpaca_eval@*/*/answers.jsonl")
    return {row["prompt_id"]: row["turns"] for row in map(json.loads, path.read_text().splitlines())}
