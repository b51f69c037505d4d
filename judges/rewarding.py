"""Score conversations with a sequence-classification reward model through transformers: one number per conversation.

Import this only to load a model, because it imports torch and transformers. It knows nothing of suites or verdicts.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

Conversation = tuple[tuple[str, str], ...]
"""One (role, text) per message; the last one is the answer to score."""


@dataclass(frozen=True)
class Loading:
    """How to load the model."""

    folder: Path
    chat_template: str | None
    device: int | None = None
    """Index of the GPU; None means the first one, or the CPU if there is none."""
    dtype: str | None = None
    """None means float32 on a CPU and the checkpoint's dtype on a GPU."""
    batch_size: int = 8
    trust_remote_code: bool = False


class TooLongError(Exception):
    """A conversation is longer than the model's context."""


class LoadedRewardModel:
    """The loaded model. Raises ValueError on construction if the model does not give exactly one score."""

    def __init__(self, loading: Loading) -> None:
        cuda = torch.cuda.is_available()
        self._device = torch.device(f"cuda:{loading.device or 0}" if cuda else "cpu")
        dtype = loading.dtype or ("auto" if cuda else "float32")
        options = {"local_files_only": True, "trust_remote_code": loading.trust_remote_code}
        self._tokenizer: Any = AutoTokenizer.from_pretrained(loading.folder, **options)
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            loading.folder, dtype=dtype, use_safetensors=True, **options
        )
        if model.config.num_labels != 1:
            raise ValueError(f"{model.config.num_labels} scores per answer; a reward model gives one")
        self._model: Any = model.to(self._device).eval()
        self._template = loading.chat_template
        self._batch_size = loading.batch_size
        self._limit = getattr(model.config, "max_position_embeddings", None)

    def tokens(self, conversation: Conversation) -> list[int]:
        """Return the token ids of the conversation in the chat template. Raise TooLongError instead of truncating."""
        messages = [{"role": role, "content": text} for role, text in conversation]
        text = self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False)
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._limit is not None and len(ids) > self._limit:
            raise TooLongError(f"the conversation has {len(ids)} tokens, but the model's limit is {self._limit}")
        return ids

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        """Return one reward per row of token ids, on the model's own scale, in the rows' order.

        The other rows of a batch change a reward only by rounding.
        """
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        rewards = [0.0] * len(rows)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            for index, score in zip(batch, self._batch([rows[index] for index in batch]), strict=True):
                rewards[index] = score
        return rewards

    def _batch(self, rows: Sequence[list[int]]) -> list[float]:
        longest = max(map(len, rows))
        # The model scores the last token that is not padding, and recognizes padding by its id. If the tokenizer pads
        # with its end-of-text token, it would score the wrong token, so pad with an id that no row contains.
        used = {token for row in rows for token in row}
        padding = next(token for token in range(len(used) + 1) if token not in used)
        self._model.config.pad_token_id = padding
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits  # (batch, 1)
        return [float(score) for score in logits[:, 0].float().cpu()]

    def close(self) -> None:
        """Free the memory."""
        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
