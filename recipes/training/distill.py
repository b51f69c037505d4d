"""Distil a source with TRL's GOLDTrainer: make its rows, load the teacher, and choose the loss by the vocabularies.

With one vocabulary the loss is GKD's generalised Jensen-Shannon divergence of next-token distributions (arXiv
2306.13649); across vocabularies it is universal logit distillation on texts aligned by bytes (arXiv 2402.12030). TRL
has both. What is ours: the teacher reads the conversation in its own chat template, where TRL would show it the text
of the student's template.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.experimental.gold import GOLDConfig, GOLDTrainer
from trl.experimental.utils import is_byte_level_tokenizer, piece_byte_len

from harness.records.errors import ConfigError, IncompleteError

from ..layout import Messages
from .checkpoint import load_model
from .rows import reasons_of
from .settings import TrainingSettings
from .templates import Attempts, check_prompt, load_tokenizer

log = logging.getLogger(__name__)


class DistillTrainer(GOLDTrainer):
    """GOLDTrainer on rows of `distill_rows`, for both losses, on- and off-policy."""

    def _generate_on_policy_for_slices(self, slices: list[dict[str, Any]], on_policy_indices: list[int]) -> None:
        super()._generate_on_policy_for_slices(slices, on_policy_indices)
        # TRL decodes the student's ids with its control tokens, which are only text to another tokenizer
        for index in on_policy_indices:
            batch = self._buffered_inputs[index]
            batch["original_prompt_text"] = slices[index]["original_prompt_text"]
            answers = [ids[labels != -100] for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)]
            batch["original_completion_text"] = self.processing_class.batch_decode(
                answers, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )


def load_teacher(folder: Path, student: TrainingSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the teacher and its tokenizer, in the checkpoint's dtype on a GPU and in float32 on a CPU."""
    tokenizer = load_tokenizer(str(folder))
    attention = {key: value for key, value in student.model.items() if key == "attn_implementation"}
    dtype = "auto" if torch.accelerator.is_available() and not student.trainer.get("use_cpu") else "float32"
    keys = TrainingSettings(model={"dtype": dtype, **attention})
    return load_model(folder, keys, tokenizer.pad_token_id).requires_grad_(False), tokenizer


def choose_loss(
    config: GOLDConfig, keys: TrainingSettings, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> None:
    """Set `use_uld_loss` by the vocabularies, unless the recipe sets it. Raise ConfigError if it cannot be used."""
    same = student.get_vocab() == teacher.get_vocab()
    if "use_uld_loss" not in keys.trainer:
        config.use_uld_loss = not same
    if not config.use_uld_loss and not same:
        raise ConfigError(
            f"use_uld_loss = False compares next-token distributions one by one, but the vocabulary of the teacher "
            f"{teacher.name_or_path!r} differs from the student's; leave the key out"
        )
    if config.use_uld_loss and config.use_extended_uld:
        for tokenizer in (student, teacher):
            if not is_byte_level_tokenizer(tokenizer.backend_tokenizer):
                raise ConfigError(
                    f"texts can only be aligned between byte-level tokenizers, which {tokenizer.name_or_path!r} is "
                    "not; set use_extended_uld: false to compare token by token"
                )
    config.teacher_tokenizer_name_or_path = teacher.name_or_path


def distill_rows(
    rows: Dataset,
    answer: str,
    prompts: Sequence[Messages],
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
) -> Dataset:
    """Return the rows as GOLDTrainer's collator takes them. `prompts` are the conversations, one per row.

    Rows whose prompt the teacher cannot read are left out. Raise IncompleteError if none is left.
    """
    adds_bos = teacher("x")["input_ids"][:1] == [teacher.bos_token_id]

    def read_by_teacher(prompt: Messages) -> str:
        check_prompt(prompt, teacher)
        return str(teacher.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True))

    examples, attempts = [], Attempts()
    triples = zip(rows["prompt_ids"], rows[f"{answer}_ids"], prompts, strict=True)
    for index, (prompt_ids, answer_ids, prompt) in enumerate(triples):
        shown = attempts.row(index, partial(read_by_teacher, prompt))
        if shown is None:
            continue
        if adds_bos:  # TRL's tokenizer call writes one more
            shown = shown.removeprefix(teacher.bos_token)
        examples.append(
            {
                "input_ids": prompt_ids + answer_ids,
                "completion_mask": [0] * len(prompt_ids) + [1] * len(answer_ids),
                "byte_offsets": [(0, 0)] * len(prompt_ids) + byte_offsets(answer_ids, student),
                "original_prompt_text": shown,
                "original_completion_text": student.decode(
                    answer_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
            }
        )
    if attempts.dropped:
        why = reasons_of(attempts.dropped)
        if not examples:
            raise IncompleteError(f"no row is left for the teacher {teacher.name_or_path!r}: {why}")
        log.warning("%d rows are left out: for the teacher, %s", len(attempts.dropped), why)
    return Dataset.from_list(examples)


def byte_offsets(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """Return the first and last byte (exclusive) of each token in the answer's text; control tokens have none.

    Only meaningful for byte-level tokenizers, the only ones that TRL aligns.
    """
    special = set(tokenizer.all_special_ids)
    offsets, end = [], 0
    for token in ids:
        start = end
        end += 0 if token in special else piece_byte_len(tokenizer.convert_ids_to_tokens(token))
        offsets.append((start, end))
    return offsets
