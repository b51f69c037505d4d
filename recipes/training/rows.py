"""Store training rows on disk: prompts and answers as token ids, rendered once and shared by every variant.

OUT/seed-N/rows/DIGEST/ contains an Arrow data set (data/), counts of what was dropped (rows.json), and the reference's
log-probabilities (reference-DIGEST.json). The digest covers texts, tokenizer, template and lengths.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from datasets import Dataset, disable_progress_bars, load_from_disk
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from harness.records import Prompt, Record, digest
from harness.records.asking import is_empty
from harness.records.errors import ConfigError, IncompleteError, StoreError
from harness.store import dump_json, locked, make_folder, write_atomic

from ..layout import PreferencePair, messages
from .head import IGNORED
from .templates import (
    Attempts,
    PreferenceRow,
    RenderedAnswers,
    Rendering,
    check_tokenizer,
    render,
    render_answers,
)

log = logging.getLogger(__name__)
Entry = TypeVar("Entry")
FACTS = "rows.json"
REASONS = {
    "too_long": "are longer than max_length or max_prompt_length (raise them)",
    "control_tokens": "have a prompt or an answer with tokens that control a conversation",
    "surrogates": "have a prompt or an answer with half characters (lone surrogates)",
    "rejected_by_template": "have a prompt that the chat template rejects or renders differently once it is answered",
    "changed_by_template": "have an answer of which the chat template removes text, such as reasoning",
}


class RowFacts(Record):
    """Content of `rows.json`, which is written last: a folder without it is incomplete."""

    rows: int
    dropped_too_long: int = 0
    """Rows dropped because the prompt (or, with `overlong: drop`, an answer) is too long."""
    dropped_control_tokens: int = Field(default=0, exclude_if=is_empty)
    dropped_surrogates: int = Field(default=0, exclude_if=is_empty)
    dropped_rejected_by_template: int = Field(default=0, exclude_if=is_empty)
    dropped_changed_by_template: int = Field(default=0, exclude_if=is_empty)
    """Rows dropped because a text contains control tokens or lone surrogates, the template rejects the prompt, or it
    removes text of an answer."""
    dropped_rows: tuple[int, ...] = Field(default=(), exclude_if=is_empty)
    """Where the dropped rows were among all, counted from 0."""
    truncated_answers: int = 0
    tokens: dict[str, int] = {}
    """Column -> number of tokens in it, over all rows."""


@dataclass(frozen=True)
class Rows:
    """A folder of rendered rows."""

    folder: Path

    @classmethod
    def existing(cls, folder: Path) -> Rows | None:
        """Return the rows in a folder, or None if they are not complete."""
        return cls(folder) if (folder / FACTS).is_file() else None

    @property
    def facts(self) -> RowFacts:
        return RowFacts.model_validate_json((self.folder / FACTS).read_text("utf-8"))

    def load(self) -> Dataset:
        return load_from_disk(str(self.folder / "data"))

    def kept(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return those of the entries, one per row that was rendered, whose rows were not dropped.

        Raise ConfigError if the folder does not match: an earlier release did not record which rows were dropped.
        """
        facts = self.facts
        dropped = frozenset(facts.dropped_rows)
        if len(entries) != facts.rows + len(dropped):
            raise ConfigError(f"{self.folder} does not say which rows were dropped; move it away to render them again")
        return [entry for index, entry in enumerate(entries) if index not in dropped]


def rows_folder(parent: Path, *, texts: str, tokenizer: PreTrainedTokenizerBase, how: Rendering) -> Path:
    """Return the folder under `parent` for rows rendered from these texts (given by their digest)."""
    facts = {"texts": texts, "tokenizer": tokenizer_digest(tokenizer), "rendering": vars(how)}
    return parent / digest(facts)[:16]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return 16 hex characters over the vocabulary with its merges, the special tokens and the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return digest({"words": words, "special": special, "template": tokenizer.chat_template})[:16]


