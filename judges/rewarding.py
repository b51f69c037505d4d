"""A sequence-classification reward model through transformers: conversations in, one number each out.

Imported where a model is loaded, never before: torch and transformers come with it. It knows no suites and no verdicts.
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
"""(role, text) a message, ending with the answer that is scored."""


@dataclass(frozen=True)
class Loading:
    """How the model is loaded."""

    folder: Path
    chat_template: str | None
    device: int | None = None
    """Number of the GPU; None: the first one, or the CPU where there is none."""
    dtype: str | None = None
    """None: float32 on a CPU, the checkpoint's own on a GPU."""
    batch_size: int = 8
    trust_remote_code: bool = False


class TooLongError(Exception):
    """A conversation is longer than the model's context."""


class Scorer:
    """The loaded model. Raises ValueError for one that gives another number of scores than one."""

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
            raise ValueError(f"{model.config.num_labels} scores an answer; a reward model gives one")
        self._model: Any = model.to(self._device).eval()
        self._template = loading.chat_template
        self._batch_size = loading.batch_size
        self._limit = getattr(model.config, "max_position_embeddings", None)

    def tokens(self, conversation: Conversation) -> list[int]:
        """The conversation as the chat template writes it. Raises TooLongError; nothing is ever cut."""
        messages = [{"role": role, "content": text} for role, text in conversation]
        text = self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False)
        found = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._limit is not None and len(found) > self._limit:
            raise TooLongError(f"the conversation's {len(found)} tokens are more than the {self._limit} of the model")
        return found

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        """One reward a row of token ids, on the model's own scale, in the rows' order. What else is in a batch changes
        a reward by rounding alone."""
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        found = [0.0] * len(rows)
        for start in range(0, len(order), self._batch_size):
            places = order[start : start + self._batch_size]
            for place, score in zip(places, self._batch([rows[place] for place in places]), strict=True):
                found[place] = score
        return found

    def _batch(self, rows: Sequence[list[int]]) -> list[float]:
        longest = max(map(len, rows))
        # The model scores the last token that is not padding, and tells padding by its id: a tokenizer whose padding is
        # its end-of-text token would have it score another token. So padding is an id that no row holds.
        used = {token for row in rows for token in row}
        padding = next(token for token in range(len(used) + 1) if token not in used)
        self._model.config.pad_token_id = padding
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits  # (batch, 1)
        return [float(score) for score in logits[:, 0].float().cpu()]

    def close(self) -> None:
        """Gives the memory back."""
        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
