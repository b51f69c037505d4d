"""Compute the reference's log-probabilities once, to be stored with the rows.

A stored reference needs no memory while training, avoids the problems of a sharded reference under ZeRO-3 and FSDP2,
and serves every variant of a sweep. With several processes, each computes a share of the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from harness.digests import file_sha256
from harness.errors import ConfigError
from harness.records import digest

from .logps import batch_logps
from .packing import Layout, PreferenceCollator, RowIds

log = logging.getLogger(__name__)


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
    layout: Layout,
    batch_size: int = 8,
    state: PartialState | None = None,
    autocast: torch.dtype | None = None,
) -> Dataset:
    """Return the rows, in the same order, with a column `ref_logps`: summed over tokens for source, target, rejected.

    `state` says which process this is. `autocast` is the precision that training will use, so that policy and reference
    agree at the first step. Batches are formed longest rows first, so that rows of a batch have similar lengths.
    """
    state = state or PartialState()
    add_fused_lm_head(model)
    model = model.to(state.device).eval()
    order = sorted(range(len(rows)), key=lambda index: -_tokens(rows[index]))
    share = order[state.process_index :: state.num_processes]
    with torch.autocast(state.device.type, dtype=autocast, enabled=autocast is not None):
        logps = _logps(model, [rows[index] for index in share], layout, batch_size)
    indexed = list(zip(share, logps, strict=True))
    merged: dict[int, list[float]] = dict(gather_object(indexed) if state.num_processes > 1 else indexed)
    return rows.add_column("ref_logps", [merged[index] for index in range(len(rows))])


def _tokens(row: RowIds) -> int:
    return len(row["prompt_ids"]) + len(row["source_ids"]) + len(row["target_ids"]) + len(row["rejected_ids"])


@torch.no_grad()
def _logps(model: PreTrainedModel, rows: Sequence[RowIds], layout: Layout, batch_size: int) -> list[list[float]]:
    collate = PreferenceCollator(model.config.get_text_config().pad_token_id or 0, layout)
    logps: list[list[float]] = []
    for start in range(0, len(rows), batch_size):
        batch = {name: tensor.to(model.device) for name, tensor in collate(rows[start : start + batch_size]).items()}
        logps.extend(batch_logps(model, batch)[0].T.tolist())
    return logps
