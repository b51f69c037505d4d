"""Parse rows of AlpacaEval's annotations.json, and the log-probabilities behind them.

>>> round(share_of("m", {"m": math.log(0.6), "M": math.log(0.2)}, ("m", "M")), 6)  # p(m) / (p(m) + p(M))
0.75
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from sys import intern

from pydantic import JsonValue

from ...records import Order, Prompt
from ...records.errors import ConfigError, DataError
from ...records.protocols import SuiteOptions
from .. import pocket
from ..exchange import TextIndex
from ..files import number, official_files
from .suite import read_gamed, shown_order

Row = Mapping[str, JsonValue]
LETTERS = ("m", "M")
"""The judge's possible replies: m is the answer shown first."""
COMPLETIONS = ("preference_raw_completion", "raw_completion")
"""Keys of the judge's completion: of alpaca_eval 0.6.6 (base.py completion_column), and of earlier versions."""
TIE = 0.5
AGREES = 1e-6
"""Largest difference between a stored preference and its log-probabilities; files contain ten decimals."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """What scoring needs of one instruction's judgment. Lengths are None in files with log-probabilities only."""

    instruction: str
    """As in the benchmark, if it is one of its instructions."""
    category: str
    length_1: int | None
    """Characters of the baseline's answer."""
    length_2: int | None
    """Characters of the candidate's."""
    stored: float | None
    """Probability that the candidate wins, as stored; None: no verdict."""
    derived: float | None
    """The same from the judge's log-probabilities; None if the file has none."""
    outside: float | None = None
    """A stored number that is not a preference, on the same scale (a failed row's -1 is -2).

    The reference's length-controlled fit includes it."""
    file: str = ""
    respelled: bool = False
    """The file's instruction differs from the benchmark's in white space or Unicode form."""

    @property
    def conflict(self) -> bool:
        """Return whether stored preference and log-probabilities disagree."""
        both = self.stored is not None and self.derived is not None
        return both and abs((self.stored or 0.0) - (self.derived or 0.0)) > AGREES

    @property
    def verdict(self) -> float | None:
        """Return the preference by our rules: none if the judge's log-probabilities say otherwise."""
        return None if self.conflict else self.stored


def is_annotation(row: Row) -> bool:
    judged = "preference" in row or any(key in row for key in COMPLETIONS)
    return judged and "output_2" in row and isinstance(row.get("instruction"), str)


def is_logprobs(row: Row) -> bool:
    return "preference" in row and "top" in row and isinstance(row.get("instruction_id"), int) and "model" in row


def read_annotation(row: Row, instruction: str | None = None, *, file: str = "") -> Annotation:
    """Return a row of annotations.json; unknown keys are ignored.

    `instruction`: the benchmark's own text of the row's. A row without the key `preference` takes the preference of its
    log-probabilities; null means no verdict.
    """
    judged_text = str(row["instruction"])  # the order of the answers was drawn from the text that was asked
    completion = next((row[key] for key in COMPLETIONS if key in row), None)
    raw, derived = number(row.get("preference")), derived_preference(_top_of(completion), judged_text)
    return Annotation(
        instruction=instruction or judged_text,
        category=intern(str(row.get("dataset") or "none")),
        length_1=_length(row.get("output_1")),
        length_2=_length(row.get("output_2")),
        stored=stored_preference(raw) if "preference" in row else derived,
        derived=derived,
        outside=_outside(raw),
        file=file,
        respelled=instruction not in (None, judged_text),
    )


def read_logprobs(row: Row, instructions: Sequence[str], *, file: str = "") -> Annotation | None:
    """Return a row of model, instruction_id, top ([token, logprob] pairs) and preference, or None for an unknown id."""
    index, top = row["instruction_id"], row.get("top")
    if not isinstance(index, int) or not 0 <= index < len(instructions):
        return None
    pairs = [pair for pair in top if isinstance(pair, list)] if isinstance(top, list) else []
    return Annotation(
        instruction=instructions[index],
        category="none",
        length_1=None,
        length_2=None,
        stored=stored_preference(row.get("preference")),
        derived=None if row.get("same_output") else derived_preference(_pairs(pairs), instructions[index]),
        file=file,
    )


def stored_preference(value: JsonValue) -> float | None:
    """Map the file's 1..2 to 0..1. An old 0 is a draw (alpaca_eval metrics/helpers.py), anything else no verdict."""
    value = number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if value == 0:
        return TIE
    return float(value) - 1.0 if 1 <= value <= 2 else None


