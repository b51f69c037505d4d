"""ArmoRM as a module: the body of Llama, a regression head, and a gate that reads the end of the prompt.

The checkpoint ships code that needs trust_remote_code and no longer imports under transformers 5. `ArmoRM` has only its
arithmetic, from the published description (arXiv 2406.12845, section 3): 19 objectives, weighted by a gate that reads
the prompt. Weights are loaded by name from the checkpoint's safetensors.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.records.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import LlamaConfig, LlamaModel

GATING_TOKENS = (128009, 128006, 78191, 128007, 271)
"""<|eot_id|> <|start_header_id|> assistant <|end_header_id|> "\\n\\n" of Llama 3, which mark the end of the prompt."""


class ArmoRM:
    """Return one reward per right-padded conversation, shape (B,), in about 0..0.3."""

    def __init__(self, body: LlamaModel, head: dict[str, Tensor], *, temperature: float) -> None:
        """Take the loaded body, and in `head` the tensors that `head_shapes` names."""
        self._body = body
        self._head = head
        self._layers = sum(name.startswith("gating.layers.") for name in head) // 2  # each has a weight and a bias
        self._temperature = temperature

    @classmethod
    def from_folder(cls, folder: Path, *, dtype: torch.dtype) -> Self:
        """Load the checkpoint in a folder. Raise ConfigError if it is not an ArmoRM."""
        import torch
        from safetensors import safe_open
        from transformers import LlamaConfig, LlamaModel

        try:
            config = LlamaConfig(**json.loads((folder / "config.json").read_text("utf-8")))
            with torch.device("meta"):
                body = LlamaModel(config)
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"{folder} is not an ArmoRM checkpoint: {error}") from error
        stored: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                stored |= {name: weights.get_tensor(name).to(dtype) for name in weights.keys()}  # noqa: SIM118
        shapes = head_shapes(config)
        lacking = sorted({*shapes, *(f"model.{name}" for name in body.state_dict())} - set(stored))
        if lacking:
            raise ConfigError(f"{folder} is not an ArmoRM checkpoint: it lacks the weights {', '.join(lacking[:3])}")
        for name, shape in shapes.items():
            if (stored_shape := tuple(stored[name].shape)) != shape:
                raise ConfigError(f"{folder} is not an ArmoRM checkpoint: {name} has shape {stored_shape}, not {shape}")
        body.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in stored.items() if name.startswith("model.")},
            assign=True,
            strict=False,
        )
        body.rotary_emb = type(body.rotary_emb)(config)  # recreate its buffers, which are not stored
        body.eval()
        temperature = float(getattr(config, "gating_temperature", 10))  # default: the checkpoint's modeling_custom.py
        return cls(body, {name: stored[name] for name in shapes}, temperature=temperature)

    @property
    def device(self) -> torch.device:
        return self._head["reward_transform_matrix"].device

    def to(self, device: str) -> Self:
        self._body.to(device)
        self._head = {name: tensor.to(device) for name, tensor in self._head.items()}
        return self

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the rewards, shape (B,). Raise ValueError if a conversation has no assistant turn, e.g. truncated."""
        import torch

        with torch.no_grad():
            hidden_BTH = self._body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            rows = torch.arange(len(input_ids), device=input_ids.device)
            last_B = attention_mask.sum(1) - 1
            prompt_B = torch.tensor([prompt_end(ids) for ids in input_ids.tolist()]).to(rows.device)
            rewards_BK = torch.nn.functional.linear(hidden_BTH[rows, last_B], self._head["regression_layer.weight"])
            rewards_BK = rewards_BK @ self._head["reward_transform_matrix"]
            weights_BK = self._gate(hidden_BTH[rows, prompt_B])
            return (weights_BK.float() * rewards_BK.float()).sum(-1)

    def _gate(self, prompt_BH: Tensor) -> Tensor:
        """Return one weight per objective from the prompt's embedding; the weights sum to `logit_scale`."""
        import torch

        x = prompt_BH
        for layer in range(self._layers):
            weight, bias = (self._head[f"gating.layers.{layer}.{part}"] for part in ("weight", "bias"))
            x = torch.nn.functional.linear(torch.relu(x) if layer else x, weight, bias)
        weights_BK: Tensor = torch.softmax(x / self._temperature, dim=-1) * self._head["gating.logit_scale"][0]
        return weights_BK


def head_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that ArmoRM adds to Llama. Defaults: the checkpoint's modeling_custom.py."""
    objectives = int(getattr(config, "num_objectives", 19))
    hidden = int(getattr(config, "gating_hidden_dim", 1024))
    depth = int(getattr(config, "gating_n_hidden", 3))
    sizes = [config.hidden_size, *[hidden] * depth, objectives]
    shapes: dict[str, tuple[int, ...]] = {
        "gating.logit_scale": (1,),
        "regression_layer.weight": (objectives, config.hidden_size),
        "reward_transform_matrix": (objectives, objectives),
    }
    for layer, (width, height) in enumerate(itertools.pairwise(sizes)):
        shapes |= {f"gating.layers.{layer}.weight": (height, width), f"gating.layers.{layer}.bias": (height,)}
    return shapes


def prompt_end(ids: Sequence[int], tokens: Sequence[int] = GATING_TOKENS) -> int:
    """Return the index where the last GATING_TOKENS start. Raise ValueError if there are none."""
    width = len(tokens)
    for start in range(len(ids) - width, -1, -1):
        if tuple(ids[start : start + width]) == tuple(tokens):
            return start
    raise ValueError("the conversation has no assistant turn; was it truncated to the model's length?")
