"""Compute log-probabilities of next tokens from a model's hidden states, without the logits of a whole batch.

`add_scoring(model)` lets `model(input_ids=..., next_ids=next_ids_RL)` return `Scored`, the log-probability of each next
token, 0 where `next_ids` is IGNORED. Other calls are unchanged. The head's logits exist for a part of the vocabulary at
a time, in the forward pass and again in the backward pass. The call goes through the model's own forward, so that
wrappers (DDP, FSDP2, DeepSpeed) see it. Shapes: `_RL` rows by tokens, `_N` scored tokens, `_H` hidden size, `_V`
vocabulary; `_nv` a tile of some tokens and some of the vocabulary.
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
its allocator reuses without returning it to the system, 16 MB."""
TOKENS = 4096
"""Tokens of a tile at most: with the GPU's tile, a tile then has at least 32,768 columns."""


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
        hidden_RLH = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        head = self.get_output_embeddings()
        return Scored(logps=next_logps(hidden_RLH, head.weight, head.bias, next_ids, scaling))

    model.forward = types.MethodType(forward, model)
    model._scores_next_ids = True


@torch.compiler.disable
def next_logps(
    hidden_RLH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    next_ids_RL: Tensor,
    scaling: LogitScaling = LogitScaling(),
) -> Tensor:
    """Return the log-probability of each next token, (R, L), in float32, and 0 where `next_ids_RL` is IGNORED.

    `weight_VH` and `bias_V` are those of the model's output head, a linear layer.
    """
    hidden_RLH, next_ids_RL = hidden_RLH.to(weight_VH.device), next_ids_RL.to(weight_VH.device)
    if isinstance(weight_VH, DTensor):  # FSDP2: gather the shards once for all tiles
        weight_VH = weight_VH.full_tensor()
        bias_V = bias_V.full_tensor() if isinstance(bias_V, DTensor) else bias_V
    scored_RL = next_ids_RL != IGNORED
    with _gathered(weight_VH, bias_V):
        logps_N = _TiledLogps.apply(hidden_RLH[scored_RL], weight_VH, bias_V, next_ids_RL[scored_RL], scaling)
    # connected to the model even if no token is scored, so that backward works
    return logps_N.new_zeros(scored_RL.shape).masked_scatter(scored_RL, logps_N)


