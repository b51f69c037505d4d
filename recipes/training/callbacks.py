"""Trainer callbacks: mark complete checkpoints, log the loss, and stop if the loss is not finite."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from harness.errors import ConfigError, IncompleteError
from harness.store import dump_json, write_atomic

log = logging.getLogger(__name__)
WHOLE = "whole.json"


class WholeCheckpoints(TrainerCallback):
    """Mark a checkpoint as complete once every process has written its part. Training resumes only from marked ones."""

    def __init__(self, digest: str, processes: int, barrier: Any) -> None:
        self._facts = {"digest": digest, "processes": processes}
        self._barrier = barrier

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self._barrier()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            write_atomic(folder / WHOLE, dump_json(self._facts))


def last_whole(checkpoints: Path, digest: str, processes: int) -> Path | None:
    """Return the newest complete checkpoint, or None. Newer ones that a kill left incomplete are removed.

    Raise ConfigError if it was made with different settings, rows or a different number of processes.
    """
    folders = sorted(checkpoints.glob("checkpoint-*"), key=_step, reverse=True)
    for folder in folders:
        facts = _facts(folder)
        if facts is None:
            log.warning("removed %s: it is incomplete", folder)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        expected = {"digest": digest, "processes": processes}
        if facts != expected:
            changed = "settings or rows" if facts.get("digest") != digest else "a number of processes"
            detail = "" if changed == "settings or rows" else f" ({facts.get('processes')}, now {processes})"
            raise ConfigError(
                f"{folder} was made with {changed}{detail} that differ; restore them, or remove {checkpoints} to start "
                "over"
            )
        return folder
    return None


def _facts(folder: Path) -> dict[str, object] | None:
    try:
        facts: dict[str, object] = json.loads((folder / WHOLE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return facts


def _step(folder: Path) -> int:
    match = re.search(r"(\d+)$", folder.name)
    return int(match[1]) if match else -1


class LossLogger(TrainerCallback):
    """Log the step and the loss whenever the trainer logs."""

    def __init__(self, name: str) -> None:
        self._name = name

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if state.is_world_process_zero:
            log.info("%s: step %d of %d, loss %.4f", self._name, state.global_step, state.max_steps, logs["loss"])


def check_finite(name: str, step: int, loss: float) -> None:
    """Raise IncompleteError if the loss is NaN or infinite: no later step would learn anything."""
    if math.isfinite(loss):
        return
    raise IncompleteError(
        f"{name}: the loss at step {step + 1} is {loss}; nothing was saved after the last complete checkpoint. Lower "
        "learning_rate or max_grad_norm, or train with bf16 instead of fp16"
    )
