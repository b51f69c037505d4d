"""Kind `armorm`: score with RLHFlow/ArmoRM-Llama3-8B-v0.1 or a checkpoint of the same architecture.

`reward: {kind: armorm, model: FOLDER or hf:RLHFlow/ArmoRM-Llama3-8B-v0.1}`. Nothing is truncated: an answer that does
not fit has no reward. The gate reads the end of the prompt, so a conversation must have exactly one assistant turn.

The checkpoint ships code that needs trust_remote_code and no longer imports under transformers 5. `ArmoRM` has only its
arithmetic, from the published description (arXiv 2406.12845, section 3): 19 objectives, weighted by a gate that reads
the prompt. Weights are loaded by name from the checkpoint's safetensors.
"""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import JsonValue

from harness.records import Failure, ModelRef
from harness.records.errors import CheckpointError, ConfigError, PluginError
from harness.records.protocols import RewardOptions
from harness.records.settings import ServeSpec, checked
from harness.store.checkpoint import inspect_checkpoint, resolve
from harness.store.provenance import install_command

from .function import refuse

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import LlamaConfig, LlamaModel


SERVE = frozenset({"chat_template", "devices", "dtype", "max_model_len"})
"""Options of `serve:` that are supported."""
Messages = Sequence[dict[str, str]]
GATING_TOKENS = (128009, 128006, 78191, 128007, 271)
"""<|eot_id|> <|start_header_id|> assistant <|end_header_id|> "\\n\\n" of Llama 3, which mark the end of the prompt."""


class ArmoRMReward:
    """`fusion_harness.rewards` entry point "armorm". It loads on entry, on the first GPU or else on the CPU.

    Raise ConfigError or CheckpointError on construction if the options or the folder cannot work.
    """

    conversational = True
    cacheable = True

    def __init__(self, options: RewardOptions) -> None:
        if not options.model:
            raise ConfigError("reward kind armorm needs `model`: a folder, or hf:RLHFlow/ArmoRM-Llama3-8B-v0.1")
        refuse(options, "url", "key_env", "params")
        if foreign := sorted(set(options.serve) - SERVE):
            raise ConfigError(
                f"reward kind armorm does not support serve: {foreign[0]}; supported: {', '.join(sorted(SERVE))}"
            )
        self._serve = checked(ServeSpec, options.serve, "reward: serve")
        self._ref = ModelRef.parse(options.model)
        self._checkpoint = inspect_checkpoint(resolve(self._ref), chat_template=self._serve.chat_template)
        self._batch_size = options.batch_size
        self._model: ArmoRM | None = None
        self._tokenizer: Any = None

    def identity(self) -> dict[str, JsonValue]:
        checkpoint = self._checkpoint
        return {
            "model": self._ref.short,
            "weights": checkpoint.weights_digest,
            "chat_template": checkpoint.template_digest,
            "dtype": self._serve.dtype,
            "limit": self._limit,
        }

    @property
    def _limit(self) -> int | None:
        """Maximum number of tokens of a conversation."""
        limits = [limit for limit in (self._checkpoint.max_position, self._serve.max_model_len) if limit is not None]
        return min(limits, default=None)

    def __enter__(self) -> Self:
        try:
            import safetensors  # noqa: F401  (used by ArmoRM.from_folder)
            import torch
            from transformers import AutoTokenizer
        except ImportError as error:
            raise PluginError(f"ArmoRM needs {error.name}: {install_command('train')}") from None
        cuda = torch.cuda.is_available()
        # bfloat16 is the checkpoint's dtype, which SimPO scored with; on a CPU it only costs time and precision
        dtype = getattr(torch, self._serve.dtype or ("bfloat16" if cuda else "float32"))
        device = f"cuda:{(self._serve.devices or '0').split(',')[0]}" if cuda else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(self._checkpoint.path, local_files_only=True)
        self._model = ArmoRM.from_folder(self._checkpoint.path, dtype=dtype).to(device)
        return self

    def __exit__(self, *exc: object) -> None:
        self._model = None
        gc.collect()  # modules reference each other in cycles that keep the tensors alive
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __call__(
        self, prompts: Sequence[Messages], completions: Sequence[Messages], **columns: Sequence[str]
    ) -> list[float | Failure]:
        """Return rewards of about 0..0.3. Batches have conversations of similar length, padded on the right."""
        outcomes: dict[int, float | Failure] = {}
        rows: dict[int, list[int]] = {}
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            outcome = self._tokens([*prompt, *completion])
            if isinstance(outcome, Failure):
                outcomes[index] = outcome
            else:
                rows[index] = outcome
        order = sorted(rows, key=lambda index: len(rows[index]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            outcomes |= dict(zip(batch, self._scores([rows[index] for index in batch]), strict=True))
        return [outcomes[index] for index in range(len(prompts))]

    def _tokens(self, messages: Messages) -> list[int] | Failure:
        assert self._tokenizer is not None, "use `with`"
        text = self._tokenizer.apply_chat_template(messages, chat_template=self._checkpoint.template, tokenize=False)
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._limit is not None and len(ids) > self._limit:
            message = f"the conversation has {len(ids)} tokens, but the model's limit is {self._limit}"
            return Failure(reason="context", message=message)
        width = len(GATING_TOKENS)
        turns = sum(tuple(ids[start : start + width]) == GATING_TOKENS for start in range(len(ids) - width + 1))
        if turns == 0:
            raise CheckpointError(
                f"the chat template of {self._ref.label!r} writes no assistant turn of Llama 3, which ArmoRM's gate "
                "needs; use the checkpoint's own template"
            )
        answers = sum(message["role"] == "assistant" for message in messages)
        if turns > answers:  # the gate would read a turn that is part of a text
            return Failure(reason="other", message="the prompt or the answer contains the tokens of an assistant turn")
        return ids

    def _scores(self, rows: Sequence[list[int]]) -> list[float]:
        import torch

        assert self._model is not None, "use `with`"
        device = self._model.device
        longest = max(map(len, rows))
        ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        rewards: list[float] = self._model(ids_BT, mask_BT).float().cpu().tolist()
        return rewards


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
            rewards_BK = (
                rewards_BK @ self._head["reward_transform_matrix"]
            )  # corrects objectives that prefer long answers
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
