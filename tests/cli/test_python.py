"""The package from Python: run, load, compare, rank and gate as functions, their tables, and a trainer's callback."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness
from tests.cli.test_safety_net import write_script

POCKET: dict[str, Any] = {"backend": "scripted", "edition": "pocket"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scripted models, run on the pocket edition of Arena-Hard."""
    folder = tmp_path_factory.mktemp("python")
    for name, skill in (("good", 0.9), ("bad", 0.4)):
        write_script(folder / f"{name}.jsonl", skill)
        harness.run(str(folder / f"{name}.jsonl"), "arena_hard", results=folder / "results", **POCKET)
    return folder


def test_the_public_names_are_stable() -> None:
    assert {"run", "run_async", "load", "compare", "gate", "leaderboard"} <= set(harness.__all__)
    assert callable(harness.run)  # not the module of a subpackage
    assert dir(harness) == sorted(harness.__all__)  # what a notebook completes


def test_a_run_returns_its_cards_and_resumes(folder: Path) -> None:
    steps: list[object] = []
    cards = harness.run(
        str(folder / "good.jsonl"), "arena_hard", results=folder / "results", on_progress=steps.append, **POCKET
    )

    assert [card.suite for card in cards] == ["arena_hard"]
    assert cards[0].complete
    assert steps == []  # all was there
    frame = cards.to_pandas()
    whole = frame[frame.category.isna() & (frame.metric == "arena_hard")].iloc[0]
    assert whole.value == cards[0].scores["arena_hard"].value
    assert "<table>" in cards._repr_html_()


def test_it_runs_inside_a_running_event_loop_as_in_a_notebook(folder: Path) -> None:
    async def cell() -> tuple[harness.Cards, harness.Cards]:
        settings: dict[str, Any] = {"results": folder / "results", **POCKET}
        blocking = harness.run(str(folder / "bad.jsonl"), "arena_hard", **settings)
        return blocking, await harness.run_async(str(folder / "bad.jsonl"), "arena_hard", **settings)

    blocking, awaited = asyncio.run(cell())

    assert blocking == awaited


def test_loaded_runs_have_rows(folder: Path) -> None:
    (run,) = harness.load("good.jsonl", results=folder / "results")

    assert len(run.answers) == 60
    frame = run.to_pandas()
    assert len(frame) == len(run.judgments) == 120
    assert set(frame.answer) == {answer.turns[0] for answer in run.answers}


def test_two_models_are_compared_gated_and_ranked(folder: Path) -> None:
    results = folder / "results"
    (pair,) = pairs = harness.compare("good.jsonl", "bad.jsonl", results=results)
    assert pair.differences[0].value < 0
    assert set(pairs.to_pandas().model) == {"bad.jsonl"}

    with pytest.raises(harness.ConfigError, match="compare needs two runs or more"):
        harness.compare("good.jsonl", results=results)

    verdict = harness.gate(
        "bad.jsonl", "good.jsonl", results=results, policy={"checks": [{"suite": "arena_hard", "margin": 8}]}
    )
    assert (verdict.passed, verdict.report.exit_code) == (False, 1)
    assert "FAIL" in verdict._repr_html_()
    assert list(verdict.to_pandas().found) == ["worse"]

    board = harness.leaderboard(results)
    assert list(board.to_pandas().model) == ["good.jsonl", "bad.jsonl"]
    assert "<table>" in board._repr_html_()


def test_wrong_settings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(harness.ConfigError, match="no setting 'judgee'"):
        harness.run("x", judgee="gpt")
    with pytest.raises(harness.ConfigError, match="margin"):
        harness.gate("a", "b", policy={"checks": [{"suite": "arena_hard"}]}, results=tmp_path)


def test_html_of_a_hostile_name_is_text(folder: Path) -> None:
    (card,) = harness.run(str(folder / "bad.jsonl"), "arena_hard", results=folder / "results", **POCKET)
    hostile = harness.Cards((card.model_copy(update={"model": "<img src=x onerror=alert(1)>"}),))

    assert "<img" not in hostile._repr_html_()


def test_a_trainer_gets_the_scores_of_each_checkpoint_that_is_saved(folder: Path) -> None:
    pytest.importorskip("transformers")
    from harness.python.callback import HarnessCallback

    logged: list[dict[str, float]] = []
    out = folder / "training"
    out.mkdir()
    write_script(out / "checkpoint-10", 0.9)  # scripted answers in place of weights
    callback = HarnessCallback(SimpleNamespace(log=logged.append), "arena_hard", results=folder / "callback", **POCKET)
    state = SimpleNamespace(is_world_process_zero=True, global_step=10)
    callback.on_save(SimpleNamespace(output_dir=out), state, SimpleNamespace())
    state.global_step = 20  # was not written: a warning, and training goes on
    callback.on_save(SimpleNamespace(output_dir=out), state, SimpleNamespace())

    (metrics,) = logged
    assert metrics.keys() == {"arena_hard/arena_hard", "arena_hard/arena_hard_low", "arena_hard/arena_hard_high"}


def test_the_notebook_in_examples_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((Path(__file__).parents[2] / "examples/which_to_ship.ipynb").read_text("utf-8"))
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), names)  # the notebook is our own

    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert re.search("FAIL", names["verdict"]._repr_html_())  # type: ignore[attr-defined]
