"""Read YAML and JSON that others wrote. Size, depth and aliases are bounded, and every fault is a ConfigError.

>>> parse_yaml("judge: gpt-4.1", "harness.yaml")
{'judge': 'gpt-4.1'}
>>> parse_json("[" * 20_000, "card.json")
Traceback (most recent call last):
harness.records.errors.ConfigError: card.json is not JSON: it is nested too deeply
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError, one_line

MAX_BYTES = 4_000_000
"""A configuration has a few kilobytes; PyYAML reads about one megabyte in ten seconds."""
MAX_DEPTH = 64
"""Levels of nesting. PyYAML and Python's JSON call themselves once per level, and end at about 1,000."""
MAX_NODES = 200_000
"""Values after all aliases are filled in: nine lines of nine aliases each stand for 387 million values."""


class _TooMuchError(yaml.YAMLError):
    """A document beyond the limits."""


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also counts levels and values and stops at the limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}
        """Identity of a node -> the values it stands for."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._nodes
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooMuchError(f"it is nested more than {MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _TooMuchError("an alias refers to the value that it is part of")
        self._nodes += self._sizes[id(node)] if is_alias else 1
        if self._nodes > MAX_NODES:
            raise _TooMuchError(f"it stands for more than {MAX_NODES:,} values (aliases counted each time)")
        if not is_alias:
            self._sizes[id(node)] = self._nodes - before
        return node


SUITE_COPY = "suite.json"
"""In a run's folder: what the user's own suite contained when the run asked it."""


def parse_yaml(text: str, source: object) -> Any:
    """Return the value of a YAML text. Raise ConfigError that begins with `source` if it is invalid or too much."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source} has {len(text):,} characters; at most {MAX_BYTES:,} are read")
    try:
        return yaml.load(text, Loader=BoundedLoader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        # PyYAML's own constructors raise the others: for dates such as 2026-99-99, or `!!int ""`
        raise ConfigError(f"{source} is not YAML: {one_line(error)}") from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Return the mapping in a YAML file. Raise ConfigError with the file's name and what is wrong."""
    content = parse_yaml(read_text(path, "YAML"), path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must contain keys and values, not a {type(content).__name__}")
    return content


def read_text(path: Path, kind: str) -> str:
    """Return a file's text. Raise ConfigError if it cannot be read, is too large, or is not UTF-8."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read")
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not {kind}: {one_line(error)}") from error


def parse_json(text: str | bytes, source: object) -> Any:
    """Return the value of a JSON text. Raise ConfigError, beginning with `source`, if the text is not JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{source} is not JSON: it is nested too deeply") from error
    except ValueError as error:
        raise ConfigError(f"{source} is not JSON: {one_line(error)}") from error


def read_json_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the object in a JSON file of ours. Raise ConfigError, which ends with `advice`, if there is none."""
    try:
        content = parse_json(path.read_bytes(), path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; {advice}") from error
    except ConfigError as error:
        raise ConfigError(f"{error}; {advice}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a JSON object but a {type(content).__name__}; {advice}")
    return content
