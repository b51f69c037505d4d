"""Log-probabilities of next tokens from a model's hidden states, without the logits of a whole batch.

`add_scoring(model)` lets `model(input_ids=..., next_ids=next_ids_RL)` return `Scored`, the log-probability of each next
token, 0 where `next_ids` is IGNORED. Other calls are unchanged. The head's logits exist for a part of the vocabulary at
a time, in the forward pass and again in the backward pass. The call goes through the model's own forward, so that
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
TILE = {"cuda": 1 << 27, "cpu": 1 << 22}
"""Logits computed at a time. On a GPU half a gigabyte in float32, which keeps its matrix products large; on a CPU what
its allocator reuses without returning it to the system."""
TOKENS = 4096
"""Rows of a tile at most."""


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
    """Tiles have all columns of up to TOKENS rows in turn, so that the gradient of each weight is written once."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor, scaling: LogitScaling
    ) -> Tensor:
        device = hidden_NH.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
        ctx.scaling = scaling
        log_sums_N = hidden_NH.new_full((len(labels_N),), -torch.inf, dtype=torch.float32)
        logits_N = torch.zeros_like(log_sums_N)
        head = weight_VH.to(ctx.dtype)
        with torch.autocast(device, enabled=False):
            for rows, columns in _tiles(len(labels_N), len(head), device):
                logits = _logits(hidden_NH[rows], head[columns], bias_V, columns)
                log_sums, at_labels = _kernel(_log_sums, device)(logits, labels_N[rows] - columns.start, scaling)
                log_sums_N[rows] = torch.logaddexp(log_sums_N[rows], log_sums)
                logits_N[rows] += at_labels
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, labels_N, log_sums_N)
        return logits_N - log_sums_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden_NH, weight_VH, bias_V, labels_N, log_sums_N = ctx.saved_tensors
        device = hidden_NH.device.type
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(device, enabled=False), _gathered(weight_VH, bias_V):
            head = weight_VH.to(ctx.dtype)
            # in float32: a sum over tiles in bfloat16 would lose small gradients
            grad_hidden = torch.zeros_like(hidden_NH, dtype=torch.float32) if wants_hidden else None
            grad_weight = torch.zeros_like(head, dtype=torch.float32) if wants_weight else None
            grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
            for rows, columns in _tiles(len(labels_N), len(head), device):
                logits = _logits(hidden_NH[rows], head[columns], bias_V, columns)
                grad = _kernel(_grad_of_logits, device)(
                    logits, labels_N[rows] - columns.start, log_sums_N[rows], grads[0][rows], ctx.scaling
                )
                if grad_hidden is not None:
                    _add_product(grad_hidden[rows], grad, head[columns])
                if grad_weight is not None:
                    _add_product(grad_weight[columns], grad.T, hidden_NH[rows].to(ctx.dtype))
                if grad_bias is not None:
                    grad_bias[columns] += grad.float().sum(0)
        return (
            None if grad_hidden is None else grad_hidden.to(hidden_NH.dtype),
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
            None,
        )


def _tiles(tokens: int, vocabulary: int, device: str) -> Iterator[tuple[slice, slice]]:
    width = max(1, TILE.get(device, TILE["cpu"]) // max(1, min(tokens, TOKENS)))
    for row in range(0, tokens, TOKENS):
        for column in range(0, vocabulary, width):
            yield slice(row, min(row + TOKENS, tokens)), slice(column, min(column + width, vocabulary))


def _logits(hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, columns: slice) -> Tensor:
    bias = None if bias_V is None else bias_V[columns].to(head_VH.dtype)
    return nn.functional.linear(hidden_NH.to(head_VH.dtype), head_VH, bias)


def _scaled(logits: Tensor, scaling: LogitScaling) -> Tensor:
    logits = logits.float()
    if scaling.scale != 1.0:
        logits = logits * scaling.scale
    return logits if scaling.softcap is None else scaling.softcap * torch.tanh(logits / scaling.softcap)


def _log_sums(logits: Tensor, labels_N: Tensor, scaling: LogitScaling) -> tuple[Tensor, Tensor]:
    """Return the log of the summed exponentials of a tile, and the logit of each label that lies in it, else 0."""
    scaled = _scaled(logits, scaling)
    inside = (labels_N >= 0) & (labels_N < scaled.shape[1])
    at_labels = scaled.gather(1, labels_N.clamp(0, scaled.shape[1] - 1)[:, None])[:, 0]
    return scaled.logsumexp(1), torch.where(inside, at_labels, 0.0)


def _grad_of_logits(
    logits: Tensor, labels_N: Tensor, log_sums_N: Tensor, grad_N: Tensor, scaling: LogitScaling
) -> Tensor:
    # d logp / d logit_v = [v is the label] - p_v, and the derivative of soft-capping is 1 - tanh^2
    scaled = _scaled(logits, scaling)
    slope = grad_N[:, None] * scaling.scale
    if scaling.softcap is not None:
        slope = slope * (1 - (scaled / scaling.softcap) ** 2)
    if scaled.is_cuda:  # compiled into one kernel
        label = torch.arange(scaled.shape[1], device=scaled.device) == labels_N[:, None]
        return ((label.float() - (scaled - log_sums_N[:, None]).exp()) * slope).to(logits.dtype)
    grad = scaled.sub_(log_sums_N[:, None]).exp_().neg_()  # in place: passes over memory are what this costs
    inside = (labels_N >= 0) & (labels_N < grad.shape[1])
    grad.scatter_add_(1, labels_N.clamp(0, grad.shape[1] - 1)[:, None], inside[:, None].float())
    return grad.mul_(slope).to(logits.dtype)


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
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    # A parameter that is whole already, such as tied embeddings, must not be sharded when the context ends.
    sharded = [p for p in parameters if getattr(p, "ds_status", ZeroParamStatus.AVAILABLE) != ZeroParamStatus.AVAILABLE]
    context: AbstractContextManager[object] = deepspeed.zero.GatheredParameters(sharded) if sharded else nullcontext()
    return context
