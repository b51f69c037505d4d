"""Read a judge's reply by the grammar that a suite's file states: labels, a rating of any scale, or a rubric. Pure.

>>> items = Item(name="polite"), Item(name="correct", low=0, high=4, weight=3)
>>> read(rubric(items), "[[1: yes]] Fine. [[2: 3]]").value  # (1 + 3 * 3/4) of 4 points
81.25
>>> read(labels({"better": (1.0, 1), "worse": (0.0, 1)}), "The first is [[better]]").value
1.0

A template names its grammar as `labels:{...}`, `scale:[...]` or `items:[...]`, so that the template's digest covers it.
A verdict stands in double brackets. Nothing here repairs a reply: a verdict that is missing, doubtful or outside its
scale is an error. Replies are as hostile as answers, so every pattern takes linear time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import Field, field_validator, model_validator

from ...records import Preference, Rating, Record, Verdict
from ...records.errors import VerdictParseError

PREFIXES = ("labels:", "scale:", "items:")
MARK = re.compile(r"\[\[([^\[\]\n]{1,80})\]\]")
"""Anything short in double brackets."""
NUMBER = re.compile(r"-?\d{1,6}(?:\.\d{1,6})?", re.ASCII)
ITEM = re.compile(r"\s*(\d{1,4})\s*:\s*([^:]+?)\s*", re.ASCII)
WORDS = {"yes": 1.0, "no": 0.0}
STRONG = 3
"""Battles that a label of this weight counts as; the other weight is 1 (`scoring.STRONG_WEIGHT`)."""
Labels = Mapping[str, tuple[float, int]]
"""Label -> points of the answer shown first (0..1), and weight (1 or 3)."""


class Item(Record):
    """One criterion of a rubric."""

    name: str = Field(pattern=r"^[\w.-]{1,60}$")
    text: str = ""
    """What the judge is asked; empty: the name."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Share in the score; negative: points are taken off, as for a harmful answer."""
    low: float = Field(default=0.0, allow_inf_nan=False)
    high: float = Field(default=1.0, allow_inf_nan=False)
    """Lowest and highest score; 0 and 1: the judge answers yes or no."""

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a weight of 0 counts for nothing; leave the item out")
        return weight

    @model_validator(mode="after")
    def _has_a_scale(self) -> Item:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self

    @property
    def is_yes_or_no(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    def share(self, score: float) -> float:
        """Return where a score lies on the item's scale, 0..1."""
        return (score - self.low) / (self.high - self.low)


def labels(by_label: Labels) -> str:
    """Return the grammar of a reply with one of these labels."""
    return PREFIXES[0] + json.dumps(by_label, sort_keys=True)


def scale(low: float, high: float) -> str:
    """Return the grammar of a reply with one rating."""
    return PREFIXES[1] + json.dumps([low, high])


def rubric(items: Sequence[Item]) -> str:
    """Return the grammar of a reply with a score for each item."""
    return PREFIXES[2] + json.dumps([item.model_dump(exclude={"text"}) for item in items], sort_keys=True)


def read(grammar: str, reply: str) -> Verdict:
    """Return the verdict in a reply; a preference is for the answer shown first.

    Raise VerdictParseError if there is none, or if the reply has different ones.
    """
    parsed = _parsed(grammar)
    if parsed.items:
        return weighted(parsed.items, _scores(parsed.items, marks(grammar, reply)))
    found_marks = marks(grammar, reply)
    if not found_marks:
        raise VerdictParseError(f"no verdict in double brackets in the judge's reply: {_tail(reply)}", reaskable=True)
    if len(found_marks) > 1:
        raise VerdictParseError(f"different verdicts in one reply: {_listed(found_marks)}", reason="conflict")
    mark = found_marks.pop()
    if parsed.labels:
        points, weight = parsed.labels[mark]
        return Preference(value=points, strength=2 if weight == STRONG else 1)
    low, high = parsed.scale
    if not low <= float(mark) <= high:
        raise VerdictParseError(f"rating {mark} is outside {low:g}..{high:g}")
    return Rating(value=float(mark), low=low, high=high)


def marks(grammar: str, text: str) -> set[str]:
    """Return the different verdicts of this grammar that a text contains, e.g. to tell a quotation."""
    parsed = _parsed(grammar)
    bracketed = [mark.strip() for mark in MARK.findall(text)]
    if parsed.labels:
        by_upper = {label.upper(): label for label in parsed.labels}
        return {by_upper[mark.upper()] for mark in bracketed if mark.upper() in by_upper}
    if not parsed.items:
        return {f"{float(mark):g}" for mark in bracketed if NUMBER.fullmatch(mark)}
    pairs = [match for mark in bracketed if (match := ITEM.fullmatch(mark)) and int(match[1]) <= len(parsed.items)]
    return {f"{int(match[1])}: {match[2].lower()}" for match in pairs}


def weighted(items: Sequence[Item], scores: Mapping[str, float]) -> Rating:
    """Return the rubric's score, in percent of the points of all items of positive weight, with each item's score.

    It is below 0 if more points are taken off than given.
    """
    positive, low = sum(item.weight for item in items if item.weight > 0), lowest_share(items)
    value = 100 * sum(item.weight * item.share(scores[item.name]) for item in items) / positive
    return Rating(value=min(100.0, max(low, value)), low=low, high=100.0, items=dict(scores))


def lowest_share(items: Sequence[Item]) -> float:
    """Return the lowest score of a rubric, in percent: below 0 if points are taken off, 0 without items."""
    given = sum(item.weight for item in items if item.weight > 0)
    return 100 * sum(item.weight for item in items if item.weight < 0) / given if given else 0.0


def _scores(items: Sequence[Item], item_marks: set[str]) -> dict[str, float]:
    """Return item name -> score; raise VerdictParseError for a missing, doubled or unreadable one."""
    scores: dict[str, float] = {}
    for mark in sorted(item_marks):
        number, _, word = mark.partition(": ")
        if int(number) < 1:
            continue
        item = items[int(number) - 1]
        if item.name in scores:
            raise VerdictParseError(f"different scores of item {number} ({item.name}) in one reply", reason="conflict")
        scores[item.name] = _score(item, word)
    missing = [f"{number} ({item.name})" for number, item in enumerate(items, start=1) if item.name not in scores]
    if missing:
        raise VerdictParseError(f"no score of item {', '.join(missing[:5])} in the judge's reply", reaskable=True)
    return {item.name: scores[item.name] for item in items}


def _score(item: Item, word: str) -> float:
    if item.is_yes_or_no and word in WORDS:
        return WORDS[word]
    if not NUMBER.fullmatch(word):
        raise VerdictParseError(f"the score of item {item.name} is not a number: {word[:20]!r}", reaskable=True)
    if not item.low <= float(word) <= item.high:
        raise VerdictParseError(f"the score of item {item.name}, {word}, is outside {item.low:g}..{item.high:g}")
    return float(word)


@dataclass(frozen=True)
class ParsedGrammar:
    """A grammar read from its text: labels, items, or else a scale."""

    labels: Labels
    items: tuple[Item, ...]
    scale: tuple[float, float]


@lru_cache(maxsize=256)
def _parsed(grammar: str) -> ParsedGrammar:
    prefix = next(prefix for prefix in PREFIXES if grammar.startswith(prefix))
    content = json.loads(grammar.removeprefix(prefix))
    return ParsedGrammar(
        labels={label: (points, weight) for label, (points, weight) in content.items()} if prefix == "labels:" else {},
        items=tuple(Item(**item) for item in content) if prefix == "items:" else (),
        scale=(float(content[0]), float(content[1])) if prefix == "scale:" else (0.0, 0.0),
    )


def _listed(found_marks: set[str]) -> str:
    return ", ".join(f"[[{mark[:20]}]]" for mark in sorted(found_marks)[:5])


def _tail(reply: str) -> str:
    return repr(reply[-80:]) if reply.strip() else "it is empty"
