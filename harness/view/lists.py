"""Choose which questions a list shows, and in which order, from the query of an address. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from .index import FLAGS, Index, Line

SORTS = {"": "as asked", "score": "lowest score", "-score": "highest score", "-length": "longest answer"}


@dataclass(frozen=True)
class Choice:
    """The choices of a list; unknown values show everything."""

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
        """Return the choice as a URL query, with more parameters before it."""
        named = {"category": self.category, "flag": self.flag, "q": self.words, "sort": self.sort}
        return urlencode({name: value for name, value in {**more, **named}.items() if value})


def chosen(index: Index, choice: Choice, ids: Collection[str] | None) -> list[Line]:
    """Return the lines of a choice; `ids`: questions that contain its words, None without words."""
    lines = [
        line
        for line in index.lines
        if (not choice.category or line.category == choice.category)
        and (not choice.flag or choice.flag in line.flags)
        and (ids is None or line.id in ids)
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
class LinePair:
    """One question of two runs."""

    a: Line
    b: Line
    difference: float | None
    """B's score minus A's."""
    changed: bool
    """One wins what the other does not (preferences), or the rating changes by 3 or more."""


def pairs(a: Index, b: Index, *, middle: float | None) -> list[LinePair]:
    """Return the questions that both runs have, in A's order. `middle`: the score of a draw; None for ratings."""
    lines_b = {line.id: line for line in b.lines}
    matched = []
    for line in a.lines:
        line_b = lines_b.get(line.id)
        if line_b is None:
            continue
        both = line.score is not None and line_b.score is not None
        difference = (line_b.score or 0.0) - (line.score or 0.0) if both else None
        matched.append(LinePair(line, line_b, difference, _changed(line.score, line_b.score, middle)))
    return matched


RATING_STEP = 3.0
"""Points of ten; repeated ratings of one answer rarely differ by more than two."""


def _changed(a: float | None, b: float | None, middle: float | None) -> bool:
    if a is None or b is None:
        return False
    return abs(a - b) >= RATING_STEP if middle is None else (a > middle) != (b > middle)


def chosen_pairs(candidates: Sequence[LinePair], choice: Choice, ids: Collection[str] | None) -> list[LinePair]:
    kept = [
        pair
        for pair in candidates
        if (not choice.category or pair.a.category == choice.category)
        and (ids is None or pair.a.id in ids)
        and _is(pair, choice.flag)
    ]
    if choice.sort in ("drop", "gain"):
        sign = 1 if choice.sort == "drop" else -1
        kept.sort(key=lambda pair: (pair.difference is None, sign * (pair.difference or 0.0)))
    return kept


def _is(pair: LinePair, flag: str) -> bool:
    if flag == "changed":
        return pair.changed
    if flag in ("worse", "better"):
        return pair.difference is not None and (pair.difference < 0) == (flag == "worse") and pair.difference != 0
    return not flag or flag in pair.a.flags or flag in pair.b.flags
