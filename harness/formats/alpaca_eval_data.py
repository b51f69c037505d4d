"""What scoring AlpacaEval files needs beside the files: the instructions' order, their difficulty, the gamed rows."""

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
    """An edition's instructions in order, or none where the rows are of another set."""

    version: str
    ids: dict[str, str]
    """Instruction -> prompt id, in the edition's order."""
    categories: dict[str, str]
    """Instruction -> category."""
    difficulty: dict[str, float]
    """By prompt id: the place in the edition, from 0."""
    gamed: tuple[tuple[float, float, float], ...]

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(id=key, turns=(text,), category=self.categories.get(text, "none")) for text, key in self.ids.items()
        )


def official_set(mirror: str | None) -> InstructionSet:
    """The 805 instructions. Raises DataError or ConfigError where the pinned files are not to be had."""
    paths = official_files(SuiteOptions(mirror=mirror), ("alpaca_eval/baseline", "alpaca_eval/gamed"))
    rows = json.loads(paths["alpaca_eval/baseline"].read_text("utf-8"))
    difficulty, gamed = read_gamed(paths["alpaca_eval/gamed"])
    return InstructionSet(
        version="official-1",
        ids={row["instruction"]: str(place) for place, row in enumerate(rows)},
        categories={row["instruction"]: row["dataset"] for row in rows},
        difficulty=difficulty,
        gamed=gamed,
    )


def pocket_set() -> InstructionSet:
    """The pocket edition's instructions, from the package."""
    data = pocket.load("alpaca_eval")
    return InstructionSet(
        version=data.version,
        ids={prompt.turns[0]: prompt.id for prompt in data.prompts},
        categories={prompt.turns[0]: prompt.category for prompt in data.prompts},
        difficulty={str(place): data.difficulty[prompt.id] for place, prompt in enumerate(data.prompts)}
        | data.difficulty,
        gamed=data.gamed,
    )


def other_set(categories: Mapping[str, str], known: InstructionSet | None) -> InstructionSet:
    """Rows of no known edition: no difficulty by instruction; by position the official one, as the reference has it."""
    return InstructionSet(
        version="files-1",
        ids={text: f"row {place}" for place, text in enumerate(categories)},
        categories=dict(categories),
        difficulty=known.difficulty if known else {},
        gamed=known.gamed if known else (),
    )


@dataclass(frozen=True)
class Editions:
    """The editions at hand; `missing` says why the official one is not."""

    official: InstructionSet | None
    missing: str = ""

    def of(self, categories: Mapping[str, str]) -> InstructionSet:
        """The edition that all instructions are of; `categories`: instruction -> its category by the rows."""
        for known in (self.official, None):
            found = known or pocket_set()
            if all(text in found.ids for text in categories):
                return found
        return other_set(categories, self.official)


def load_editions(mirror: str | None) -> Editions:
    """Win rates need no pinned file, so that a missing one takes away the length-controlled rate alone."""
    try:
        return Editions(official_set(mirror))
    except (DataError, ConfigError) as error:
        return Editions(None, str(error))
