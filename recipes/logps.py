"""Compute a model's log-probabilities for a batch of preference rows, without materialising all logits.

Attention masks are built in `packing`; losses are in `losses`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .packing import Layout, answer_logps


def batch_logps(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return summed log-probabilities and token counts, (3, B) each: source, target, rejected.

    The model must have TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), which computes logits in chunks.
    """
    out = model(
        input_ids=inputs["input_ids"],
        attention_mask=_mask_for(model, inputs["attention_mask"]),
        position_ids=inputs["position_ids"],
        shift_labels=inputs["next_ids"],
        fused_lm_head=True,
    )
    return answer_logps(out.log_probs, inputs["slot"], len(inputs["example"]))


def default_layout(model: PreTrainedModel) -> Layout:
    """Return `shared`, or `rows` if attention cannot use our mask: flash attention or a sliding window."""
    config = model.config.get_text_config()
    windowed = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    masked = model.config._attn_implementation in ("sdpa", "eager")
    return "shared" if masked and not windowed and not getattr(config, "sliding_window", None) else "rows"


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the causal model, without a PEFT wrapper."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def _mask_for(model: nn.Module, mask: Tensor) -> Tensor:
    # Eager attention adds the mask to the scores, so a boolean mask must become 0 and the lowest number.
    if mask.dtype != torch.bool or _implementation(model) != "eager":
        return mask
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _implementation(model: nn.Module) -> str:
    while hasattr(model, "module"):  # unwrap DistributedDataParallel and DeepSpeed's engine, whose `config` differs
        model = model.module
    return str(model.config._attn_implementation)
