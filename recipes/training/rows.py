"""Training rows on disk: prompts and answers as token ids, rendered once for all that train on them.

OUT/seed-N/rows/DIGEST/ holds an Arrow data set, what was dropped (rows.json), and the reference's log-probabilities
(reference-DIGEST.json). The digest covers texts, tokenizer, template and lengths. It owns no training.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, disable_progress_bars, load_from_disk
from transformers import PreTrainedTokenizerBase

from harness.errors import IncompleteError, StoreError
from harness.records import Prompt, Record, digest
from harness.store import dump_json, make_folder, write_atomic

from ..packing import IGNORED
from ..records import PreferencePair
from ..rows import Rendering, check_tokenizer, render, render_answers

log = logging.getLogger(__name__)
FACTS = "rows.json"


class RowFacts(Record):
    """`rows.json`."""

    rows: int
    dropped_too_long: int = 0
    """Prompts, or where asked rows, longer than allowed."""
    truncated_answers: int = 0
    tokens: dict[str, int] = {}
    """Column -> its tokens."""


@dataclass(frozen=True)
class Rows:
    """A folder of rendered rows."""

    folder: Path

    @property
    def facts(self) -> RowFacts:
        return RowFacts.model_validate_json((self.folder / FACTS).read_text("utf-8"))

    def load(self) -> Dataset:
        return load_from_disk(str(self.folder / "data"))


def rows_folder(parent: Path, *, texts: str, tokenizer: PreTrainedTokenizerBase, how: Rendering) -> Path:
    """Where the rows of these texts (a digest) lie under `parent`."""
    facts = {"texts": texts, "tokenizer": tokenizer_digest(tokenizer), "rendering": vars(how)}
    return parent / digest(facts)[:16]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Over the vocabulary with its merges, the special tokens and the chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return digest({"words": words, "special": special, "template": tokenizer.chat_template})[:16]


def preference_rows(
    folder: Path, pairs: Iterable[PreferencePair], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> Rows:
    """prompt_ids, source_ids, target_ids, rejected_ids of every pair that fits; made once."""
    if (made := _made(folder)) is not None:
        return made
    check_tokenizer(tokenizer)
    found, dropped, truncated = [], 0, 0
    for pair in pairs:
        answers = (pair.source.text, pair.target.text, pair.rejected.text)
        row = render(messages(pair.prompt), answers, tokenizer, how)
        if row is None:
            dropped += 1
            continue
        truncated += row.truncated
        found.append({
            "prompt_ids": row.prompt_ids,
            "source_ids": row.source_ids,
            "target_ids": row.target_ids,
            "rejected_ids": row.rejected_ids,
        })  # fmt: skip
    return _write(folder, found, dropped, truncated)


def answer_rows(
    folder: Path, answered: Iterable[tuple[Prompt, str]], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> Rows:
    """prompt_ids and source_ids of every prompt with its answer; made once."""
    if (made := _made(folder)) is not None:
        return made
    check_tokenizer(tokenizer)
    found, dropped, truncated = [], 0, 0
    for prompt, text in answered:
        row = render_answers(messages(prompt), (text,), tokenizer, how)
        if row is None:
            dropped += 1
            continue
        truncated += row.truncated
        found.append({"prompt_ids": row.prompt_ids, "source_ids": row.answers[0]})
    return _write(folder, found, dropped, truncated)


def completions(rows: Dataset, answer: str) -> Dataset:
    """Rows as TRL's SFTTrainer takes them, tokenised: input_ids, and labels on one column's answer alone."""
    ids = [
        {"input_ids": prompt + given, "labels": [IGNORED] * len(prompt) + given}
        for prompt, given in zip(rows["prompt_ids"], rows[f"{answer}_ids"], strict=True)
    ]
    return Dataset.from_list(ids)


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """The conversation that is answered. A recipe's prompts have one turn."""
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": prompt.turns[0]}]


def _made(folder: Path) -> Rows | None:
    return Rows(folder) if (folder / FACTS).is_file() else None


def _write(folder: Path, found: list[dict[str, tuple[int, ...]]], dropped: int, truncated: int) -> Rows:
    if not found:
        raise IncompleteError(
            f"no row is left to train on: all {dropped} prompts are longer than max_length or max_prompt_length allow"
            if dropped
            else "no row to train on"
        )
    tokens = {name: sum(len(row[name]) for row in found) for name in found[0]}
    facts = RowFacts(rows=len(found), dropped_too_long=dropped, truncated_answers=truncated, tokens=tokens)
    make_folder(folder)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another variant's step may be making the same rows (`--jobs`)
        if (made := _made(folder)) is None:
            _save(folder, found)
            write_atomic(folder / FACTS, dump_json(facts.model_dump(mode="json")))
    return made or Rows(folder)


def _save(folder: Path, found: list[dict[str, tuple[int, ...]]]) -> None:
    data, fresh = folder / "data", folder / f".data.{os.getpid()}"
    shutil.rmtree(data, ignore_errors=True)  # of a process that was stopped before it wrote FACTS
    disable_progress_bars()
    try:
        Dataset.from_list(found).save_to_disk(str(fresh))
        fresh.rename(data)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StoreError(f"cannot write {data}: {error.strerror or error}; free space, then run the same") from error
