"""Training that stops: killed, without room, with a loss that is no number; and what it goes on from."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from recipes.steps import Step, run_step  # noqa: E402
from tests import ROOT  # noqa: E402
from tests.fakes.training_steps import QUICK, aligned, distance, log_of, losses, made, one_thread, pairs_of, sft, target  # noqa: E402

__all__ = ["one_thread", "sft", "target"]  # fixtures


# ------------------------------------------------------------------------------------------- resuming and failing


@pytest.mark.slow
def test_logging_changes_nothing_that_is_made_and_learning_rate_does(sft: Step, tmp_path: Path, target: Path) -> None:
    def settings_of(**keys: Any) -> dict[str, Any]:
        recipe = made(tmp_path, target, training={**QUICK, **keys})
        return aligned(recipe, sft, pairs_of(recipe))[0].settings

    assert settings_of(report_to=["tensorboard"], save_steps=7) == settings_of(logging_steps=3)
    assert settings_of(learning_rate=1e-4) != settings_of()


METHODS = ["preference", pytest.param("sft", marks=pytest.mark.slow)]


def killed_at(step: Step, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Runs the step until optimiser step `at`, then ends as kill -9 would: nothing is tidied up."""
    from recipes.training import run

    class Killed(BaseException):
        pass

    def check(name: str, done: int, loss: float) -> None:
        if done == at:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run, "check_finite", check)
        with pytest.raises(Killed):
            run_step(step)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_was_killed_goes_on_with_identical_losses(
    sft: Step, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    keys = {**QUICK, "save_steps": 2, **({"beta": 0.1} if method == "preference" else {})}
    steps = []
    for name in ("whole", "killed"):
        recipe = made(tmp_path / name, target, variants={"one": {"method": method, "training": keys}})
        steps += aligned(recipe, sft, pairs_of(recipe))
    whole, killed = steps
    run_step(whole)
    killed_at(killed, monkeypatch, at=5)
    torn = killed.folder / "checkpoints" / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{}")
    run_step(killed)

    assert log_of(killed) == log_of(whole)
    assert distance(killed.folder, whole.folder) == 0.0
    assert not list((killed.folder / "checkpoints").glob("checkpoint-*"))


def test_a_trainers_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    from harness.records.errors import ConfigError
    from recipes.training.run import last_whole

    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "whole.json").write_text('{"digest": "one", "processes": 2}')

    assert last_whole(tmp_path, "one", 2) == folder
    with pytest.raises(ConfigError, match=r"checkpoint-3 was made with settings or rows that differ; restore them, or"):
        last_whole(tmp_path, "other", 2)
    with pytest.raises(ConfigError, match=r"made with a number of processes \(2, now 1\) that differ"):
        last_whole(tmp_path, "one", 1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_is_no_number_stops_the_training(sft: Step, tmp_path: Path, target: Path, method: str) -> None:
    from harness.records.errors import IncompleteError

    keys = {**QUICK, "learning_rate": 1, "weight_decay": 1e30, "lr_scheduler_type": "constant", "warmup_steps": 0}
    recipe = made(tmp_path, target, variants={"one": {"method": method, "training": keys}})
    step = aligned(recipe, sft, pairs_of(recipe))[0]

    with pytest.raises(IncompleteError, match=r"seed-42/align/one: the loss at step [23] is nan; nothing was saved"):
        run_step(step)
    assert not (step.folder / "model.safetensors").exists()


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_costs_no_training(
    sft: Step, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from harness.records.errors import StoreError
    from recipes.training import run

    recipe = made(tmp_path, target)
    step = aligned(recipe, sft, pairs_of(recipe))[0]

    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(run, "write_weights", full)
        with pytest.raises(StoreError, match="no space left on the device; free some, then run the same command"):
            run_step(step)
    assert run_step(step).counts["steps"] == 6
    assert len(losses(step)) == 6


def test_what_ends_a_launched_process_comes_back_as_its_sentence(tmp_path: Path) -> None:
    from harness.store.checkpoint import Fusion
    from recipes.training.launch import main
    from recipes.training.settings import TrainingJob, TrainingSettings

    job = TrainingJob(
        method="sft",
        name="seed-42/sft",
        model=tmp_path / "nowhere",
        rows=tmp_path / "rows",
        folder=tmp_path / "sft",
        settings=TrainingSettings(),
        seed=42,
        fusion=Fusion(method="sft"),
    )
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())

    assert main("train", path) == 2
    failed = json.loads((tmp_path / "sft" / "checkpoints" / "failed.json").read_text())
    assert failed["error"] == "CheckpointError"
    assert "no such model folder" in failed["message"]


# ------------------------------------------------------------------------------------------------- real kills


LONG: dict[str, Any] = {**QUICK, "beta": 0.1, "save_steps": 5, "num_train_epochs": 10}


def train_long(out: Path, target: Path, sft: Path) -> None:
    """What the killed process runs."""
    torch.set_num_threads(1)
    recipe = made(out, target, training=LONG)
    run_step(aligned(recipe, Step("sft", "seed-42/sft", sft, {}, lambda _: {}), pairs_of(recipe))[0])


@pytest.mark.slow
def test_kill_9_in_mid_training_changes_nothing_that_is_made(sft: Step, tmp_path: Path, target: Path) -> None:
    train_long(tmp_path / "whole", target, sft.folder)
    code = (
        "from tests.torch.test_recipe_training_resume import train_long; train_long(*map(pathlib.Path, sys.argv[1:]))"
    )
    call = f"import sys, pathlib; {code}"
    command = [sys.executable, "-c", call, str(tmp_path / "killed"), str(target), str(sft.folder)]
    folder = tmp_path / "killed" / "seed-42" / "align" / "wrpo"
    kills = 0
    for wanted in (10, 30):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            marks = folder / "checkpoints" / f"checkpoint-{wanted}" / "whole.json"
            while process.poll() is None and not marks.is_file():
                time.sleep(0.01)
            kills += process.poll() is None
            process.kill()
    assert not (folder / "step.json").is_file()
    train_long(tmp_path / "killed", target, sft.folder)

    whole = tmp_path / "whole" / "seed-42" / "align" / "wrpo"
    assert kills == 2
    assert (folder / "training_log.jsonl").read_text() == (whole / "training_log.jsonl").read_text()
    assert distance(folder, whole) == 0.0
