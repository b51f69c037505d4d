"""Run one training job in this process: load, train, save. `accelerate launch` runs it in several at once.

`make_trainer` chooses the trainer by the job's method and adds the callbacks. Training resumes from the last checkpoint
that every process has finished. With `evaluate_every`, suites score the current weights every N steps: the main process
writes the weights to a folder and runs the suites; the other processes wait. Evaluation does not change the random
numbers that training draws. If it fails, it is logged as a warning and training continues.

Log-probabilities of the reference are computed once, before training, and stored beside the rows (`store_reference`),
so that a training needs memory for one model only.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from pydantic import JsonValue
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar
from trl import SFTTrainer

from harness.records import ModelRef, Record, digest
from harness.records.errors import ConfigError, HarnessError, IncompleteError, StoreError
from harness.store import dump_json, write_atomic
from harness.store.files import FULL

from ..layout import PreferencePair, rows_in
from ..likelihood import PairLogps
from ..spec import PAIRED, WEIGHTED
from ..suites import run_suites
from .attention import FLEX, prefer_flex
from .checkpoint import SavedAs, adapted, changed_share, free_memory, load_model, write_fusion, write_weights
from .losses import fused_reference
from .rows import Rows, completions
from .settings import LOG, MUON, Evaluation, TrainingJob, has_reference, trainer_config
from .templates import load_tokenizer
from .trainer import UncastTrainer, WRPOConfig, WRPOTrainer, weights_digest, with_reference
from .weighted import WeightedTrainer, weighted_reference

log = logging.getLogger(__name__)
WHOLE = "whole.json"
DONE = "trained.json"
ANSWERS = ("source", "target", "rejected")
SUITES_SECONDS = 24 * 3600
"""How long processes wait for the main one while it runs suites: our choice; torch's half an hour is too short."""
MIN_CHANGED = 0.5
"""Share of weights below which a warning says that saving has lost most of the updates: our choice, "most" is half."""
BLOCK_BYTES = 4096
"""One block of a usual file system: with less free, no file can be written."""
SESSION = ("num_tokens", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "eval_num_tokens")
"""Keys of the trainer's log that depend on the session, so they would differ after a resume."""

# ------------------------------------------------------------------------------------------------------ optimizer: muon
# transformers has no such value of `optim`. Muon orthogonalises the update of a whole matrix, so every process needs
# the whole model: one process, or `launch: ddp`.


def hidden_and_rest(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trained matrices of the hidden layers, and all other trained parameters."""
    ends: set[int] = set()
    for name in ("get_input_embeddings", "get_output_embeddings"):
        module = getattr(model, name, lambda: None)()
        ends |= {id(weight) for weight in module.parameters()} if module is not None else set()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hidden = [weight for weight in trained if weight.ndim == 2 and id(weight) not in ends]
    chosen = {id(weight) for weight in hidden}
    return hidden, [weight for weight in trained if id(weight) not in chosen]


class MuonWithAdamW(Optimizer):
    """Torch's Muon for the hidden matrices and AdamW for embeddings, head, norms and biases, behind one interface.

    Their groups share learning rate and weight decay. Muon's updates are scaled to the size of AdamW's
    (`match_rms_adamw`, arXiv 2502.16982), so that a learning rate for AdamW suits both. Raise ConfigError if this torch
    has no Muon.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, decayed: Collection[str]) -> None:
        """Take the keys of a training, and the names of the parameters that decay (transformers': no norm, no bias)."""
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"optim = {MUON!r} needs torch 2.9 or newer, but this is {torch.__version__}")
        hidden, rest = hidden_and_rest(model)
        if not hidden:
            raise ConfigError(f"optim = {MUON!r} has no matrix of a hidden layer to train; use another optimizer")
        keys: dict[str, Any] = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
        super().__init__([*hidden, *rest], keys)
        still = {id(weight) for name, weight in model.named_parameters() if name not in decayed}
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in rest if id(weight) not in still]},
            {"params": [weight for weight in rest if id(weight) in still], "weight_decay": 0.0},
        ]
        betas = (args.adam_beta1, args.adam_beta2)
        self._optimizers: dict[str, Optimizer] = {
            "muon": torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", **keys),
            "adamw": AdamW([group for group in groups if group["params"]], betas=betas, eps=args.adam_epsilon, **keys),
        }
        # the groups of both themselves and no copies, so that a learning rate schedule reaches them
        self.param_groups = [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        for optimizer in self._optimizers.values():
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state_dict[name])
        self.param_groups = [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]


