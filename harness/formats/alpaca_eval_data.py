"""Load what scoring AlpacaEval files needs besides the files: the instructions' order, their difficulty, gamed rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ..errors import ConfigError, DataError
from ..protocols import SuiteOptions
from ..records import Prompt
from ..suites import pocket
from ..suites.alpaca_eval import read_gamed
from ..suites.editions import official_files


@dataclass(frozen=True)
class InstructionSet:
    """The instructions of an edition in order, or of the rows themselves if they belong to no edition."""

    version: str
    ids: dict[str, str]
    """Instruction -> prompt id, in the edition's order."""
    categories: dict[str, str]
    """Instruction -> category."""
    difficulty: dict[str, float]
    """Prompt id, or position in the edition from 0 -> difficulty."""
    gamed: tuple[tuple[float, float, float], ...]

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(id=key, turns=(text,), category=self.categories.get(text, "none")) for text, key in self.ids.items()
        )


def official_set(mirror: str | None) -> InstructionSet:
    """Return the 805 instructions; raise DataError or ConfigError if the pinned files are unavailable."""
    paths = official_files(SuiteOptions(mirror=mirror), ("alpaca_eval/baseline", "alpaca_eval/gamed"))
    rows = json.loads(paths["alpaca_eval/baseline"].read_text("utf-8"))
    difficulty, gamed = read_gamed(paths["alpaca_eval/gamed"])
    return InstructionSet(
        version="official-1",
        ids={row["instruction"]: str(index) for index, row in enumerate(rows)},
        categories={row["instruction"]: row["dataset"] for row in rows},
        difficulty=difficulty,
        gamed=gamed,
    )


def pocket_set() -> InstructionSet:
    """Return the pocket edition's instructions, from the package."""
    data = pocket.load("alpaca_eval")
    return InstructionSet(
        version=data.version,
        ids={prompt.turns[0]: prompt.id for prompt in data.prompts},
        categories={prompt.turns[0]: prompt.category for prompt in data.prompts},
        difficulty={str(index): data.difficulty[prompt.id] for index, prompt in enumerate(data.prompts)}
        | data.difficulty,
        gamed=data.gamed,
    )


def other_set(categories: Mapping[str, str], known: InstructionSet | None) -> InstructionSet:
    """Return a set for rows of no known edition.

    It has no difficulty by instruction, and the official difficulty by position, as in the reference.
    """
    return InstructionSet(
        version="files-1",
        ids={text: f"row {index}" for index, text in enumerate(categories)},
        categories=dict(categories),
        difficulty=known.difficulty if known else {},
        gamed=known.gamed if known else (),
    )


@dataclass(frozen=True)
class Editions:
    """The available editions; `missing` states why the official one is not available."""

    official: InstructionSet | None
    missing: str = ""

    def of(self, categories: Mapping[str, str]) -> InstructionSet:
        """Return the edition that contains all instructions; `categories`: instruction -> its category in the rows."""
        for known in (self.official, None):
            candidate = known or pocket_set()
            if all(text in candidate.ids for text in categories):
                return candidate
        return other_set(categories, self.official)


def load_editions(mirror: str | None) -> Editions:
    """Load the editions. A missing pinned file only removes the length-controlled rate; win rates need none."""
    try:
        return Editions(official_set(mirror))
    except (DataError, ConfigError) as error:
        return Editions(None, str(error))
