"""ArmoRM's head on plain transformers: 19 objectives, weighted by a gate that reads the prompt.

RLHFlow/ArmoRM-Llama3-8B-v0.1 ships code that needs trust_remote_code and no longer imports under transformers 5. This
module has only its arithmetic, from the published description (arXiv 2406.12845, section 3), and loads the weights by
name from the checkpoint's safetensors. Batching and caching of rewards are elsewhere.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from harness.errors import ConfigError

GATING_TOKENS = (128009, 128006, 78191, 128007, 271)
"""<|eot_id|> <|start_header_id|> assistant <|end_header_id|> "\\n\\n" of Llama 3, which mark the end of the prompt."""


class Gate(nn.Module):
    """Maps a prompt embedding to one weight per objective; the weights sum to `logit_scale`."""

    def __init__(self, width: int, objectives: int, *, hidden: int, depth: int, temperature: float) -> None:
        super().__init__()
        sizes = [width, *[hidden] * depth]
        inner = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = nn.ModuleList([*inner, nn.Linear(sizes[-1], objectives)])
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature = temperature

    def forward(self, prompt_BH: Tensor) -> Tensor:
        x = prompt_BH
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        weights_BK: Tensor = torch.softmax(self.layers[-1](x) / self.temperature, dim=-1) * self.logit_scale[0]
        return weights_BK


class ArmoRM(nn.Module):
    """Returns one reward per right-padded conversation, shape (B,), in about 0..0.3."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        objectives = int(getattr(config, "num_objectives", 19))
        self.model = LlamaModel(config)
        self.regression_layer = nn.Linear(config.hidden_size, objectives, bias=False)
        self.register_buffer("reward_transform_matrix", torch.eye(objectives))
        self.gating = Gate(
            config.hidden_size,
            objectives,
            hidden=int(getattr(config, "gating_hidden_dim", 1024)),  # defaults: the checkpoint's modeling_custom.py
            depth=int(getattr(config, "gating_n_hidden", 3)),
            temperature=float(getattr(config, "gating_temperature", 10)),
        )

    @classmethod
    def from_folder(cls, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> Self:
        """Load the checkpoint in a folder. Raise ConfigError if it is not an ArmoRM."""
        try:
            config = LlamaConfig(**json.loads((folder / "config.json").read_text("utf-8")))
            with torch.device("meta"):
                model = cls(config)
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"{folder} is not an ArmoRM checkpoint: {error}") from error
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                tensors |= {name: weights.get_tensor(name).to(dtype) for name in weights.keys()}  # noqa: SIM118
        lacking = sorted(set(model.state_dict()) - set(tensors))
        if lacking:
            raise ConfigError(f"{folder} is not an ArmoRM checkpoint: it lacks the weights {', '.join(lacking[:3])}")
        model.load_state_dict(tensors, assign=True, strict=False)
        model.model.rotary_emb = type(model.model.rotary_emb)(config)  # recreate its buffers, which are not stored
        model.eval()
        return model

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the rewards, shape (B,). Raise ValueError if a conversation has no assistant turn, e.g. truncated."""
        hidden_BTH = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rows = torch.arange(len(input_ids), device=input_ids.device)
        last_B = attention_mask.sum(1) - 1
        prompt_B = torch.tensor([prompt_end(ids) for ids in input_ids.tolist()])
        rewards_BK = self.regression_layer(hidden_BTH[rows, last_B]) @ self.reward_transform_matrix
        weights_BK = self.gating(hidden_BTH[rows, prompt_B.to(rows.device)])
        return (weights_BK.float() * rewards_BK.float()).sum(-1)


def prompt_end(ids: Sequence[int], tokens: Sequence[int] = GATING_TOKENS) -> int:
    """Return the index where the last GATING_TOKENS start. Raise ValueError if there are none."""
    width = len(tokens)
    for start in range(len(ids) - width, -1, -1):
        if tuple(ids[start : start + width]) == tuple(tokens):
            return start
    raise ValueError("the conversation has no assistant turn; was it truncated to the model's length?")
