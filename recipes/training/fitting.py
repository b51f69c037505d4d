"""Check on one row that a model computes the right log-probabilities in a layout, before it trains on all of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from harness.records.errors import ConfigError, one_line

from .packing import PreferenceCollator, RowIds, batch_logps

log = logging.getLogger(__name__)
ROWS = 16
"""The row of median length among this many is checked: long enough to leave a sliding window, and no outlier."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest difference of an answer's mean log-probability per token between two ways to compute it. In bfloat16 a logit
of 20 is rounded by up to 0.06, and the mean over tokens by less."""


@torch.no_grad()
def fitting_collator(
    model: nn.Module, collate: PreferenceCollator, row: RowIds, device: torch.device, limit: float
) -> PreferenceCollator:
    """Return the collator if the model computes the right log-probabilities from it, or else one of padded rows.

    They are compared with those of single sequences, from the model's own logits, on one row of the data. Some models
    take no positions, or make their attention from the padding alone (alibi): these need `rows`. Raise ConfigError if
    that is wrong too. Every process must call it with the same row, because sharded models compute together.
    """
    expected = _of_single_sequences(model, row, device)
    causes: list[str] = []
    for attempt in (collate, PreferenceCollator(collate.pad_token_id, "rows")):
        cause = _difference(model, attempt, row, expected, device)
        if isinstance(cause, float) and cause <= limit:
            if causes:
                log.warning(
                    "layout %r does not fit this model (%s), so it trains with 'rows'", collate.layout, causes[0]
                )
            return attempt
        causes.append(f"they differ by {cause:.2g} per token" if isinstance(cause, float) else cause)
    raise ConfigError(
        f"this model's log-probabilities in a batch are not those of single sequences ({causes[-1]}); its architecture "
        "cannot be trained here"
    )


def _difference(
    model: nn.Module, collate: PreferenceCollator, row: RowIds, expected_3: Tensor, device: torch.device
) -> float | str:
    try:
        batch = {name: tensor.to(device) for name, tensor in collate([row]).items()}
        sums, lengths = batch_logps(model, batch)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return one_line(error)
    return float(((sums[:, 0] - expected_3).abs() / lengths[:, 0]).max())


def _of_single_sequences(model: nn.Module, row: RowIds, device: torch.device) -> Tensor:
    sums = []
    for answer in (row["source_ids"], row["target_ids"], row["rejected_ids"]):
        ids = torch.tensor([row["prompt_ids"] + answer], device=device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 : -1]
        sums.append(logits.float().log_softmax(-1).gather(1, ids[0, -len(answer) :, None]).sum())
    return torch.stack(sums)


def tolerance(model: nn.Module, mixed_precision: str) -> float:
    """Return the entry of TOLERANCE for accelerate's `mixed_precision`: no, bf16 or fp16."""
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
    return TOLERANCE.get(mixed or next(model.parameters()).dtype, TOLERANCE[torch.bfloat16])


class FittingCollator(TrainerCallback):
    """Check the trainer's collator when training begins, and change its layout if another one fits."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        collate = trainer.data_collator
        if not isinstance(collate, PreferenceCollator):
            return
        row = typical(trainer.train_dataset)
        limit = tolerance(trainer.model, trainer.accelerator.mixed_precision)
        with trainer.compute_loss_context_manager():
            fitting = fitting_collator(trainer.model_wrapped, collate, row, trainer.args.device, limit)
        # the data loader has this object, so its fields are changed
        collate.layout, collate.packed, collate.multiple = fitting.layout, fitting.packed, fitting.multiple


def typical(rows: Sequence[RowIds]) -> RowIds:
    """Return the row of median length among the first ones."""
    first = [rows[index] for index in range(min(ROWS, len(rows)))]
    return sorted(first, key=lambda row: sum(len(ids) for name, ids in row.items() if name.endswith("_ids")))[  # type: ignore[arg-type, misc]
        len(first) // 2
    ]
