"""Scores reach the trackers asked for, one run a model; a missing tracker is one sentence, before anything runs.

The trackers here are stand-ins that write down what they are called with; the real ones were tried by hand, offline.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.read_board import read_board
from harness.analysis.trackers import TRACKERS, log_scores, log_step, tracker_names
from harness.records.errors import ConfigError, IncompleteError
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket

STAND_IN = """
import json, os

def note(*words):
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps(words) + "\\n")

class Run:
    def log(self, scores, step=None): note("log", scores, step)
    def finish(self): note("finish")
    def define_metric(self, name, **words): note("metric", name, words)
    def __enter__(self): return self
    def __exit__(self, *exc): note("finish")

def init(**words): note("init", words); return Run()
def log(scores, step=None): note("log", scores, step)
def finish(): note("finish")
def set_experiment(name): note("experiment", name)
def search_runs(**words): return []
def start_run(run_name, **words): note("init", {"name": run_name}); return Run()
def log_params(facts): note("params", facts)
def log_metrics(scores, step=None): note("log", scores, step)
"""


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    for model, skill in (("one", 0.4), ("two", 0.7)):
        make_run(results, model, pocket("arena_hard"), skill=skill)
    return results


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with all three trackers; what they are told is written to `said` in it."""
    for tracker in TRACKERS:
        (tmp_path / f"{tracker}.py").write_text(STAND_IN)
        monkeypatch.delitem(sys.modules, tracker, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    yield tmp_path
    for tracker in TRACKERS:
        sys.modules.pop(tracker, None)


def said(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "said").read_text().splitlines()]


@pytest.mark.parametrize("tracker", list(TRACKERS))
def test_each_model_is_one_run_with_its_scores(board: Path, stand_ins: Path, tracker: str) -> None:
    cards = read_board(board).cards

    assert log_scores(tracker_names(tracker), cards) == 2
    lines = said(stand_ins)
    assert sorted(line[1]["name"] for line in lines if line[0] == "init") == ["one", "two"]
    logged = [line[1] for line in lines if line[0] == "log"]
    headlines = [card.scores["arena_hard"].value or 0.0 for card in cards]
    assert sorted(scores["arena_hard/arena_hard"] for scores in logged) == sorted(headlines)
    assert all(scores["arena_hard/arena_hard_ci_low"] < scores["arena_hard/arena_hard"] for scores in logged)
    assert sum(line[0] == "finish" for line in lines) == 2
    stated = next(line[1].get("config") or lines[2][1] for line in lines if line[0] == "init")
    assert {"arena_hard.judge", "arena_hard.protocol", "arena_hard.run"} <= stated.keys()


@pytest.mark.parametrize("tracker", list(TRACKERS))
def test_a_run_states_which_way_each_score_is_better(board: Path, stand_ins: Path, tracker: str) -> None:
    card = read_board(board).cards[0]
    turned = card.model_copy(update={"higher_is_better": {"arena_hard": False}})
    log_scores((tracker,), [turned])

    lines = said(stand_ins)
    stated = next(line[1].get("config") or lines[2][1] for line in lines if line[0] == "init")
    assert stated["arena_hard/arena_hard.better"] == "lower"
    assert "arena_hard/avg_tokens.better" not in stated  # neither more nor less of it is better
    if tracker == "wandb":
        assert ["metric", "arena_hard/arena_hard", {"summary": "min"}] in lines


@pytest.mark.parametrize("tracker", list(TRACKERS))
def test_checkpoints_of_a_training_are_steps_of_one_run(board: Path, stand_ins: Path, tracker: str) -> None:
    first, second = read_board(board).cards
    log_step((tracker,), "training", [first], 10)
    log_step((tracker,), "training", [second], 20)

    lines = said(stand_ins)
    assert [line[2] for line in lines if line[0] == "log"] == [10, 20]
    begun = [line[1] for line in lines if line[0] == "init"]
    assert begun[0] == begun[1]  # name, id and configuration


def test_a_tracker_that_fails_is_one_sentence(board: Path, stand_ins: Path) -> None:
    (stand_ins / "wandb.py").write_text("def init(**words): raise RuntimeError('no key')\n")

    with pytest.raises(IncompleteError, match="wandb rejected the scores of 'one': RuntimeError: no key"):
        log_scores(("wandb",), read_board(board).cards)


def test_the_command_logs_and_says_so(harness: Callable[..., Done], board: Path, stand_ins: Path) -> None:
    path = os.pathsep.join([str(stand_ins), os.environ.get("PYTHONPATH", "")])
    done = harness("leaderboard", "--results", str(board), "--log-to", "wandb,mlflow", "--json", PYTHONPATH=path)

    assert done.code == 0, done.err
    assert done.err.strip() == "logged 4 runs to wandb, mlflow"
    assert len(json.loads(done.out)["tables"]) == 1


def test_a_wrong_or_missing_tracker_is_refused_before_anything_runs(
    harness: Callable[..., Done], stand_ins: Path
) -> None:
    with pytest.raises(
        ConfigError, match="--log-to 'tensorboard' is not a known tracker; known: wandb, mlflow, trackio"
    ):
        tracker_names("tensorboard")
    (stand_ins / "trackio.py").write_text("raise ImportError('no module named trackio')\n")
    path = os.pathsep.join([str(stand_ins), os.environ.get("PYTHONPATH", "")])
    missing = harness("run", "--model", "x", "--edition", "pocket", "--log-to", "trackio", PYTHONPATH=path)
    assert missing.code == 2
    assert "--log-to trackio needs the package: pip install trackio" in missing.err
