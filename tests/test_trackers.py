"""Scores reach the trackers asked for, one run a model; a missing tracker is one sentence, before anything runs.

The trackers here are stand-ins that write down what they are called with; the real ones were tried by hand, offline.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Done
from made_runs import make_run, pocket

STAND_IN = """
import json, os

def note(*words):
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps(words) + "\\n")

class Run:
    def log(self, scores, step=None): note("log", scores, step)
    def finish(self): note("finish")
    def __enter__(self): return self
    def __exit__(self, *exc): note("finish")

def init(**words): note("init", words); return Run()
def log(scores, step=None): note("log", scores, step)
def finish(): note("finish")
def set_experiment(name): note("experiment", name)
def start_run(run_name): note("init", {"name": run_name}); return Run()
def log_params(facts): note("params", facts)
def log_metrics(scores, step=None): note("log", scores, step)
"""


@pytest.fixture
def board(tmp_path: Path) -> Path:
    for model, skill in (("one", 0.4), ("two", 0.7)):
        make_run(tmp_path / "results", model, pocket("arena_hard"), skill=skill)
    return tmp_path / "results"


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_each_model_is_one_run_with_its_scores(
    harness: Callable[..., Done], board: Path, tmp_path: Path, tracker: str
) -> None:
    place = tmp_path / "stand-ins"
    place.mkdir()
    (place / f"{tracker}.py").write_text(STAND_IN)
    words = ("leaderboard", "--results", str(board), "--log-to", tracker, "--json", "--no-reported")
    environment = {"PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])}

    done = harness(*words, **environment, SAID=str(tmp_path / "said"))

    assert done.code == 0, done.err
    assert done.err.strip() == f"logged 2 runs to {tracker}"
    rows = {row["model"]: row["score"] for row in json.loads(done.out)["tables"][0]["rows"]}
    said = [json.loads(line) for line in (tmp_path / "said").read_text().splitlines()]
    assert sorted(line[1]["name"] for line in said if line[0] == "init") == ["one", "two"]
    logged = [line[1] for line in said if line[0] == "log"]
    assert sorted(scores["arena_hard/arena_hard"] for scores in logged) == sorted(row["value"] for row in rows.values())
    assert all(scores["arena_hard/arena_hard_ci_low"] < scores["arena_hard/arena_hard"] for scores in logged)
    assert sum(line[0] == "finish" for line in said) == 2


def test_a_tracker_that_fails_is_one_sentence_and_exit_4(
    harness: Callable[..., Done], board: Path, tmp_path: Path
) -> None:
    (tmp_path / "wandb.py").write_text("def init(**words): raise RuntimeError('no key')\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    done = harness("leaderboard", "--results", str(board), "--log-to", "wandb", "--no-reported", **environment)

    assert done.code == 4
    assert "wandb took no scores of 'one': RuntimeError: no key" in done.err


def test_a_wrong_or_missing_tracker_is_refused_before_anything_runs(
    harness: Callable[..., Done], board: Path, tmp_path: Path
) -> None:
    (tmp_path / "trackio.py").write_text("raise ImportError('no module named trackio')\n")
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    for words in (("leaderboard", "--results", str(board)), ("run", "--model", "x", "--edition", "pocket")):
        unknown = harness(*words, "--log-to", "tensorboard")
        assert (unknown.code, "--log-to 'tensorboard' is no tracker; known: wandb, mlflow, trackio" in unknown.err) == (
            2,
            True,
        )
        missing = harness(*words, "--log-to", "trackio", **environment)
        assert (missing.code, "pip install trackio" in missing.err) == (2, True)
