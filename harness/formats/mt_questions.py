"""MT-Bench's questions, known from their numbers: scoring judgments needs no data file."""

from __future__ import annotations

from collections.abc import Collection

from ..records import Prompt

FIRST, LAST = 81, 160  # question.jsonl at the pinned revision: ten questions per category, in this order
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
OFFICIAL = {str(number): CATEGORIES[(number - FIRST) // 10] for number in range(FIRST, LAST + 1)}
OTHER = "other"


def is_official(ids: Collection[str]) -> bool:
    """Return whether all these question ids are MT-Bench's."""
    return all(question_id in OFFICIAL for question_id in ids)


def questions(ids: Collection[str], turns: int) -> list[Prompt]:
    """Return the 80 questions if all `ids` are among them, so that missing ones are known; else the ids themselves.

    Texts are empty: scoring needs only ids, categories and the number of turns.
    """
    wanted = OFFICIAL if is_official(ids) else {question_id: OFFICIAL.get(question_id, OTHER) for question_id in ids}
    return [Prompt(id=question_id, turns=("",) * turns, category=category) for question_id, category in wanted.items()]
