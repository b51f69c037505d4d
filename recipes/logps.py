"""A model's log-probabilities of a batch of preference rows, by a fused head that never holds whole logits.

It owns what must be asked of a model. Which token sees which is in `packing`; losses are in `losses`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .packing import Layout, answer_logps


def batch_logps(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Summed log-probabilities and token counts, (3, B) each: source, target, rejected.

    The model has TRL's fused head (`trl.trainer.utils.add_fused_lm_head`).
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
    """shared, but for attention that takes no mask of ours: flash attention, and layers with a sliding window."""
    config = model.config.get_text_config()
    windowed = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    masked = model.config._attn_implementation in ("sdpa", "eager")
    return "shared" if masked and not windowed and not getattr(config, "sliding_window", None) else "rows"


def base_model(model: nn.Module) -> PreTrainedModel:
    """The causal model itself, without a PEFT wrapper."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def _mask_for(model: nn.Module, mask: Tensor) -> Tensor:
    """A boolean mask as eager attention wants it: added to the scores."""
    if mask.dtype != torch.bool or _implementation(model) != "eager":
        return mask
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _implementation(model: nn.Module) -> str:
    while hasattr(model, "module"):  # a wrapper: DistributedDataParallel, DeepSpeed's engine, whose `config` is its own
        model = model.module
    return str(model.config._attn_implementation)