# ------------------------------------------------------------------------------------------------------------ callbacks


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
            changed = "settings or rows"
            if facts.get("digest") == digest:
                changed = f"a number of processes ({facts.get('processes')}, now {processes})"
            raise ConfigError(
                f"{folder} was made with {changed} that differ; restore them, or remove {checkpoints} to start over"
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


class EvaluateEvery(TrainerCallback):
    """Put the scores of step N on the board as LABEL-stepN and in the training log as `suite/NAME/METRIC`."""

    def __init__(
        self, job: TrainingJob, evaluation: Evaluation, trainer: Trainer, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._job = job
        self._evaluation = evaluation
        self._trainer = trainer
        self._tokenizer = tokenizer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step % self._evaluation.spec.steps or state.global_step >= state.max_steps:
            return
        folder = self._job.checkpoints / "evaluated" / f"{self._evaluation.label}-step{state.global_step}"
        with randomness_kept():
            write_weights(self._trainer, folder, _saved_as(self._job, self._tokenizer))
            if state.is_world_process_zero:
                scores = self._scores(folder)
                if scores:
                    entry = {"step": state.global_step, "epoch": state.epoch, **scores}
                    state.log_history.append(entry)
                    due = control.should_log  # on_log clears this flag, and the trainer's own log may still be due
                    self._trainer.callback_handler.on_log(args, state, control, dict(scores))
                    control.should_log = due
                shutil.rmtree(folder)
        self._trainer.accelerator.wait_for_everyone()

    def _scores(self, folder: Path) -> dict[str, float]:
        evaluation = self._evaluation
        try:
            model = ModelRef(scheme="path", name=str(folder))
            cards = run_suites(evaluation.spec, model, evaluation.results, seed=evaluation.seed)
        except HarnessError as error:
            log.warning("%s: no scores: %s", folder.name, error)
            return {}
        values = {f"suite/{card.suite}/{card.headline}": card.scores[card.headline].value for card in cards}
        return {name: value for name, value in values.items() if value is not None}


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Restore the state of Python's, numpy's and torch's random generators afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


# --------------------------------------------------------------------------------------------------------- the training


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
    changed: float | None = None
    """Share of the saved weights that differ from the parent's."""


def check_finite(name: str, step: int, loss: float) -> None:
    """Raise IncompleteError if the loss is NaN or infinite: no later step would learn anything."""
    if math.isfinite(loss):
        return
    raise IncompleteError(
        f"{name}: the loss at step {step + 1} is {loss}; nothing was saved after the last complete checkpoint. Lower "
        "learning_rate or max_grad_norm, or train with bf16 instead of fp16"
    )


class CheckedTrainer(UncastTrainer):
    """Any trainer, which stops when the loss is not finite, and has the optimizer `muon` with `with_muon`."""

    with_muon = False

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if not self.with_muon or self.optimizer is not None:
            return super().create_optimizer(model)
        trained = self.model if model is None else model
        optimizer = MuonWithAdamW(trained, self.args, self.get_decay_parameter_names(trained))
        self.optimizer: torch.optim.Optimizer | None = optimizer
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        check_finite(self.args.run_name or "training", self.state.global_step, float(loss))
        return loss


class CheckedSFTTrainer(CheckedTrainer, SFTTrainer):
    pass


class CheckedWRPOTrainer(CheckedTrainer, WRPOTrainer):
    pass


class CheckedWeightedTrainer(CheckedTrainer, WeightedTrainer):
    pass


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
    tokenizer = job_tokenizer(job)
    trainer = make_trainer(job, tokenizer)
    last = last_whole(job.checkpoints, job.digest, trainer.args.world_size)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    seconds = time.monotonic() - started
    write_weights(trainer, job.folder, _saved_as(job, tokenizer))
    record = _record(job, trainer, seconds)
    if trainer.is_world_process_zero():
        record = record.model_copy(update={"changed": changed_share(job.model, job.folder)})
        _warn_of_lost_updates(job, record.changed, _saved_as(job, tokenizer).dtype)
        write_fusion(job.folder, job.fusion)
        _write_log(job.folder / LOG, trainer.state.log_history)
        write_atomic(job.checkpoints / DONE, dump_json(record.model_dump(mode="json")))
        if "save_total_limit" not in job.settings.trainer:
            for folder in job.checkpoints.glob("checkpoint-*"):
                shutil.rmtree(folder)
    return record


def _saved_as(job: TrainingJob, tokenizer: PreTrainedTokenizerBase) -> SavedAs:
    return SavedAs(job.model, tokenizer, job.save_dtype)


def _warn_of_lost_updates(job: TrainingJob, changed: float | None, dtype: torch.dtype) -> None:
    if changed is not None and changed < MIN_CHANGED and dtype.itemsize < torch.float32.itemsize:
        log.warning(
            "%s: %.1f %% of the saved weights differ from those that training started from; the others were not "
            "trained, or changed by less than %s can hold, and that is lost. `save_dtype: float32` keeps it",
            job.name,
            100 * changed,
            str(dtype).removeprefix("torch."),
        )


def job_tokenizer(job: TrainingJob) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a job's rows were rendered with."""
    return load_tokenizer(
        str(job.model),
        chat_template=job.chat_template,
        pad_token=job.pad_token,
        template_kwargs=job.template_kwargs,
    )


def make_trainer(job: TrainingJob, tokenizer: PreTrainedTokenizerBase) -> Trainer:
    """Build the trainer of a job, with model, rows and callbacks."""
    config = training_config(job)
    config.run_name = config.run_name or job.name
    model = load_model(job.model, job.settings, tokenizer.pad_token_id)
    if wants_flex(job):
        prefer_flex(model)
    model = adapted(model, job.settings)
    rows = Rows(job.rows).load()
    if job.reference is not None:
        rows = rows.add_column("ref_logps", json.loads(job.reference.read_text("utf-8")))
    common = {"model": model, "args": config, "processing_class": tokenizer}
    if job.method == "sft":
        trainer: Trainer = CheckedSFTTrainer(**split(completions(rows, job.answer), job.held_out), **common)
    elif job.method in WEIGHTED:
        trainer = CheckedWeightedTrainer(train_dataset=rows, **common)
    elif job.teacher is not None:
        trainer = _distill_trainer(job, rows, common)
    else:
        if job.method == "infifpo":
            rows = _fused(job, rows, config)
        trainer = CheckedWRPOTrainer(**split(rows, job.held_out), **common)
    trainer.with_muon = job.settings.trainer.get("optim") == MUON
    for printing in (PrinterCallback, ProgressCallback):  # LossLogger logs instead, in the words of the harness
        trainer.remove_callback(printing)
    trainer.add_callback(LossLogger(job.name))
    if job.evaluation is not None:
        trainer.add_callback(EvaluateEvery(job, job.evaluation, trainer, tokenizer))
    trainer.add_callback(WholeCheckpoints(job.digest, config.world_size, trainer.accelerator.wait_for_everyone))
    return trainer


def training_config(job: TrainingJob) -> Any:
    """Return the configuration of a job's trainer. With `evaluate_every` processes wait for as long as suites may take.

    The limit is set when the process group starts, so it has to be in the configuration and cannot be changed later.
    """
    waits: dict[str, JsonValue] = {} if job.evaluation is None else {"ddp_timeout": SUITES_SECONDS}
    settings = job.settings.model_copy(update={"trainer": waits | job.settings.trainer})
    return trainer_config(settings, job.method, str(job.checkpoints), seed=job.seed)


def split(rows: Dataset, held_out: int) -> dict[str, Dataset]:
    """Return the rows to train on and, if any are held out, those to evaluate: the same for all variants and seeds.

    Raise ConfigError if no row would be left to train on.
    """
    if not held_out:
        return {"train_dataset": rows}
    if held_out >= len(rows):
        raise ConfigError(f"pairs: held_out = {held_out} leaves none of {len(rows)} rows to train on; lower it")
    chosen = set(random.Random(0).sample(range(len(rows)), held_out))  # not the job's seed: losses are compared
    rest = [index for index in range(len(rows)) if index not in chosen]
    return {"train_dataset": rows.select(rest), "eval_dataset": rows.select(sorted(chosen))}


def _kept_pairs(job: TrainingJob) -> list[PreferencePair]:
    """Return the pairs of the job's rows, in their order."""
    assert job.pairs is not None
    return Rows(job.rows).kept(list(rows_in(job.pairs, PreferencePair)))


def _distill_trainer(job: TrainingJob, rows: Dataset, common: dict[str, Any]) -> Trainer:
    from .distill import DistillTrainer, choose_loss, distill_rows, load_teacher  # half a second that few need

    class CheckedDistillTrainer(CheckedTrainer, DistillTrainer):
        pass

    assert job.teacher is not None
    teacher, teacher_tokenizer = load_teacher(job.teacher, job.settings)
    config, tokenizer = common["args"], common["processing_class"]
    choose_loss(config, job.settings, tokenizer, teacher_tokenizer)
    config.dataset_kwargs = {"skip_prepare_dataset": True}
    prompts = [pair.messages for pair in _kept_pairs(job)]
    examples = distill_rows(rows, job.answer, prompts, tokenizer, teacher_tokenizer)
    return CheckedDistillTrainer(teacher_model=teacher, **split(examples, job.held_out), **common)


def _fused(job: TrainingJob, rows: Dataset, config: WRPOConfig) -> Dataset:
    """Return the rows with InfiFPO's reference. Rows that no source has scored are left out."""
    scored: list[dict[str, PairLogps]] = [
        {row.prompt_id: row for row in rows_in(path, PairLogps)} for path in job.logps
    ]
    missing = (math.nan, math.nan, math.nan)
    pairs = _kept_pairs(job)
    sources = [
        [row.per_token or missing if (row := by_prompt.get(pair.prompt.id)) is not None else missing for pair in pairs]
        for by_prompt in scored
    ]
    lengths = [[len(rows[f"{answer}_ids"][index]) for answer in ANSWERS] for index in range(len(rows))]
    fused = fused_reference(
        (torch.tensor(rows["ref_logps"]) / torch.tensor(lengths)).T,
        torch.tensor(sources).transpose(1, 2),
        fusion=config.fusion,
        clip=config.clip_sources,
    )
    usable = [index for index, values in enumerate(fused.T) if not bool(values.isnan().any())]
    if len(usable) < len(rows):
        log.warning("%s: %d rows that no source has scored are left out", job.name, len(rows) - len(usable))
    return rows.remove_columns("ref_logps").add_column("ref_logps", fused.T.tolist()).select(usable)


def _record(job: TrainingJob, trainer: Trainer, seconds: float) -> Trained:
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
    lines = [{key: entry[key] for key in sorted(entry) if key not in SESSION} for entry in entries]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines))


