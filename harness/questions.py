"""Stored judgments -> what each question adds to a suite's score, above and below the line. Pure.

Every judged headline but the length-controlled one is a ratio of sums over questions: `QuestionSums` holds the terms.
Comparison, gate, viewer and leaderboard all read these, so their numbers are the score card's own. No suite data are
needed; categories are a mapping that the caller brings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .records import Answer, Judgment, Rating
from .scoring import Slot, Unit, Verdicts, slot_unit, verdicts_by_slot
from .stats.intervals import FloatArray


@dataclass(frozen=True)
class QuestionRule:
    """How a metric is made of verdicts."""

    metric: str
    scale: float
    """100 for rates, 1 for ratings."""
    turn: int | None = None
    """Only verdicts on this turn count."""
    ordered: bool = True
    """False: both orders of showing are one slot, as where a question has a single game (AlpacaEval)."""
    whole_pairs: bool = False
    """An answer with a verdict in only one order is left out whole (Arena-Hard v2.0)."""
    category: str | None = None
    """Only this category's questions count (Arena-Hard v2.0's headline)."""


RULES: dict[str, tuple[QuestionRule, ...]] = {
    "mt_bench": (
        QuestionRule("mt_bench", 1.0),
        QuestionRule("turn_1", 1.0, turn=1),
        QuestionRule("turn_2", 1.0, turn=2),
    ),
    "alpaca_eval": (QuestionRule("win_rate", 100.0, ordered=False),),
    "arena_hard": (QuestionRule("arena_hard", 100.0),),
    "arena_hard_v2": (
        QuestionRule("arena_hard", 100.0, whole_pairs=True, category="hard_prompt"),
        QuestionRule("creative_writing", 100.0, whole_pairs=True, category="creative_writing"),
    ),
}
"""Suite -> its metrics that are ratios over questions, the main one first."""


@dataclass(frozen=True)
class QuestionSums:
    """The terms of `scale * sum(above) / sum(below)`; arrays of shape (questions,), below > 0."""

    metric: str
    scale: float
    ids: tuple[str, ...]
    above: FloatArray
    below: FloatArray

    @property
    def value(self) -> float | None:
        """The metric; None where nothing is scored."""
        total = float(self.below.sum())
        return self.scale * float(self.above.sum()) / total if total else None

    def of(self, ids: Iterable[str]) -> QuestionSums:
        """These questions' terms, in the order given; those without a verdict are left out."""
        place = {one: at for at, one in enumerate(self.ids)}
        kept = [one for one in ids if one in place]
        at = np.array([place[one] for one in kept], dtype=np.int64)
        return QuestionSums(self.metric, self.scale, tuple(kept), self.above[at], self.below[at])

    def scores(self) -> FloatArray:
        """Each question's own score in the metric's unit, shape (questions,)."""
        found: FloatArray = self.scale * self.above / self.below
        return found


def rules_of(suite: str, headline: str, judgments: Iterable[Judgment]) -> tuple[QuestionRule, ...]:
    """The suite's metrics; of a suite from elsewhere its headline, a rating's mean or a preference's rate."""
    if suite in RULES:
        return RULES[suite]
    verdict = next((row.verdict for row in judgments if row.verdict is not None), None)
    return (QuestionRule(headline, 1.0 if isinstance(verdict, Rating) else 100.0),)


def question_sums(
    rule: QuestionRule,
    answers: Sequence[Answer],
    judgments: Sequence[Judgment],
    *,
    categories: Mapping[str, str] | None = None,
) -> QuestionSums:
    """The metric's terms, questions in natural order of their ids.

    `categories`: question id -> category of the questions asked; others are left out. Without it all count, and a rule
    for one category cannot be followed: the caller compares `value` with the card's.
    """
    found = verdicts_by_slot(judgments, answers, ordered=rule.ordered)
    asked = None if categories is None else _asked(categories, rule.category)
    return sums_of_units(rule.metric, rule.scale, units(rule, found, asked))


def _asked(categories: Mapping[str, str], category: str | None) -> set[str]:
    return {one for one, own in categories.items() if category is None or own == category}


def units(rule: QuestionRule, found: Verdicts, asked: Collection[str] | None = None) -> list[Unit]:
    """One unit a scored slot; repeats of a judgment count as their mean."""
    whole = _whole(found) if rule.whole_pairs else None
    return [
        slot_unit(slot.prompt_id, verdicts)
        for slot, verdicts in found.items()
        if verdicts
        and (asked is None or slot.prompt_id in asked)
        and (rule.turn is None or slot.turn == rule.turn)
        and (whole is None or (slot.prompt_id, slot.index) in whole)
    ]


def _whole(found: Verdicts) -> set[tuple[str, int]]:
    """Answers with a verdict in both orders."""
    orders: dict[tuple[str, int], set[str | None]] = defaultdict(set)
    for slot in (one for one, verdicts in found.items() if verdicts):
        orders[slot.prompt_id, slot.index].add(slot.order)
    return {answer for answer, seen in orders.items() if {"ab", "ba"} <= seen}


def sums_of_units(metric: str, scale: float, scored: Iterable[Unit]) -> QuestionSums:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for unit in scored:
        sums[unit.prompt_id][0] += unit.value
        sums[unit.prompt_id][1] += unit.weight
    ids = tuple(sorted(sums, key=natural))
    table = np.array([sums[one] for one in ids], dtype=np.float64).reshape(-1, 2)
    return QuestionSums(metric, scale, ids, table[:, 0], table[:, 1])


def natural(prompt_id: str) -> tuple[int, int, str]:
    """Sort key: numbers by value, before words."""
    return (0, int(prompt_id), "") if prompt_id.isdecimal() and prompt_id.isascii() else (1, 0, prompt_id)


def common(parts: Sequence[QuestionSums]) -> list[QuestionSums]:
    """Each part cut to the questions that all of them have, in one order."""
    shared = set(parts[0].ids).intersection(*(part.ids for part in parts[1:]))
    ids = [one for one in parts[0].ids if one in shared]
    return [part.of(ids) for part in parts]


def disagreements(answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, float]:
    """Question id -> largest difference between the preferences of its two orders, 0..1; order-consistent ones are 0.

    Only answers judged in both orders count.
    """
    found = verdicts_by_slot(judgments, answers)
    spread: dict[str, float] = {}
    for slot, verdicts in found.items():
        other = found.get(Slot(slot.prompt_id, slot.index, slot.turn, "ba"), ())
        if slot.order == "ab" and verdicts and other:
            means = [sum(verdict.value for verdict in part) / len(part) for part in (verdicts, other)]
            spread[slot.prompt_id] = max(spread.get(slot.prompt_id, 0.0), abs(means[0] - means[1]))
    return spread
