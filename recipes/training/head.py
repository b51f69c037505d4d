"""Log-probabilities of next tokens from a model's hidden states, without the logits of a whole batch.

`add_scoring(model)` lets `model(input_ids=..., next_ids=next_ids_RL)` return `Scored`, the log-probability of each next
token, 0 where `next_ids` is IGNORED. Other calls are unchanged. The head's logits exist for a few hundred tokens at a
time, in the forward pass and again in the backward pass. The call goes through the model's own forward, so that
wrappers (DDP, FSDP2, DeepSpeed) see it. Shapes: `_N` scored tokens, `_H` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import ModelOutput

IGNORED = -100
"""The label of a position that is not scored (torch's cross-entropy convention)."""
TILE = {"cuda": 1 << 27, "cpu": 1 << 24}
"""Logits held at a time: half a gigabyte in float32 on a GPU, which keeps its matrix products large."""


@dataclass
class Scored(ModelOutput):
    """What a scoring call returns. A ModelOutput, because wrappers look for tensors inside those."""

    logps: Tensor | None = None
    """Log-probabilities of the next tokens, (R, L), in float32."""


@dataclass(frozen=True)
class LogitScaling:
    """What a model does to the head's output before its softmax."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> LogitScaling:
        """Read it from the names that model families use: Cohere, Falcon-H1, Granite, Gemma."""
        text = config.get_text_config()
        scales = (getattr(text, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"))
        scale = next((scale for scale in scales if scale is not None), None)
        divisor = getattr(text, "logits_scaling", None)
        if scale is None and divisor is not None:
            scale = divisor if text.model_type == "hyperclovax" else 1 / divisor
        return cls(1.0 if scale is None else float(scale), getattr(text, "final_logit_softcapping", None))


def add_scoring(model: PreTrainedModel) -> None:
    """Let the model's forward take `next_ids`. A second call changes nothing."""
    if getattr(model, "_scores_next_ids", False):
        return
    plain, scaling = model.forward, LogitScaling.of(model.config)

    # `generate` checks its arguments against the signature of forward
    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, next_ids: Tensor | None = None, **kwargs: Any) -> Any:
        if next_ids is None:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        head = self.get_output_embeddings()
        return Scored(logps=next_logps(hidden, head.weight, head.bias, next_ids, scaling))

    model.forward = types.MethodType(forward, model)
    model._scores_next_ids = True


@torch.compiler.disable
def next_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, next_ids: Tensor, scaling: LogitScaling = LogitScaling()
) -> Tensor:
    """Return the log-probability of each next token, in float32, and 0 where `next_ids` is IGNORED.

    `hidden` is (R, L, H), `next_ids` (R, L), `weight` (V, H) and `bias` (V,), as of a linear layer.
    """
    hidden, next_ids = hidden.to(weight.device), next_ids.to(weight.device)
    if isinstance(weight, DTensor):  # FSDP2: gather the shards once for all tiles
        weight = weight.full_tensor()
        bias = bias.full_tensor() if isinstance(bias, DTensor) else bias
    scored = next_ids != IGNORED
    with _gathered(weight, bias):
        logps_N = _TiledLogps.apply(hidden[scored], weight, bias, next_ids[scored], scaling)
    # connected to the model even if no token is scored, so that backward works
    return logps_N.new_zeros(scored.shape).masked_scatter(scored, logps_N)


