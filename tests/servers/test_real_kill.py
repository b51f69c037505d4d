"""The command with a real vLLM below it, killed and interrupted: no process stays, and the cards come out the same."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from harness.store import find_cards
from tests.fakes.commands import harness_process
from tests.fakes.processes import gone, running
from tests.servers.conftest import RealRun

pytestmark = pytest.mark.slow


@pytest.fixture
def start(real_run: RealRun, tmp_path: Path) -> Iterator[Callable[[], Popen[str]]]:
    """Starts the same command as the undisturbed run, in a folder of its own."""
    started: list[Popen[str]] = []

    def call() -> Popen[str]:
        words = ("run", "--model", str(real_run.model), "--suite", "all", "--edition", "pocket")
        started.append(harness_process(*words, cwd=tmp_path))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def rows(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("results/runs/*/*/*/answers.jsonl"))


def wait_for(condition: Callable[[], bool], process: Popen[str]) -> None:
    limit = time.monotonic() + 240
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)


def comparable(results: Path) -> dict[str, Any]:
    """Suite -> card without what is measured, and without the checkout's state."""
    cards = [json.loads(path.read_text()) for path in find_cards(results)]
    for card in cards:
        del card["usage"], card["provenance"]["git"]
    return {card["suite"]: card for card in cards}


def test_killed_twice_with_a_real_server_it_ends_in_the_same_cards(
    start: Callable[[], Popen[str]], real_run: RealRun, tmp_path: Path
) -> None:
    served = f"--model={real_run.model}"
    for least in (1, 100):
        process = start()
        wait_for(lambda least=least: rows(tmp_path) >= least, process)  # type: ignore[misc]  # mypy: default in lambda
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert gone(served, 10)
    there = rows(tmp_path)

    last = start()
    _, err = last.communicate(timeout=300)

    assert last.returncode == 0, err
    assert 100 <= there < 260
    assert rows(tmp_path) == 260
    assert comparable(tmp_path / "results") == comparable(real_run.results)


def test_ctrl_c_while_the_server_starts_leaves_nothing(
    start: Callable[[], Popen[str]], real_run: RealRun, tmp_path: Path
) -> None:
    served = f"--model={real_run.model}"
    process = start()
    wait_for(lambda: bool(running(served)), process)
    time.sleep(5)  # well into the imports

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 4
    assert "run the same command again to resume" in err.splitlines()[-1]
    assert gone(served, 1)
    assert find_cards(tmp_path / "results") == []
