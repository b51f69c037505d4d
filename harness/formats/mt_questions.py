"""Which questions MT-Bench has, known from their numbers alone: no file is needed to score judgments."""

from __future__ import annotations

from collections.abc import Collection

from ..records import Prompt

FIRST, LAST = 81, 160  # question.jsonl at the pinned revision: ten questions a category, in this order
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
OFFICIAL = {str(number): CATEGORIES[(number - FIRST) // 10] for number in range(FIRST, LAST + 1)}
OTHER = "other"


def is_official(ids: Collection[str]) -> bool:
    """Whether all these question ids are MT-Bench's."""
    return all(one in OFFICIAL for one in ids)


def questions(ids: Collection[str], turns: int) -> list[Prompt]:
    """The 80 questions where `ids` are among them (what is missing is then known), else the questions seen.

    Texts are empty: scoring needs ids, categories and the number of turns only.
    """
    wanted = OFFICIAL if is_official(ids) else {one: OFFICIAL.get(one, OTHER) for one in ids}
    return [Prompt(id=one, turns=("",) * turns, category=category) for one, category in wanted.items()]
