"""Which questions a list shows, in which order: the choices of an address, applied to an index. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from .index import FLAGS, Index, Line

SORTS = {"": "as asked", "score": "lowest score", "-score": "highest score", "-length": "longest answer"}


@dataclass(frozen=True)
class Choice:
    """What a list was asked to show; unknown values show everything."""

    category: str = ""
    flag: str = ""
    words: str = ""
    sort: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        flag, sort = query.get("flag", ""), query.get("sort", "")
        return cls(
            category=query.get("category", ""),
            flag=flag if flag in (*FLAGS, "changed", "worse", "better") else "",
            words=query.get("q", "").strip()[:200],
            sort=sort if sort in SORTS or sort in DIFFERENCE_SORTS else "",
        )

    def query(self, **more: str) -> str:
        """The choice as the query part of an address, with more parameters before it."""
        named = {"category": self.category, "flag": self.flag, "q": self.words, "sort": self.sort}
        return urlencode({name: value for name, value in {**more, **named}.items() if value})


def chosen(index: Index, choice: Choice, found: Collection[str] | None) -> list[Line]:
    """The lines of a choice; `found`: ids that hold its words, None where it has none."""
    lines = [
        line
        for line in index.lines
        if (not choice.category or line.category == choice.category)
        and (not choice.flag or choice.flag in line.flags)
        and (found is None or line.id in found)
    ]
    if choice.sort in ("score", "-score"):
        sign = -1 if choice.sort == "-score" else 1
        lines.sort(key=lambda line: (line.score is None, sign * (line.score or 0.0)))
    if choice.sort == "-length":
        lines.sort(key=lambda line: -line.length)
    return lines


# --------------------------------------------------------------------------------------------------------- two runs

CHANGES = {"worse": "B lower than A", "better": "B higher than A", "changed": "the winner changes"}
DIFFERENCE_SORTS = {"": "as asked", "drop": "largest drop", "gain": "largest gain"}


@dataclass(frozen=True)
class Pair:
    """One question of two runs."""

    a: Line
    b: Line
    difference: float | None
    """B's score minus A's."""
    changed: bool
    """One wins what the other does not (preferences), or the rating moves by 3 or more."""


def pairs(a: Index, b: Index, *, middle: float | None) -> list[Pair]:
    """Questions that both runs have, in A's order. `middle`: the score of a draw; None for ratings."""
    others = {line.id: line for line in b.lines}
    found = []
    for line in a.lines:
        other = others.get(line.id)
        if other is None:
            continue
        both = line.score is not None and other.score is not None
        difference = (other.score or 0.0) - (line.score or 0.0) if both else None
        found.append(Pair(line, other, difference, _changed(line.score, other.score, middle)))
    return found


RATING_STEP = 3.0
"""Points of ten; repeated ratings of one answer seldom differ by more than two."""


def _changed(a: float | None, b: float | None, middle: float | None) -> bool:
    if a is None or b is None:
        return False
    return abs(a - b) >= RATING_STEP if middle is None else (a > middle) != (b > middle)


def chosen_pairs(found: Sequence[Pair], choice: Choice, ids: Collection[str] | None) -> list[Pair]:
    kept = [
        pair
        for pair in found
        if (not choice.category or pair.a.category == choice.category)
        and (ids is None or pair.a.id in ids)
        and _is(pair, choice.flag)
    ]
    if choice.sort in ("drop", "gain"):
        sign = 1 if choice.sort == "drop" else -1
        kept.sort(key=lambda pair: (pair.difference is None, sign * (pair.difference or 0.0)))
    return kept


def _is(pair: Pair, flag: str) -> bool:
    if flag == "changed":
        return pair.changed
    if flag in ("worse", "better"):
        return pair.difference is not None and (pair.difference < 0) == (flag == "worse") and pair.difference != 0
    return not flag or flag in pair.a.flags or flag in pair.b.flags