class _TiledLogps(torch.autograd.Function):
    """Log-probabilities of the labels, (N,), whose logits exist for one tile at a time, forward and backward.

    A tile has up to TOKENS tokens and some columns of the head. All columns come in turn for the same tokens, so that
    the gradient of a weight is written once for all of them.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor, scaling: LogitScaling
    ) -> Tensor:
        device = hidden_NH.device.type
        ctx.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NH.dtype
        ctx.scaling = scaling
        log_sums_N = hidden_NH.new_full((len(labels_N),), -torch.inf, dtype=torch.float32)
        logits_N = torch.zeros_like(log_sums_N)
        head_VH = weight_VH.to(ctx.dtype)
        with torch.autocast(device, enabled=False):
            for tokens, columns in _tiles(len(labels_N), len(head_VH), device):
                logits_nv = _logits(hidden_NH[tokens], head_VH[columns], bias_V, columns)
                labels_n = labels_N[tokens] - columns.start
                log_sums_n, at_labels_n = _kernel(_log_sums, device)(logits_nv, labels_n, scaling)
                log_sums_N[tokens] = torch.logaddexp(log_sums_N[tokens], log_sums_n)
                logits_N[tokens] += at_labels_n
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, labels_N, log_sums_N)
        return logits_N - log_sums_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden_NH, weight_VH, bias_V, labels_N, log_sums_N = ctx.saved_tensors
        device = hidden_NH.device.type
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(device, enabled=False), _gathered(weight_VH, bias_V):
            head_VH = weight_VH.to(ctx.dtype)
            # in float32: a sum over tiles in bfloat16 would lose small gradients
            grad_NH = torch.zeros_like(hidden_NH, dtype=torch.float32) if wants_hidden else None
            grad_VH = torch.zeros_like(head_VH, dtype=torch.float32) if wants_weight else None
            grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if wants_bias else None
            for tokens, columns in _tiles(len(labels_N), len(head_VH), device):
                logits_nv = _logits(hidden_NH[tokens], head_VH[columns], bias_V, columns)
                grad_nv = _kernel(_grad_of_logits, device)(
                    logits_nv, labels_N[tokens] - columns.start, log_sums_N[tokens], grads[0][tokens], ctx.scaling
                )
                if grad_NH is not None:
                    _add_product(grad_NH[tokens], grad_nv, head_VH[columns])
                if grad_VH is not None:
                    _add_product(grad_VH[columns], grad_nv.T, hidden_NH[tokens].to(ctx.dtype))
                if grad_V is not None:
                    grad_V[columns] += grad_nv.float().sum(0)
        return (
            None if grad_NH is None else grad_NH.to(hidden_NH.dtype),
            None if grad_VH is None else grad_VH.to(weight_VH.dtype),
            None if grad_V is None else grad_V.to(bias_V.dtype),
            None,
            None,
        )


def _tiles(tokens: int, vocabulary: int, device: str) -> Iterator[tuple[slice, slice]]:
    width = max(1, TILE.get(device, TILE["cpu"]) // max(1, min(tokens, TOKENS)))
    for row in range(0, tokens, TOKENS):
        for column in range(0, vocabulary, width):
            yield slice(row, min(row + TOKENS, tokens)), slice(column, min(column + width, vocabulary))


def _logits(hidden_nH: Tensor, head_vH: Tensor, bias_V: Tensor | None, columns: slice) -> Tensor:
    bias_v = None if bias_V is None else bias_V[columns].to(head_vH.dtype)
    return nn.functional.linear(hidden_nH.to(head_vH.dtype), head_vH, bias_v)


def _scaled(logits_nv: Tensor, scaling: LogitScaling) -> Tensor:
    logits_nv = logits_nv.float()
    if scaling.scale != 1.0:
        logits_nv = logits_nv * scaling.scale
    return logits_nv if scaling.softcap is None else scaling.softcap * torch.tanh(logits_nv / scaling.softcap)


def _log_sums(logits_nv: Tensor, labels_n: Tensor, scaling: LogitScaling) -> tuple[Tensor, Tensor]:
    """Return the log of the summed exponentials of a tile, and the logit of each label that lies in it, else 0."""
    scaled_nv = _scaled(logits_nv, scaling)
    inside_n = (labels_n >= 0) & (labels_n < scaled_nv.shape[1])
    at_labels_n = scaled_nv.gather(1, labels_n.clamp(0, scaled_nv.shape[1] - 1)[:, None])[:, 0]
    return scaled_nv.logsumexp(1), torch.where(inside_n, at_labels_n, 0.0)


def _grad_of_logits(
    logits_nv: Tensor, labels_n: Tensor, log_sums_n: Tensor, grad_n: Tensor, scaling: LogitScaling
) -> Tensor:
    # d logp / d logit_v = [v is the label] - p_v, and the derivative of soft-capping is 1 - tanh^2
    scaled_nv = _scaled(logits_nv, scaling)
    slope_nv = grad_n[:, None] * scaling.scale
    if scaling.softcap is not None:
        slope_nv = slope_nv * (1 - (scaled_nv / scaling.softcap) ** 2)
    if scaled_nv.is_cuda:  # compiled into one kernel
        label_nv = torch.arange(scaled_nv.shape[1], device=scaled_nv.device) == labels_n[:, None]
        return ((label_nv.float() - (scaled_nv - log_sums_n[:, None]).exp()) * slope_nv).to(logits_nv.dtype)
    grad_nv = scaled_nv.sub_(log_sums_n[:, None]).exp_().neg_()  # in place: passes over memory are what this costs
    inside_n = (labels_n >= 0) & (labels_n < grad_nv.shape[1])
    grad_nv.scatter_add_(1, labels_n.clamp(0, grad_nv.shape[1] - 1)[:, None], inside_n[:, None].float())
    return grad_nv.mul_(slope_nv).to(logits_nv.dtype)


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
