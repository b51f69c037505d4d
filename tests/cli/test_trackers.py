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
from harness.pages.tracked import tracked_files
from harness.records.errors import ConfigError, IncompleteError
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket

STAND_IN = """
import json, os

def note(*words):
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps(words) + "\\n")

class Config:
    def update(self, facts, allow_val_change=False): assert allow_val_change; note("params", facts)

class Run:
    config = Config()
    def log(self, scores, step=None): note("log", numbers(scores), step); note("media", sorted(media(scores)))
    def log_artifact(self, artifact): note("artifact", artifact.name, artifact.texts())
    def finish(self): note("finish")
    def define_metric(self, name, **words): note("metric", name, words)
    def __enter__(self): return self
    def __exit__(self, *exc): note("finish")

class File:
    text = ""
    def write(self, text): self.text += text
    def __enter__(self): return self
    def __exit__(self, *exc): pass

class Artifact:
    def __init__(self, name, type): self.name, self.files = name, {}
    def texts(self): return {name: file.text for name, file in self.files.items()}
    def new_file(self, name, mode): return self.files.setdefault(name, File())

class Html:
    def __init__(self, text, inject): assert text.startswith("<svg") and not inject

class Table:
    def __init__(self, columns, data): assert all(len(row) == len(columns) for row in data)

def media(scores): return [name for name, value in scores.items() if isinstance(value, (Html, Table))]
def numbers(scores): return {name: value for name, value in scores.items() if name not in media(scores)}

def init(**words): note("init", words); return Run()
def log(scores, step=None): note("log", scores, step)
def finish(): note("finish")
def set_experiment(name): note("experiment", name)
def search_runs(**words): return []
def start_run(run_name, run_id=None, tags=None): note("init", {"name": run_name, "tags": tags}); return Run()
def log_text(text, name): note("artifact", name, text)
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


def configuration(lines: list[Any]) -> dict[str, str]:
    """What the first run was told about itself: in wandb and mlflow after it began, in trackio as it does."""
    told = [line[1] for line in lines if line[0] == "params"]
    told += [line[1]["config"] for line in lines if line[0] == "init" and "config" in line[1]]
    return dict(told[0])


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
    stated = configuration(lines)
    assert {"arena_hard.judge", "arena_hard.protocol", "arena_hard.run"} <= stated.keys()


def test_the_table_the_differences_and_the_cards_are_logged_too(board: Path, stand_ins: Path) -> None:
    read = read_board(board)
    files_of = tracked_files(read.tables, board)
    log_scores(("wandb", "mlflow"), read.cards, files_of)

    lines = said(stand_ins)
    assert [line[1] for line in lines if line[0] == "media"] == [["arena_hard-difference", "scores"]] * 2
    artifacts = {line[1]: line[2] for line in lines if line[0] == "artifact"}
    card = read.cards[-1].model_dump(mode="json")
    assert json.loads(artifacts["card-arena_hard.json"]) == card
    *_, last = [files for name, files in artifacts.items() if name.startswith("cards-")]
    assert json.loads(last["card-arena_hard.json"]) == card
    assert artifacts["scores.csv"].startswith("suite,metric,score [95 %],n,unscored,judge\narena_hard,arena_hard,")
    assert "difference from two" in artifacts["arena_hard-difference.svg"]  # the better of the two


def test_a_run_that_goes_on_is_the_same_tracker_run(board: Path, stand_ins: Path) -> None:
    """Not complete, then complete, then with another suite: one id. Another judge or another limit: another."""
    card = read_board(board).cards[0]
    later = [
        [card.model_copy(update={"complete": False, "provenance": {"run_id": "old"}})],
        [card],
        [card, card.model_copy(update={"suite": "mt_bench"})],
        [card.model_copy(update={"judge": "other"})],
        [card.model_copy(update={"protocol": {**card.protocol, "limit": 20}})],
    ]
    for cards in later:
        log_scores(("wandb",), cards)

    ids = [line[1]["id"] for line in said(stand_ins) if line[0] == "init"]
    assert len(ids) == 5
    assert len(set(ids[:3])) == 1
    assert len(set(ids[2:])) == 3


def test_two_protocols_of_a_suite_are_two_tracker_runs(board: Path, stand_ins: Path) -> None:
    card = read_board(board).cards[0]

    assert log_scores(("wandb",), [card, card.model_copy(update={"protocol": {**card.protocol, "repeats": 2}})]) == 2
    ids = [line[1]["id"] for line in said(stand_ins) if line[0] == "init"]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("tracker", list(TRACKERS))
def test_a_run_states_which_way_each_score_is_better(board: Path, stand_ins: Path, tracker: str) -> None:
    card = read_board(board).cards[0]
    turned = card.model_copy(update={"higher_is_better": {"arena_hard": False}})
    log_scores((tracker,), [turned])

    lines = said(stand_ins)
    stated = configuration(lines)
    assert stated["arena_hard/arena_hard.better"] == "lower"
    assert "arena_hard/avg_tokens.better" not in stated  # neither more nor less of it is better
    assert not any(line[0] == "metric" for line in lines)  # of a run that is updated the last score counts
    log_step((tracker,), "training", [turned], 10)
    if tracker == "wandb":  # of a training the best
        assert ["metric", "arena_hard/arena_hard", {"summary": "min"}] in said(stand_ins)


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
