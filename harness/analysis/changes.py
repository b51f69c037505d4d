"""What changed between two runs of one suite: questions won and lost, doubts about order, the answers themselves. Pure.

>>> from harness.records import Answer
>>> def answers(text): return [Answer(prompt_id=name, model="m", turns=(text,), finish=("stop",)) for name in "ab"]
>>> shift = shifts(answers("four"), answers("fourteen"))[0]
>>> shift.name, shift.value
('characters', 4.0)

The first run is the reference, as in `comparison`: "gained" is what the second run wins and the first does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from ..records import Answer, Record
from ..records.protocols import RunRows
from ..stats.intervals import FloatArray
from ..stats.paired import paired_difference
from ..suites.scoring import QuestionSums, disagreements, latest_answers

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


def has_flipped(score: float, other_score: float, *, middle: float | None) -> bool:
    """Return whether a question flips. `middle`: the score of a draw; None: ratings."""
    if middle is None:
        return abs(other_score - score) >= RATING_FLIP
    return (score - middle) * (other_score - middle) < 0


def flips(
    first: QuestionSums,
    second: QuestionSums,
    categories: Mapping[str, str],
    doubts: Orders | None,
    *,
    middle: float | None,
    less_is_better: bool = False,
) -> tuple[Flip, ...]:
    """Return the flipped questions, the largest changes first. `middle`: the score of a draw; None: ratings."""
    contradicted = set(doubts.either) if doubts is not None else set()
    flipped = []
    for prompt_id, score, other_score in zip(first.ids, first.scores(), second.scores(), strict=True):
        if has_flipped(score, other_score, middle=middle):
            flipped.append(
                Flip(
                    prompt_id=prompt_id,
                    category=categories.get(prompt_id),
                    first=float(score),
                    other=float(other_score),
                    kind="gained" if (other_score > score) != less_is_better else "lost",
                    doubtful=prompt_id in contradicted,
                )
            )
    return tuple(sorted(flipped, key=lambda flip: -abs(flip.other - flip.first)))


def order_doubts(first: RunRows, second: RunRows, main: tuple[QuestionSums, QuestionSums] | None) -> Orders | None:
    """Return doubts about order, or None if no question was judged in both orders for both models."""
    gaps, other_gaps = (disagreements(run.answers, run.judgments) for run in (first, second))
    both = [prompt_id for prompt_id in gaps if prompt_id in other_gaps]
    if not both or main is None:
        return None
    # a question counts as doubtful even if only one model's verdict depends on the order
    doubted = [prompt_id for prompt_id in both if max(gaps[prompt_id], other_gaps[prompt_id]) > CONTRADICTION]
    kept = [prompt_id for prompt_id in main[0].ids if prompt_id not in set(doubted)]
    value, other_value = (sums.of(kept).value for sums in main)
    return Orders(
        judged_twice=len(both),
        first=sum(gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        other=sum(other_gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        either=tuple(doubted),
        without=None if value is None or other_value is None else other_value - value,
    )


def shifts(first: Sequence[Answer], second: Sequence[Answer]) -> tuple[AnswerShift, ...]:
    """Return shifts of characters, tokens (if both runs count them) and truncation, over the answers that both gave."""
    first_answers, second_answers = latest_answers(first), latest_answers(second)
    keys = [
        key
        for key, answer in first_answers.items()
        if answer.error is None and key in second_answers and second_answers[key].error is None
    ]
    measures: dict[str, Callable[[Answer], float]] = {
        "characters": lambda answer: sum(map(len, answer.turns)),
        "tokens": lambda answer: answer.visible_tokens or 0,
        "truncated, percent": lambda answer: 100.0 * answer.truncated,
    }
    # imported runs often count no tokens; a zero would look like a shift
    if any(answers[key].visible_tokens is None for key in keys for answers in (first_answers, second_answers)):
        del measures["tokens"]
    if len(keys) < 2:
        return ()
    rows = []
    for name, measure in measures.items():
        values = [
            np.array([measure(answers[key]) for key in keys], float) for answers in (first_answers, second_answers)
        ]
        rows.append(_shift(name, values[0], values[1], [key[0] for key in keys]))
    return tuple(rows)


def _shift(name: str, first: FloatArray, second: FloatArray, clusters: Sequence[str]) -> AnswerShift:
    weights = np.ones(len(first))
    estimate = paired_difference((second, weights), (first, weights), clusters=clusters)
    low, high = estimate.interval() if estimate is not None and estimate.varies else (None, None)
    return AnswerShift(
        name=name,
        first=float(first.mean()),
        other=float(second.mean()),
        value=float(second.mean() - first.mean()),
        ci_low=low,
        ci_high=high,
        n=len(first),
    )
