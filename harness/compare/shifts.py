"""What changed between two runs besides the score: flipped questions, lengths, truncation, doubtful verdicts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from ..questions import QuestionSums, disagreements
from ..records import Answer, Judgment, Record
from ..scoring import latest_answers
from ..stats.intervals import FloatArray
from ..stats.paired import paired_difference

RATING_FLIP = 2.0
"""A question flips if its rating moves by this many points: twice the step that most judges use."""
CONTRADICTION = 0.5
"""Two orders contradict each other if their preferences differ by more: a win in one, a loss in the other."""


class Flip(Record):
    """A question that one model wins and the other loses; with ratings, one that moved by two points or more."""

    prompt_id: str
    category: str | None
    first: float
    other: float
    """The question's scores in the metric's unit."""
    kind: Literal["gained", "lost"]
    """From the other model's point of view."""
    doubtful: bool = False
    """The judge contradicted itself between the two orders, for at least one of the two models."""


class AnswerShift(Record):
    """A quantity of the answers that both gave: other minus first, with its 95 % interval."""

    name: str
    first: float
    other: float
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int


class Orders(Record):
    """How much the verdicts depend on which answer was shown first."""

    judged_twice: int
    """Questions judged in both orders for both models."""
    first: int
    other: int
    """Of these, contradictory for this model."""
    either: tuple[str, ...]
    """Ids of those contradictory for at least one of the two."""
    without: float | None
    """The headline difference without these questions."""


def flips(
    first: QuestionSums, second: QuestionSums, categories: Mapping[str, str], doubts: Orders | None
) -> tuple[Flip, ...]:
    """Return the flipped questions, the largest changes first."""
    rating = first.scale == 1.0
    doubted = set(doubts.either) if doubts is not None else set()
    flipped = []
    for prompt_id, first_score, second_score in zip(first.ids, first.scores(), second.scores(), strict=True):
        crossed = (
            abs(second_score - first_score) >= RATING_FLIP if rating else (first_score - 50) * (second_score - 50) < 0
        )
        if crossed:
            flipped.append(
                Flip(
                    prompt_id=prompt_id,
                    category=categories.get(prompt_id),
                    first=float(first_score),
                    other=float(second_score),
                    kind="gained" if second_score > first_score else "lost",
                    doubtful=prompt_id in doubted,
                )
            )
    return tuple(sorted(flipped, key=lambda flip: -abs(flip.other - flip.first)))


def order_doubts(
    first_answers: Sequence[Answer],
    first_judgments: Sequence[Judgment],
    other_answers: Sequence[Answer],
    other_judgments: Sequence[Judgment],
    main: tuple[QuestionSums, QuestionSums] | None,
) -> Orders | None:
    """Return doubts about order, or None if no question was judged in both orders for both models."""
    first_gaps = disagreements(first_answers, first_judgments)
    second_gaps = disagreements(other_answers, other_judgments)
    both = [prompt_id for prompt_id in first_gaps if prompt_id in second_gaps]
    if not both or main is None:
        return None
    doubted = [prompt_id for prompt_id in both if max(first_gaps[prompt_id], second_gaps[prompt_id]) > CONTRADICTION]
    kept = [prompt_id for prompt_id in main[0].ids if prompt_id not in set(doubted)]
    values = [part.of(kept).value for part in main]
    return Orders(
        judged_twice=len(both),
        first=sum(first_gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        other=sum(second_gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        either=tuple(doubted),
        without=None if values[0] is None or values[1] is None else values[1] - values[0],
    )


def shifts(first: Sequence[Answer], second: Sequence[Answer]) -> tuple[AnswerShift, ...]:
    """Return shifts of characters, tokens (if both runs count them) and truncation, over the answers that both gave."""
    first_answers, second_answers = latest_answers(first), latest_answers(second)
    keys = [
        key
        for key in first_answers
        if key in second_answers and first_answers[key].error is None and second_answers[key].error is None
    ]
    measures: dict[str, Callable[[Answer], float]] = {
        "characters": lambda answer: sum(map(len, answer.turns)),
        "tokens": lambda answer: sum(answer.completion_tokens),
        "truncated, percent": lambda answer: 100.0 * answer.truncated,
    }
    measured = []
    for name, measure in measures.items():
        pair = [
            np.array([measure(part[key]) for key in keys], dtype=np.float64) for part in (first_answers, second_answers)
        ]
        known = name != "tokens" or all(
            first_answers[key].completion_tokens and second_answers[key].completion_tokens for key in keys
        )
        if len(keys) >= 2 and known:
            measured.append(_shift(name, pair[0], pair[1], [key[0] for key in keys]))
    return tuple(measured)


def _shift(name: str, first: FloatArray, second: FloatArray, clusters: Sequence[str]) -> AnswerShift:
    weights = np.ones(len(first))
    estimate = paired_difference((second, weights), (first, weights), clusters=clusters)
    low, high = estimate.interval() if estimate is not None else (None, None)
    return AnswerShift(
        name=name,
        first=float(first.mean()),
        other=float(second.mean()),
        value=float(second.mean() - first.mean()),
        ci_low=low,
        ci_high=high,
        n=len(first),
    )