def _outside(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) - 1.0 if stored_preference(value) is None else None


def derived_preference(top: Mapping[str, float], instruction: str) -> float | None:
    """Return p(m) / (p(m) + p(M)) from the candidate's side, or None without an m or M."""
    shown_first = share_of("m", top, LETTERS)
    if shown_first is None:
        return None
    return shown_first if _order(instruction) == "ba" else 1.0 - shown_first


def share_of(token: str, top: Mapping[str, float], tokens: Sequence[str]) -> float | None:
    """Return p(token) over the sum of p of `tokens`, from log-probabilities; a missing token counts as 0.

    None if no token has a finite log-probability (completion_parsers.logprob_parser)."""
    logprobs = {token_name: top[token_name] for token_name in tokens if math.isfinite(top.get(token_name, -math.inf))}
    if not logprobs:
        return None
    highest = max(logprobs.values())
    total = sum(math.exp(logprob - highest) for logprob in logprobs.values())
    return min(1.0, math.exp(logprobs.get(token, -math.inf) - highest) / total)


@lru_cache(maxsize=2048)  # the same for every model
def _order(instruction: str) -> Order:
    return shown_order(instruction)


def _length(value: JsonValue) -> int | None:
    return len(value) if isinstance(value, str) else None


def _top_of(raw: JsonValue) -> dict[str, float]:
    """Return the first token's log-probabilities in a stored OpenAI choice, or nothing for any other form."""
    logprobs = raw.get("logprobs") if isinstance(raw, dict) else None
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    top = first.get("top_logprobs") if isinstance(first, dict) else None
    if not isinstance(top, list):
        return {}
    entries = [entry for entry in top if isinstance(entry, dict) and entry.get("token") in LETTERS]
    return _pairs([[entry["token"], entry.get("logprob")] for entry in entries])


def _pairs(pairs: Sequence[Sequence[JsonValue]]) -> dict[str, float]:
    logprobs: dict[str, float] = {}
    for token, logprob in pairs:
        if isinstance(token, str) and isinstance(logprob, int | float):
            logprobs.setdefault(token, float(logprob))
    return logprobs


# --------------------------------------------------------------------------------------------------------- instructions
# What scoring needs besides the files: the order of the instructions, their difficulty, gamed rows.


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

    @cached_property
    def texts(self) -> TextIndex:
        return TextIndex(self.ids)


def official_set(mirror: str | None) -> InstructionSet:
    """Return the 805 instructions. Raise DataError or ConfigError if the pinned files are unavailable."""
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


@cache
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


def other_set(categories: Mapping[str, str], official: InstructionSet | None) -> InstructionSet:
    """Return a set for rows of no known edition.

    It has no difficulty by instruction, and the official difficulty by position, as in the reference.
    """
    return InstructionSet(
        version="files-1",
        ids={text: f"row {index}" for index, text in enumerate(categories)},
        categories=dict(categories),
        difficulty=official.difficulty if official else {},
        gamed=official.gamed if official else (),
    )


@dataclass(frozen=True)
class Editions:
    """The available editions; `missing` states why the official one is not available."""

    official: InstructionSet | None
    missing: str = ""

    def of(self, categories: Mapping[str, str]) -> InstructionSet:
        """Return the edition that contains all instructions. `categories`: instruction -> its category in the rows."""
        for edition in (self.official, None):
            candidate = edition or pocket_set()
            if all(text in candidate.ids for text in categories):
                return candidate
        return other_set(categories, self.official)

    def text_of(self, instruction: str) -> str:
        """Return the benchmark's own text of an instruction; the instruction itself if no edition has it."""
        for edition in (self.official, None):
            if (text := (edition or pocket_set()).texts.find(instruction)) is not None:
                return text
        return instruction


def editions_of(prompts: Sequence[Prompt], mirror: str | None) -> Editions:
    """Return the editions for rows about these prompts; those of the package need no pinned file."""
    # pocket runs must work without a network, so they never ask for the official files
    of_package = all(prompt.turns[0] in pocket_set().ids for prompt in prompts)
    return Editions(None) if of_package else load_editions(mirror)


def load_editions(mirror: str | None) -> Editions:
    """Load the editions. A missing pinned file only removes the length-controlled rate; win rates need none."""
    try:
        return Editions(official_set(mirror))
    except (DataError, ConfigError) as error:
        return Editions(None, str(error))
