"""Train with the losses of the WRPO family (WRPO, DPO, SimPO, IPO, LN-DPO) on rows of one prompt and three answers.

This module computes the reference, alpha and the metrics. Losses and the schedule are in `losses`, tensors and
log-probabilities in `packing`, text in `templates`. The Trainer of transformers does the rest.

The reference's log-probabilities are computed once and stored with the rows (`with_reference`). That needs no memory
while training, avoids the problems of a sharded reference under ZeRO-3 and FSDP2, and serves every variant of a sweep.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from harness.records import digest
from harness.records.errors import ConfigError
from harness.store.files import file_sha256

from .head import add_scoring
from .losses import (
    REJECTED,
    SOURCE,
    TARGET,
    LossType,
    Schedule,
    SourceFusion,
    alpha_at,
    preference_loss,
    rewards,
    weighted,
)
from .packing import (
    TOLERANCE,
    FittingCollator,
    Layout,
    RowIds,
    base_model,
    batch_logps,
    collator_for,
    default_layout,
    fitting_collator,
    typical,
)
from .ranges import RANGES, check_range

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ["prompt_ids", "source_ids", "target_ids", "rejected_ids", "ref_logps"]


def weights_digest(model_dir: Path) -> str:
    """Return 16 hex characters over every weight file and the config. Raise ConfigError if there are no weights."""
    weights = {path.name: file_sha256(path) for path in sorted(model_dir.glob("*.safetensors"))}
    if not weights:
        raise ConfigError(f"{model_dir} has no *.safetensors weights to use as the reference; convert its weights")
    return digest({"weights": weights, "config": file_sha256(model_dir / "config.json")})[:16]


def with_reference(
    rows: Dataset,
    model: PreTrainedModel,
    *,
    layout: Layout | None = None,
    batch_size: int = 8,
    state: PartialState | None = None,
    autocast: torch.dtype | None = None,
) -> Dataset:
    """Return the rows, in the same order, with a column `ref_logps`: summed over tokens for source, target, rejected.

    `state` says which process this is. `autocast` is the precision that training will use, so that policy and reference
    agree at the first step. Batches are formed longest rows first, so that rows of a batch have similar lengths. Under
    FSDP2 and DeepSpeed the model is sharded as in training.
    """
    state = state or PartialState()
    model = placed(model, state)
    with torch.no_grad(), torch.autocast(state.device.type, dtype=autocast, enabled=autocast is not None):
        # one check decides for all rows and processes, so that they share the layout and its rounding
        limit = TOLERANCE[autocast or model.dtype]
        collate = fitting_collator(model, collator_for(base_model(model), layout), typical(rows), state.device, limit)

        def score(chosen: Sequence[RowIds]) -> list[list[float]]:
            batch = {name: tensor.to(state.device) for name, tensor in collate(chosen).items()}
            logps: list[list[float]] = batch_logps(model, batch)[0].T.tolist()
            return logps

        logps = in_shares(rows, score, [_tokens(row) for row in rows], batch_size, state)
    return rows.add_column("ref_logps", logps)


def in_shares(
    rows: Dataset,
    score: Callable[[Sequence[Any]], list[list[float]]],
    sizes: Sequence[int],
    batch_size: int,
    state: PartialState,
) -> list[list[float]]:
    """Return the scores of all rows, in their order. Each process scores a share in batches, the largest rows first."""
    # The largest batch comes first: if memory does not suffice, that shows at once and not after hours.
    order = sorted(range(len(rows)), key=lambda index: -sizes[index])
    share = order[state.process_index :: state.num_processes]
    scores: list[list[float]] = []
    # Sharded models compute together, so every process makes as many forward passes: the last rows are repeated.
    for start in range(0, math.ceil(len(rows) / state.num_processes), batch_size):
        chosen = share[start : start + batch_size] or order[:1]
        scores.extend(score([rows[index] for index in chosen]))
    indexed = list(zip(share, scores, strict=False))
    merged: dict[int, list[float]] = dict(gather_object(indexed) if state.num_processes > 1 else indexed)
    return [merged[index] for index in range(len(rows))]


def placed(model: PreTrainedModel, state: PartialState) -> nn.Module:
    """Return the model for computing log-probabilities: on this process's device, or sharded as in training."""
    add_scoring(model)
    if state.num_processes == 1 or not (os.environ.get("ACCELERATE_USE_FSDP") or is_deepspeed_zero3_enabled()):
        return model.to(state.device).eval()
    accelerator = Accelerator()
    keep_outputs(accelerator)
    if accelerator.state.deepspeed_plugin is not None:  # it would read it from a data loader, and there is none
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = 1
    # accelerate shards a model together with its optimiser; this one has no state and makes no step
    sharded, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.0))
    sharded.eval()  # DeepSpeed's returns None
    return cast("nn.Module", sharded)


