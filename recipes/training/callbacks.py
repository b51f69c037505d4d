"""What happens beside the steps of a training: checkpoints marked whole, a line of log, no training on NaN."""

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
    """Marks a trainer's checkpoint when every process has written its part; what has no mark is not resumed from."""

    def __init__(self, digest: str, processes: int, barrier: Any) -> None:
        self._facts = {"digest": digest, "processes": processes}
        self._barrier = barrier

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        self._barrier()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            write_atomic(folder / WHOLE, dump_json(self._facts))


def last_whole(checkpoints: Path, digest: str, processes: int) -> Path | None:
    """The newest checkpoint that can be gone on from; newer ones, torn by a kill, are removed.

    Raises ConfigError for one of other settings, rows or number of processes.
    """
    folders = sorted(checkpoints.glob("checkpoint-*"), key=_step, reverse=True)
    for folder in folders:
        facts = _facts(folder)
        if facts is None:
            log.warning("%s is not whole; removed", folder)
            shutil.rmtree(folder, ignore_errors=True)
            continue
        expected = {"digest": digest, "processes": processes}
        if facts != expected:
            changed = "settings or rows" if facts.get("digest") != digest else "a number of processes"
            detail = "" if changed == "settings or rows" else f" ({facts.get('processes')}, now {processes})"
            raise ConfigError(
                f"{folder} was made with {changed}{detail} that differ; restore them, or remove {checkpoints} to train "
                "from the beginning"
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
    """A line for each log, and a stop where the loss is no number: nothing is learned from there on."""

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
    """Raises IncompleteError where a loss is no number."""
    if math.isfinite(loss):
        return
    raise IncompleteError(
        f"{name}: the loss at step {step + 1} is {loss}; nothing was saved after the last whole checkpoint. Lower "
        "learning_rate or max_grad_norm, or train with bf16 instead of fp16"
    )
