"""Load the rows of a data set from a JSONL or Parquet file, the Hub or a function, and find the prompt in a row."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, DataError
from harness.install import install_command
from harness.suites.editions import read_json_lines

Row = Mapping[str, Any]
HUB = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.\w+)*):(?P<name>[A-Za-z_]\w*)")
FORMS = "FILE.jsonl, FILE.parquet, hf:ORG/NAME[@REVISION], or module:NAME of a function that returns rows"


class PromptError(ValueError):
    """A row has no prompt that can be asked by itself; counts use `reason` as their key."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


def load_rows(dataset: str, split: str) -> list[Row]:
    """Return all rows of a data set.

    Raises ConfigError if the name has an unknown form or the file does not exist, DataError if the file is broken or
    the Hub cannot be reached.
    """
    if match := HUB.fullmatch(dataset):
        return _from_hub(match["name"], match["revision"], split)
    path = Path(dataset).expanduser()
    if path.suffix in (".jsonl", ".parquet"):
        if not path.is_file():
            raise ConfigError(f"no such data file: {dataset!r}; use {FORMS}")
        return list(read_json_lines(path)) if path.suffix == ".jsonl" else _from_parquet(path)
    if match := FUNCTION.fullmatch(dataset):
        return _from_function(match["module"], match["name"])
    raise ConfigError(f"{dataset!r} is not a data set; use {FORMS}")


def portable_name(dataset: str) -> str:
    """Return the data set's name for a step's settings, without the folder of a file."""
    return Path(dataset).name if Path(dataset).suffix in (".jsonl", ".parquet") else dataset


def prompt_in(row: Row, column: str) -> tuple[str | None, str]:
    """Return (system message or None, user message) of a row's column: a text, a message or a conversation.

    Raises PromptError if there is no prompt, or if the conversation has several user turns, because later ones cannot
    be asked without the answers between them.
    """
    value = row.get(column)
    if isinstance(value, str):
        return None, _words(value)
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, Iterable):
        raise PromptError("no_prompt", f"{column} is {type(value).__name__}")
    turns = [_message(message, column) for message in messages]
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    if [role for role, _ in turns].count("user") > 1:
        raise PromptError("several_turns", f"{len(turns)} messages")
    if not turns or turns[0][0] != "user":
        raise PromptError("no_prompt", f"{column} does not start with a user message")
    return system, _words(turns[0][1])


def _message(message: object, column: str) -> tuple[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise PromptError("no_prompt", f"{column} has an item that is not a message with role and content")
    return role, content


def _words(text: str) -> str:
    if not text.strip():
        raise PromptError("empty")
    return text


def _from_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(f"{str(path)!r} needs pyarrow: {install_command('train')}") from None
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not Parquet: {' '.join(str(error).split())[:200]}") from None
    return rows


def _from_hub(name: str, revision: str | None, split: str) -> list[Row]:
    try:
        from datasets import load_dataset
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise ConfigError(f"'hf:{name}' needs datasets: {install_command('train')}") from None
    try:
        return list(load_dataset(name, split=split, revision=revision))
    except (
        HfHubHTTPError,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # load_dataset wraps most errors in one of these
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"cannot load {split!r} of hf:{name}{f'@{revision}' if revision else ''}: {reason}; without a network, "
            "download it elsewhere and use its JSONL or Parquet file"
        ) from None


def _from_function(module: str, name: str) -> list[Row]:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{module}:{name} cannot be imported: {error}; use {FORMS}") from None
    rows = list(function())
    for row in rows:
        if not isinstance(row, Mapping):
            raise ConfigError(f"{module}:{name} returned a {type(row).__name__}; every row must be a mapping")
    return rows
