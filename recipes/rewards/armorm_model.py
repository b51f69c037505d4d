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
    """Return one reward per right-padded conversation, (B,), in about 0..0.3.

    Shapes: `_B` conversations, `_T` tokens, `_H` hidden size, `_K` objectives.
    """

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

    def __call__(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the rewards, (B,), of token ids and attention mask, (B, T).

        Raise ValueError if a conversation has no assistant turn, e.g. because it was truncated.
        """
        import torch

        with torch.no_grad():
            hidden_BTH = self._body(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
            row_B = torch.arange(len(ids_BT), device=ids_BT.device)
            last_B = mask_BT.sum(1) - 1
            prompt_B = torch.tensor([prompt_end(ids) for ids in ids_BT.tolist()]).to(row_B.device)
            rewards_BK = torch.nn.functional.linear(hidden_BTH[row_B, last_B], self._head["regression_layer.weight"])
            # the matrix corrects objectives that prefer long answers
            rewards_BK = rewards_BK @ self._head["reward_transform_matrix"]
            weights_BK = self._gate(hidden_BTH[row_B, prompt_B])
            return (weights_BK.float() * rewards_BK.float()).sum(-1)

    def _gate(self, prompt_BH: Tensor) -> Tensor:
        """Return the weights of the objectives, (B, K), from the prompts' embeddings. They sum to `logit_scale`."""
        import torch

        output_BD = prompt_BH  # D: the width of a layer's output, K after the last one
        for layer in range(self._layers):
            weight_ED, bias_E = (self._head[f"gating.layers.{layer}.{name}"] for name in ("weight", "bias"))
            input_BD = torch.relu(output_BD) if layer else output_BD
            output_BD = torch.nn.functional.linear(input_BD, weight_ED, bias_E)
        weights_BK: Tensor = torch.softmax(output_BD / self._temperature, dim=-1)
        return weights_BK * self._head["gating.logit_scale"][0]


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