class _TiledLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor, scaling: LogitScaling
    ) -> Tensor:
        device = hidden_NH.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
        ctx.scaling = scaling
        logps_N = hidden_NH.new_zeros(len(labels_N), dtype=torch.float32)
        log_sums_N = torch.zeros_like(logps_N)
        head = weight_VH.to(ctx.dtype)
        with torch.autocast(device, enabled=False):
            for tile in _tiles(len(labels_N), len(head), device):
                logits = _logits(hidden_NH[tile], head, bias_V)
                logps_N[tile], log_sums_N[tile] = _kernel(_log_softmax_at, device)(
                    logits, labels_N[tile], scaling.scale, scaling.softcap
                )
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, labels_N, log_sums_N)
        return logps_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden_NH, weight_VH, bias_V, labels_N, log_sums_N = ctx.saved_tensors
        device, scaling = hidden_NH.device.type, ctx.scaling
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(device, enabled=False), _gathered(weight_VH, bias_V):
            head = weight_VH.to(ctx.dtype)
            grad_hidden = torch.zeros_like(hidden_NH) if wants_hidden else None
            # in float32: a sum over tiles in bfloat16 would lose small gradients
            grad_weight = torch.zeros_like(head, dtype=torch.float32) if wants_weight else None
            grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
            for tile in _tiles(len(labels_N), len(head), device):
                logits = _logits(hidden_NH[tile], head, bias_V)
                grad = _kernel(_grad_of_logits, device)(
                    logits, labels_N[tile], log_sums_N[tile], grads[0][tile], scaling.scale, scaling.softcap
                )
                if grad_hidden is not None:
                    grad_hidden[tile] = (grad @ head).to(grad_hidden.dtype)
                if grad_weight is not None:
                    _add_product(grad_weight, grad.T, hidden_NH[tile].to(ctx.dtype))
                if grad_bias is not None:
                    grad_bias += grad.float().sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
            None,
        )


def _tiles(tokens: int, vocabulary: int, device: str) -> Iterator[slice]:
    step = max(1, TILE.get(device, TILE["cpu"]) // vocabulary)
    return (slice(start, start + step) for start in range(0, tokens, step))


def _logits(hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    return nn.functional.linear(hidden_NH.to(head_VH.dtype), head_VH, None if bias_V is None else bias_V.to(head_VH))


def _scaled(logits: Tensor, scale: float, softcap: float | None) -> Tensor:
    logits = logits.float() * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _log_softmax_at(logits: Tensor, labels_N: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, Tensor]:
    scaled = _scaled(logits, scale, softcap)
    log_sums_N = scaled.logsumexp(1)
    return scaled.gather(1, labels_N[:, None])[:, 0] - log_sums_N, log_sums_N


def _grad_of_logits(
    logits: Tensor, labels_N: Tensor, log_sums_N: Tensor, grad_N: Tensor, scale: float, softcap: float | None
) -> Tensor:
    # d logp / d logit_v = [v is the label] - p_v, and the derivative of soft-capping is 1 - tanh^2
    scaled = _scaled(logits, scale, softcap)
    label = torch.arange(scaled.shape[1], device=scaled.device) == labels_N[:, None]
    grad = (label.float() - (scaled - log_sums_N[:, None]).exp()) * (grad_N[:, None] * scale)
    if softcap is not None:
        grad = grad * (1 - (scaled / softcap) ** 2)
    return grad.to(logits.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == torch.float32:
        total.addmm_(left, right)
    elif total.is_cuda:
        total += torch.mm(left, right, out_dtype=torch.float32)
    else:
        total.addmm_(left.float(), right.float())


@functools.cache
def _compiled(kernel: Any) -> Any:
    return torch.compile(kernel, dynamic=True)


def _kernel(kernel: Any, device: str) -> Any:
    # On a GPU these are bound by memory, and one compiled kernel reads and writes each logit once.
    return _compiled(kernel) if device == "cuda" else kernel


def _gathered(*parameters: Tensor | None) -> AbstractContextManager[object]:
    """Return a context in which parameters that ZeRO-3 has sharded are whole. Elsewhere it does nothing."""
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus  # type: ignore[import-not-found]

    # A parameter that is whole already, such as tied embeddings, must not be sharded when the context ends.
    sharded = [p for p in parameters if getattr(p, "ds_status", ZeroParamStatus.AVAILABLE) != ZeroParamStatus.AVAILABLE]
    context: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(sharded) if sharded else nullcontext()
    return context