def _is_full(error: Exception, folder: Path) -> bool:
    # safetensors and torch.save raise errors without an errno, so the message and the disk itself are checked too.
    if getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL):
        return True
    return shutil.disk_usage(folder).free < BLOCK_BYTES


# -------------------------------------------------------------------------------------------------------- the reference


def reference_path(job: TrainingJob) -> Path | None:
    """Return the file of the reference's log-probabilities, or None if the loss has no reference.

    Variants with the same reference model, precision and rows share one file.
    """
    if not has_reference(job.method, job.settings.trainer):
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
    if wants_flex(job) and torch.cuda.is_available():
        facts["attention"] = FLEX
    return job.rows / f"reference-{digest(facts)[:16]}.json"


def wants_flex(job: TrainingJob) -> bool:
    """Return whether the policy and its reference, which must agree at the first step, prefer FlexAttention.

    It is for the packed rows of pairs; the other methods have padded rows.
    """
    chosen = "attn_implementation" in job.settings.model or job.settings.trainer.get("use_cpu")
    return job.method in PAIRED and not chosen


def store_reference(job: TrainingJob) -> None:
    """Compute the reference's log-probabilities unless the file exists.

    Each process computes a share of the rows; the main process writes the file.
    """
    assert job.reference is not None
    if job.reference.is_file():
        return
    state = PartialState()
    tokenizer = job_tokenizer(job)
    config = trainer_config(job.settings, job.method, str(job.checkpoints), seed=job.seed)
    model = load_model(job.model, job.settings, tokenizer.pad_token_id)
    if wants_flex(job):
        prefer_flex(model)
    rows = Rows(job.rows).load()
    autocast = torch.bfloat16 if config.bf16 else torch.float16 if config.fp16 else None
    size = config.per_device_train_batch_size
    if job.method in WEIGHTED:
        logps = weighted_reference(rows, model, size, state, autocast)
    else:
        rows = with_reference(rows, model, layout=config.layout, batch_size=size, state=state, autocast=autocast)
        logps = list(rows["ref_logps"])
    if state.is_main_process:
        write_atomic(job.reference, json.dumps(logps) + "\n")
    state.wait_for_everyone()
    del model
    free_memory()