def preference_rows(
    folder: Path,
    pairs: Iterable[PreferencePair],
    tokenizer: PreTrainedTokenizerBase,
    how: Rendering,
    *,
    keep_reasoning: bool = False,
) -> Rows:
    """Render every pair that fits as prompt_ids, source_ids, target_ids and rejected_ids, or return existing rows.

    Raise ConfigError if the tokenizer cannot render rows, and IncompleteError if no row is left.
    """

    def rendered(pair: PreferencePair) -> PreferenceRow | None:
        source, target, rejected = (
            chosen.trained(keep_reasoning=keep_reasoning) for chosen in (pair.source, pair.target, pair.rejected)
        )
        return render(pair.messages, (source, target, rejected), tokenizer, how)

    rows = (partial(rendered, pair) for pair in pairs)
    return _rows(folder, rows, ("source_ids", "target_ids", "rejected_ids"), tokenizer)


def answer_rows(
    folder: Path, answered: Iterable[tuple[Prompt, str]], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> Rows:
    """Render every prompt with its answer as prompt_ids and source_ids, or return existing rows.

    Raise ConfigError if the tokenizer cannot render rows, and IncompleteError if no row is left.
    """
    rendered = (partial(render_answers, messages(prompt), (text,), tokenizer, how) for prompt, text in answered)
    return _rows(folder, rendered, ("source_ids",), tokenizer)


def _rows(
    folder: Path,
    rendered: Iterable[Callable[[], PreferenceRow | RenderedAnswers | None]],
    columns: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> Rows:
    if (existing := Rows.existing(folder)) is not None:
        return existing
    check_tokenizer(tokenizer)
    rows, truncated, attempts = [], 0, Attempts()
    for index, make_row in enumerate(rendered):
        row = cast("PreferenceRow | RenderedAnswers | None", attempts.row(index, make_row))
        if row is None:
            continue
        truncated += row.truncated
        rows.append({"prompt_ids": row.prompt_ids, **dict(zip(columns, row.answers, strict=True))})
    attempts.check(rows)
    return write_rows(folder, rows, attempts.dropped, truncated)


def completions(rows: Dataset, answer: str) -> Dataset:
    """Return the rows as TRL's SFTTrainer takes them: input_ids, and labels on the tokens of one answer only."""
    ids = [
        {"input_ids": prompt + answer_ids, "labels": [IGNORED] * len(prompt) + answer_ids}
        for prompt, answer_ids in zip(rows["prompt_ids"], rows[f"{answer}_ids"], strict=True)
    ]
    return Dataset.from_list(ids)


def write_rows(folder: Path, rows: list[dict[str, Any]], reasons: Mapping[int, str], truncated: int) -> Rows:
    """Write rendered rows; `reasons` says why rows are missing, by their place among all.

    Raise IncompleteError if no row is left.
    """
    dropped, why = Counter(reasons.values()), reasons_of(reasons)
    if not rows:
        raise IncompleteError(f"no row is left to train on: {why}" if why else "there is no row to train on")
    if set(dropped) - {"too_long"}:
        log.warning("%d rows are left out of %s: %s", dropped.total(), folder.name, why)
    tokens = {name: sum(len(row[name]) for row in rows) for name in rows[0] if name.endswith("_ids")}
    counts = {f"dropped_{reason}": count for reason, count in dropped.items()}
    facts = RowFacts(
        rows=len(rows), truncated_answers=truncated, tokens=tokens, dropped_rows=tuple(sorted(reasons)), **counts
    )
    make_folder(folder)
    with locked(folder / ".lock"):  # with `--jobs`, another variant's step may be writing the same rows
        if (existing := Rows.existing(folder)) is None:
            _save(folder, rows)
            write_atomic(folder / FACTS, dump_json(facts.model_dump(mode="json")))
    return existing or Rows(folder)


def reasons_of(reasons: Mapping[int, str]) -> str:
    """Return in words how many rows are missing for which reason."""
    counted = Counter(reasons.values()).most_common()
    return "; ".join(f"{count} {REASONS[reason]}" for reason, count in counted)


def _save(folder: Path, rows: list[dict[str, Any]]) -> None:
    data, fresh = folder / "data", folder / f".data.{os.getpid()}"
    shutil.rmtree(data, ignore_errors=True)  # left by a process that was killed before it wrote FACTS
    disable_progress_bars()
    try:
        Dataset.from_list(rows).save_to_disk(str(fresh))
        fresh.rename(data)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        reason = error.strerror or error
        raise StoreError(f"cannot write {data}: {reason}; free some space, then run the same command") from error
