"""Optimizer `muon`: torch's Muon for the hidden matrices, AdamW for embeddings, head, norms and biases.

transformers has no such value of `optim`. Muon orthogonalises the update of a whole matrix, so every process needs the
whole model: one process, or `launch: ddp`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import TrainingArguments

from harness.records.errors import ConfigError

from .settings import MUON


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
    """Both optimizers behind the interface of one; their groups share learning rate and weight decay.

    Muon's updates are scaled to the size of AdamW's (`match_rms_adamw`, arXiv 2502.16982), so that a learning rate for
    AdamW suits both. Raise ConfigError if this torch has no Muon.
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
        self._parts: dict[str, Optimizer] = {
            "muon": torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw", **keys),
            "adamw": AdamW([group for group in groups if group["params"]], betas=betas, eps=args.adam_epsilon, **keys),
        }
        # the very groups of both, so that a scheduler reaches them
        self.param_groups = [group for part in self._parts.values() for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        for part in self._parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self._parts.values() for group in part.param_groups]