def keep_outputs(accelerator: Accelerator) -> None:
    """Let FSDP2 return a model's outputs in the precision that they have. Call it before a model is prepared.

    accelerate asks FSDP2 to cast them to the precision of the arithmetic. That would round log-probabilities and losses
    to bfloat16, whose steps are 0.03 between 4 and 8: some 0.04 in the sum over an answer of 500 tokens.
    """
    policy = getattr(getattr(accelerator.state, "fsdp_plugin", None), "mixed_precision_policy", None)
    if isinstance(policy, MixedPrecisionPolicy):  # FSDP1 has another, which casts no output
        accelerator.state.fsdp_plugin.mixed_precision_policy = replace(policy, output_dtype=None)


class UncastTrainer(Trainer):
    """Any trainer, with the outputs of its models as they are (`keep_outputs`)."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        keep_outputs(self.accelerator)


def _tokens(row: RowIds) -> int:
    return len(row["prompt_ids"]) + len(row["source_ids"]) + len(row["target_ids"]) + len(row["rejected_ids"])


@torch.no_grad()
def pair_logps(
    model: PreTrainedModel, rows: Sequence[RowIds], layout: Layout | None, batch_size: int
) -> list[list[float]]:
    """Return the summed log-probabilities of source, target and rejected of each row, without gradients.

    The model must have `head.add_scoring`.
    """
    collate = collator_for(model, layout)
    logps: list[list[float]] = []
    for start in range(0, len(rows), batch_size):
        batch = {name: tensor.to(model.device) for name, tensor in collate(rows[start : start + batch_size]).items()}
        logps.extend(batch_logps(model, batch)[0].T.tolist())
    return logps


@dataclass
class WRPOConfig(TrainingArguments):
    """TrainingArguments and the keys of the loss.

    Learning rate, beta and alpha are those of the WRPO release, llama-3-8b-instruct-sft-wrpo.yaml; the loss and the
    schedule are the paper's. Gamma and label smoothing, which it does not have, are off.
    """

    learning_rate: float = field(default=3e-7)
    beta: float = 0.01
    """Scale of the implicit reward. Shorter answers need a larger value: 0.01 suits about 500 tokens."""
    alpha: float = 0.1
    """Weight of the source's answer at the end (linear) or throughout (constant). 0: DPO on the target's pair."""
    alpha_schedule: Schedule = "linear"
    eval_alpha: float | None = None
    """Alpha used for evaluation. None: the final alpha, so that evaluation losses within a run are comparable."""
    loss_type: LossType = "sigmoid"
    gamma: float = 0.0
    """SimPO's target margin, in units of the loss's logit (the paper's gamma, not gamma / beta)."""
    gamma_beta_ratio: float | None = None
    """The same margin divided by beta, as SimPO's release and TRL name it. Sets `gamma`."""
    label_smoothing: float = 0.0
    fusion: SourceFusion = "max_margin"
    """InfiFPO only: the reference is the source that differs most from the initial model, or the sources' mean."""
    clip_sources: bool = True
    """InfiFPO only: raise sources to the initial model on preferred answers, and lower them to it on the rejected."""
    layout: Layout | None = None
    """`shared` or `rows` (see `packing`). None: `shared` if the model's attention supports it."""
    official_compat: bool = False
    """Evaluate at the current alpha and count the schedule's steps as the release does. `Rendering` has it too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha", "eval_alpha", "beta", "gamma", "gamma_beta_ratio", "label_smoothing"):
            check_range(name, getattr(self, name), RANGES)
        if self.gamma_beta_ratio is not None:
            if self.gamma:
                raise ConfigError(f"gamma_beta_ratio = {self.gamma_beta_ratio!r} and gamma = {self.gamma!r}: give one")
            self.gamma = self.gamma_beta_ratio * self.beta


class WRPOTrainer(UncastTrainer):
    """Train on datasets with the columns of `packing.RowIds`.

    The reference is the first of these that exists: the rows' column `ref_logps` (`with_reference`), the
    argument `ref_model`, or the model with its PEFT adapter switched off. SimPO needs none. Raise ConfigError if the
    loss needs a reference and there is none.
    """

    # The loss is a mean over the micro-batch, so Trainer must divide it by the number of accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, ref_model: PreTrainedModel | None = None, **kwargs: Any) -> None:
        config: WRPOConfig = kwargs["args"]
        model = kwargs["model"]
        base = base_model(model)
        if config.layout == "shared" and default_layout(base) == "rows":
            raise ConfigError(
                "layout = 'shared' does not work with this model's attention "
                f"({base.config._attn_implementation}); use layout 'rows'"
            )
        kwargs.setdefault("data_collator", collator_for(base, config.layout))
        without_dropout(model)
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # has the effect of loss_is_scaled_for_ga in transformers before 5.19
        add_scoring(base)
        self.ref_model = self._prepared_reference(ref_model)
        self._sums: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        self._check_reference()
        self.add_callback(FittingCollator(self))

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = COLUMNS

    def current_alpha(self) -> float:
        """Return alpha now, in [0, 1].

        While training it follows from the completed optimiser steps, so resuming and accumulation need no extra state.
        """
        config: WRPOConfig = self.args
        if not self.model.training and not config.official_compat:
            return config.alpha if config.eval_alpha is None else config.eval_alpha
        steps = self._official_steps() if config.official_compat else self.state.max_steps
        return alpha_at(self.state.global_step, steps, config.alpha, config.alpha_schedule)

    def _official_steps(self) -> int:
        # The release ignores max_steps: its schedule is as long as the epochs times the complete accumulated batches.
        config: WRPOConfig = self.args
        batches = math.ceil(len(self.train_dataset) / (config.per_device_train_batch_size * config.world_size))
        steps: int = math.ceil(config.num_train_epochs * (batches // config.gradient_accumulation_steps))
        return steps

    @torch.no_grad()
    def reference_logps(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """Return the reference's summed log-probabilities, (3, B), or None if the loss has no reference."""
        if self.args.loss_type == "simpo":
            return None
        if "ref_logps" in inputs:
            return inputs["ref_logps"].T
        if self.ref_model is not None:
            return batch_logps(self.ref_model, inputs)[0]
        with _adapter_off(self.accelerator.unwrap_model(self.model)):
            return batch_logps(self.model, inputs)[0]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss averaged over the batch's prompts, a scalar tensor, and note the metrics."""
        config: WRPOConfig = self.args
        policy_3B, lengths_3B = batch_logps(model, inputs)
        rewards_3B = rewards(policy_3B, self.reference_logps(inputs), lengths_3B, config.loss_type)
        alpha = self.current_alpha()
        loss = self._loss(rewards_3B, alpha)
        mode = "train" if self.model.training else "eval"
        self._note(mode, measures(rewards_3B * config.beta, policy_3B, lengths_3B, alpha))
        if mode == "eval" and config.loss_type != "unweighted":
            for fixed in (0.0, 1.0):  # losses at both ends are comparable between runs with different alpha
                self._note(mode, {f"loss_alpha_{fixed:.0f}": float(self._loss(rewards_3B, fixed))})
        return (loss, {}) if return_outputs else loss

    def _loss(self, rewards_3B: Tensor, alpha: float) -> Tensor:
        config: WRPOConfig = self.args
        return preference_loss(
            rewards_3B,
            loss_type=config.loss_type,
            alpha=alpha,
            beta=config.beta,
            gamma=config.gamma,
            label_smoothing=config.label_smoothing,
        ).mean()

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    def _note(self, mode: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._sums[mode][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the metrics since the last log added, averaged over micro-batches and processes."""
        mode = "train" if self.model.training else "eval"
        prefix = "" if mode == "train" else "eval_"
        noted = self._sums[mode]
        for name in sorted(noted):
            logs[prefix + name] = self._mean(noted[name])
        noted.clear()
        super().log(logs, start_time)

    def _mean(self, values: list[float]) -> float:
        if self.accelerator.num_processes == 1:
            return sum(values) / len(values)
        sums = torch.tensor([sum(values), len(values)], device=self.accelerator.device)
        total, count = self.accelerator.reduce(sums, reduction="sum").tolist()
        return float(total / count)

    def _prepared_reference(self, ref_model: PreTrainedModel | None) -> nn.Module | None:
        if ref_model is None:
            return None
        ref_model.eval().requires_grad_(False)
        add_scoring(ref_model)
        prepared: nn.Module = self.accelerator.prepare_model(ref_model, evaluation_mode=True)
        return prepared

    def _check_reference(self) -> None:
        columns = getattr(self.train_dataset, "column_names", None) or []
        adapted = hasattr(self.accelerator.unwrap_model(self.model), "disable_adapter")
        if self.args.loss_type == "simpo" or "ref_logps" in columns or self.ref_model is not None or adapted:
            return
        raise ConfigError(
            f"loss {self.args.loss_type!r} needs a reference: give rows with `ref_logps`, a ref_model or a PEFT adapter"
        )


def measures(rewards_3B: Tensor, policy_3B: Tensor, lengths_3B: Tensor, alpha: float) -> dict[str, float]:
    """Return the metrics of one micro-batch, with rewards in units of beta times the log-ratio.

    `pivot_accuracies` is the share of prompts whose target answer beats the rejected one. The release compares every
    prompt's target answer with every prompt's rejected answer instead.
    """
    source_B, target_B, rejected_B = rewards_3B.detach()
    chosen_B = weighted(rewards_3B.detach(), alpha)
    metrics = {
        "rewards/chosen": chosen_B,
        "rewards/source_chosen": source_B,
        "rewards/target_chosen": target_B,
        "rewards/rejected": rejected_B,
        "rewards/margins": chosen_B - rejected_B,
        "rewards/accuracies": (chosen_B > rejected_B).float(),
        "rewards/source_accuracies": (source_B > rejected_B).float(),
        "rewards/pivot_accuracies": (target_B > rejected_B).float(),
        "logps/source_chosen": policy_3B[SOURCE].detach(),
        "logps/target_chosen": policy_3B[TARGET].detach(),
        "logps/rejected": policy_3B[REJECTED].detach(),
        "lengths/source_chosen": lengths_3B[SOURCE],
        "lengths/target_chosen": lengths_3B[TARGET],
        "lengths/rejected": lengths_3B[REJECTED],
    }
    means = torch.stack([values.mean() for values in metrics.values()]).tolist()  # one transfer from the device
    return {**dict(zip(metrics, means, strict=True)), "alpha": alpha}


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off, so that policy and reference agree at the first step."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


@contextmanager
def _adapter_off(model: Any) -> Iterator[None]:
    with model.disable_adapter():
        yield
