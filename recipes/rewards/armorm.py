"""Kind `armorm`: score with RLHFlow/ArmoRM-Llama3-8B-v0.1 or a checkpoint of the same architecture.

`reward: {kind: armorm, model: FOLDER or hf:RLHFlow/ArmoRM-Llama3-8B-v0.1}`. Nothing is truncated: an answer that does
not fit has no reward. The gate reads the end of the prompt, so a conversation must have exactly one assistant turn.
`armorm_model` has the model itself.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, Self

from jinja2 import TemplateError
from pydantic import JsonValue

from harness.records import Failure, ModelRef
from harness.records.errors import CheckpointError, ConfigError, PluginError, one_line
from harness.records.protocols import RewardOptions
from harness.records.settings import ServeSpec, checked
from harness.store.checkpoint import inspect_checkpoint, resolve
from harness.store.provenance import install_command

from .armorm_model import GATING_TOKENS, ArmoRM
from .function import refuse

SERVE = frozenset({"chat_template", "devices", "dtype", "max_model_len"})
"""Options of `serve:` that are supported."""
Messages = Sequence[dict[str, str]]


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
        template = self._checkpoint.template
        try:
            text = self._tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
        except TemplateError as error:
            return Failure(reason="other", message=f"the chat template rejects the conversation: {one_line(error)}")
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
