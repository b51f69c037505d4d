"""Run one training job in this process: load, train, save. `accelerate launch` runs it in several at once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import JsonValue
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, Trainer, set_seed
from transformers.utils.logging import disable_progress_bar
from trl import SFTTrainer

from harness.errors import StoreError
from harness.records import Record, digest
from harness.store import dump_json, write_atomic

from ..logps import default_layout
from ..reference import weights_digest, with_reference
from ..tokenizer import load_tokenizer
from ..wrpo import WRPOTrainer
from .callbacks import LossLogger, WholeCheckpoints, check_finite, last_whole
from .checkpoint import adapted, free_memory, load_model, write_fusion, write_weights
from .evaluation import EvaluateEvery
from .job import LOG, TrainingJob
from .rows import Rows, completions
from .settings import trainer_config

log = logging.getLogger(__name__)
DONE = "trained.json"
SESSION = ("num_tokens",)
"""Keys of the trainer's log that restart with each session, so they would differ after a resume."""


class Trained(Record):
    """Record of a finished training: `checkpoints/trained.json`, written last."""

    digest: str
    steps: int
    rows: int
    seconds: float
    """Training time of the session that finished it, without loading and saving."""
    final_loss: float | None
    processes: int
    batch: int
    """Rows per optimiser step, over all processes."""


class CheckedSFTTrainer(SFTTrainer):
    """TRL's SFTTrainer, stopped when the loss is not finite."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        check_finite(self.args.run_name or "training", self.state.global_step, float(loss))
        return loss


class CheckedWRPOTrainer(WRPOTrainer):
    """WRPOTrainer, stopped when the loss is not finite."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        check_finite(self.args.run_name or "training", self.state.global_step, float(loss))
        return loss


def train(job: TrainingJob) -> Trained:
    """Train the job into `job.folder`, resuming from the last complete intermediate checkpoint.

    Raise ConfigError if the model or rows cannot be used, IncompleteError if the loss is not finite, and StoreError if
    the disk is full.
    """
    if (before := trained(job)) is not None:
        return before
    try:
        return _train(job)
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_full(error, job.folder):
            raise
        raise StoreError(
            f"cannot write the checkpoint in {job.folder}: no space left on the device; free some, then run the same "
            "command: it resumes from the last complete checkpoint"
        ) from error
    finally:
        free_memory()


def trained(job: TrainingJob) -> Trained | None:
    """Return the record of an earlier session that finished this job, or None."""
    try:
        record = Trained.model_validate_json((job.checkpoints / DONE).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if record.digest == job.digest else None


def _train(job: TrainingJob) -> Trained:
    disable_progress_bar()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers report each start otherwise
    set_seed(job.seed)
    tokenizer = load_tokenizer(str(job.model), chat_template=job.chat_template, pad_token=job.pad_token)
    trainer = make_trainer(job, tokenizer)
    last = last_whole(job.checkpoints, job.digest, trainer.args.world_size)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    seconds = time.monotonic() - started
    write_weights(trainer, job.folder, job.model, tokenizer)
    done = _trained(job, trainer, seconds)
    if trainer.is_world_process_zero():
        write_fusion(job.folder, job.fusion)
        _write_log(job.folder / LOG, trainer.state.log_history)
        write_atomic(job.checkpoints / DONE, dump_json(done.model_dump(mode="json")))
        if "save_total_limit" not in job.settings.trainer:
            for folder in job.checkpoints.glob("checkpoint-*"):
                shutil.rmtree(folder)
    return done


def make_trainer(job: TrainingJob, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Build the trainer of a job, with model, rows and callbacks."""
    config = trainer_config(job.settings, job.method, str(job.checkpoints), seed=job.seed)
    config.run_name = config.run_name or job.name
    model = load_model(job.model, job.settings, tokenizer.pad_token_id)
    layout = getattr(config, "layout", None) or default_layout(model)
    model = adapted(model, job.settings)
    rows = Rows(job.rows).load()
    if job.method == "sft":
        rows = completions(rows, job.answer)
        trainer: Trainer = CheckedSFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    else:
        if job.reference is not None:
            rows = rows.add_column("ref_logps", json.loads(job.reference.read_text("utf-8")))
        config.layout = layout
        trainer = CheckedWRPOTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    for shown in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(shown)
    trainer.add_callback(LossLogger(job.name))
    if job.evaluation is not None:
        trainer.add_callback(EvaluateEvery(job, job.evaluation, trainer, tokenizer))
    trainer.add_callback(WholeCheckpoints(job.digest, config.world_size, trainer.accelerator.wait_for_everyone))
    return trainer


def _trained(job: TrainingJob, trainer: Trainer, seconds: float) -> Trained:
    args, rows = trainer.args, trainer.train_dataset
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Trained(
        digest=job.digest,
        steps=trainer.state.global_step,
        rows=len(rows),
        seconds=round(seconds, 3),
        final_loss=losses[-1] if losses else None,
        processes=args.world_size,
        batch=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
    )


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    # The entry that summarises the session is left out: the same training must write the same file, resumed or not.
    entries = [entry for entry in history if "train_runtime" not in entry]
    kept = [{key: entry[key] for key in sorted(entry) if key not in SESSION} for entry in entries]
    write_atomic(path, "".join(json.dumps(entry) + "\n" for entry in kept))


def _is_full(error: Exception, folder: Path) -> bool:
    # safetensors and torch.save raise errors without an errno, so the message and the disk itself are checked too.
    return getattr(error, "errno", None) == 28 or "No space left" in str(error) or shutil.disk_usage(folder).free < 4096


# --------------------------------------------------------------------------------------------------- the reference


def reference_path(job: TrainingJob) -> Path | None:
    """Return the file of the reference's log-probabilities, or None if the loss has no reference.

    Variants with the same reference model, precision and rows share one file.
    """
    if job.method == "sft" or job.settings.trainer.get("loss_type") == "simpo":
        return None
    config = trainer_config(job.settings, job.method, str(job.checkpoints), seed=job.seed)
    facts: dict[str, JsonValue] = {
        "model": weights_digest(job.model),
        "bf16": config.bf16,
        "fp16": config.fp16,
        **{
            key: job.settings.model.get(key) for key in ("dtype", "attn_implementation", "load_in_4bit", "load_in_8bit")
        },
    }
    return job.rows / f"reference-{digest(facts)[:16]}.json"


def store_reference(job: TrainingJob) -> None:
    """Compute the reference's log-probabilities unless the file exists.

    Each process computes a share of the rows; the main process writes the file.
    """
    assert job.reference is not None
    if job.reference.is_file():
        return
    state = PartialState()
    tokenizer = load_tokenizer(str(job.model), chat_template=job.chat_template, pad_token=job.pad_token)
    config = trainer_config(job.settings, job.method, str(job.checkpoints), seed=job.seed)
    model = load_model(job.model, job.settings, tokenizer.pad_token_id)
    rows = with_reference(
        Rows(job.rows).load(),
        model,
        layout=config.layout or default_layout(model),
        batch_size=config.per_device_train_batch_size,
        state=state,
        autocast=torch.bfloat16 if config.bf16 else torch.float16 if config.fp16 else None,
    )
    if state.is_main_process:
        write_atomic(job.reference, json.dumps(list(rows["ref_logps"])) + "\n")
    state.wait_for_everyone()
    del model
    free_memory()
