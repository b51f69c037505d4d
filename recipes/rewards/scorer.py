"""Load and call the plug-in of `reward:`, and check what it returns.

Options and items are plain data, so a scorer can live in another process. It reads no files.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

from pydantic import JsonValue

from harness.records import Failure
from harness.records.errors import ConfigError, HarnessError, IncompleteError, one_line
from harness.records.protocols import Identified, Reward, RewardOptions, load_plugin

from ..layout import PromptRow, messages, prompt_text

log = logging.getLogger(__name__)

Outcome = float | Failure
"""A reward, or the reason why there is none."""
OF_QUESTIONS = frozenset({"prompt_id", "reference", "system"})
"""Columns that a suite's questions can have; a recipe's prompts have those of `prompts.columns` too."""
SHOWN = 80
"""Characters of an invalid value that an error quotes."""


@dataclass(frozen=True)
class RewardItem:
    """One answer to one prompt, to be scored."""

    row: PromptRow
    completion: str


class Scorer:
    """A reward, usable inside a `with`. Nothing large is loaded before it is entered.

    Raise ConfigError, PluginError or CheckpointError on construction if the settings cannot work.
    """

    replicas = 1
    """Number of processes of this machine that score."""

    def __init__(self, options: RewardOptions) -> None:
        self._name = f"{options.kind} {options.model or options.url}" if options.model or options.url else options.kind
        self._reward: Reward = load_plugin("rewards", options.kind)(options)
        self.kind = options.kind
        self.at_once = int(getattr(self._reward, "at_once", options.batch_size))
        """Best number of answers per call of `score`: one batch, or more if the reward has its own queue."""

    def identity(self) -> dict[str, JsonValue]:
        """Return what the rewards depend on: digests and settings, without local paths."""
        return self._reward.identity() if isinstance(self._reward, Identified) else {}

    @property
    def cacheable(self) -> bool:
        """Whether the rewards depend only on `identity()`, prompt, answer and columns."""
        return isinstance(self._reward, Identified) and bool(getattr(self._reward, "cacheable", False))

    def check_for_questions(self) -> None:
        """Raise ConfigError if the reward needs a column that a suite's questions do not have."""
        if lacking := sorted(getattr(self._reward, "needs", frozenset()) - OF_QUESTIONS):
            raise ConfigError(
                f"reward {self._name} needs the column {lacking[0]!r}, which questions of suites do not have; let the "
                "function take `reference`, a question's reference answer, where that column is missing, or leave out "
                "`best_source` on suites"
            )

    def __enter__(self) -> Self:
        if isinstance(self._reward, AbstractContextManager):
            self._reward.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if isinstance(self._reward, AbstractContextManager):
            self._reward.__exit__(None, None, None)

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """Return one outcome per item. Raise IncompleteError if the reward fails or returns something invalid."""
        talks = bool(getattr(self._reward, "conversational", False))
        prompts = [messages(item.row.prompt) if talks else prompt_text(item.row.prompt) for item in items]
        completions = [
            [{"role": "assistant", "content": item.completion}] if talks else item.completion for item in items
        ]
        try:
            returned = self._reward(prompts, completions, **_columns(items))
        except HarnessError:
            raise
        except Exception as error:  # third-party code: report whatever it raises in one sentence
            log.exception("%s failed", self._name)
            raise IncompleteError(
                f"reward {self._name} raised {type(error).__name__} ({one_line(error)}) for "
                f"{_describe(items)}; earlier rewards are kept"
            ) from error
        return self._checked(items, returned)

    def _checked(self, items: Sequence[RewardItem], returned: Any) -> list[Outcome]:
        try:
            values = list(returned)
        except TypeError:
            raise IncompleteError(
                f"reward {self._name} returned {repr(returned)[:SHOWN]} for {_describe(items)}; a list of numbers is "
                "expected"
            ) from None
        if len(values) != len(items):
            raise IncompleteError(
                f"reward {self._name} returned {len(values)} rewards for {len(items)} answers ({_describe(items)}); "
                "one per answer is expected"
            )
        return [self._number(item, value) for item, value in zip(items, values, strict=True)]

    def _number(self, item: RewardItem, value: Any) -> Outcome:
        if isinstance(value, Failure):
            return value
        try:
            number = math.nan if isinstance(value, str) else float(value)  # also converts scalars of numpy and torch
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise IncompleteError(
                f"reward {self._name} gave {repr(value)[:SHOWN]} for an answer to prompt {item.row.prompt.id!r}; a "
                "finite number is expected; earlier rewards are kept"
            )
        return number


def _describe(items: Sequence[RewardItem]) -> str:
    first, rest = items[0].row.prompt.id, len(items) - 1
    return f"prompt {first!r}" + (f" and {rest} more" if rest else "")


def _columns(items: Sequence[RewardItem]) -> dict[str, list[str]]:
    """Return one text per item for each column, "" if a row lacks it.

    `system` and `reference` are included if any prompt has one.
    """
    rows = [item.row for item in items]
    columns = {name: [row.columns.get(name, "") for row in rows] for row in rows for name in row.columns}
    if any(row.prompt.system is not None for row in rows):
        columns["system"] = [row.prompt.system or "" for row in rows]
    if any(row.prompt.reference for row in rows) and "reference" not in columns:
        columns["reference"] = ["".join(row.prompt.reference[:1]) for row in rows]
    return columns | {"prompt_id": [row.prompt.id for row in rows]}
