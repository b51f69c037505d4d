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
"""A question rated so many points better or worse has flipped: twice the step most judges use."""
CONTRADICTION = 0.5
"""Two orders whose preferences differ by more contradict each other: a win in one, a loss in the other."""


class Flip(Record):
    """A question that one model wins and the other loses; of ratings, one that moved by two points and more."""

    prompt_id: str
    category: str | None
    first: float
    other: float
    """Scores of this question in the metric's unit."""
    kind: Literal["gained", "lost"]
    """By the other."""
    doubtful: bool = False
    """The judge contradicted itself between the two orders, for one of the two models."""


class Shift(Record):
    """A quantity of the answers that both gave, other minus first, with its 95 % interval."""

    name: str
    first: float
    other: float
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int


class Orders(Record):
    """How far the verdicts hang on which answer was shown first."""

    judged_twice: int
    """Questions that both models have in both orders."""
    first: int
    other: int
    """Of them, contradictory for this model."""
    either: tuple[str, ...]
    """Ids of those contradictory for one or the other."""
    without: float | None
    """The difference without these questions."""


def flips(
    first: QuestionSums, other: QuestionSums, categories: Mapping[str, str], doubts: Orders | None
) -> tuple[Flip, ...]:
    """The largest changes first."""
    rating = first.scale == 1.0
    doubted = set(doubts.either) if doubts is not None else set()
    found = []
    for prompt_id, mine, theirs in zip(first.ids, first.scores(), other.scores(), strict=True):
        crossed = abs(theirs - mine) >= RATING_FLIP if rating else (mine - 50) * (theirs - 50) < 0
        if crossed:
            found.append(
                Flip(
                    prompt_id=prompt_id,
                    category=categories.get(prompt_id),
                    first=float(mine),
                    other=float(theirs),
                    kind="gained" if theirs > mine else "lost",
                    doubtful=prompt_id in doubted,
                )
            )
    return tuple(sorted(found, key=lambda one: -abs(one.other - one.first)))


def order_doubts(
    first_answers: Sequence[Answer],
    first_judgments: Sequence[Judgment],
    other_answers: Sequence[Answer],
    other_judgments: Sequence[Judgment],
    main: tuple[QuestionSums, QuestionSums] | None,
) -> Orders | None:
    """None where no question was judged in both orders for both models."""
    mine = disagreements(first_answers, first_judgments)
    theirs = disagreements(other_answers, other_judgments)
    both = [one for one in mine if one in theirs]
    if not both or main is None:
        return None
    doubted = [one for one in both if max(mine[one], theirs[one]) > CONTRADICTION]
    kept = [one for one in main[0].ids if one not in set(doubted)]
    values = [part.of(kept).value for part in main]
    return Orders(
        judged_twice=len(both),
        first=sum(mine[one] > CONTRADICTION for one in both),
        other=sum(theirs[one] > CONTRADICTION for one in both),
        either=tuple(doubted),
        without=None if values[0] is None or values[1] is None else values[1] - values[0],
    )


def shifts(first: Sequence[Answer], other: Sequence[Answer]) -> tuple[Shift, ...]:
    """Characters, tokens (where both runs have counts) and truncated answers, over the answers both gave."""
    mine, theirs = latest_answers(first), latest_answers(other)
    keys = [key for key in mine if key in theirs and mine[key].error is None and theirs[key].error is None]
    measures: dict[str, Callable[[Answer], float]] = {
        "characters": lambda answer: sum(map(len, answer.turns)),
        "tokens": lambda answer: sum(answer.completion_tokens),
        "truncated, percent": lambda answer: 100.0 * answer.truncated,
    }
    found = []
    for name, measure in measures.items():
        pair = [np.array([measure(part[key]) for key in keys], dtype=np.float64) for part in (mine, theirs)]
        known = name != "tokens" or all(mine[key].completion_tokens and theirs[key].completion_tokens for key in keys)
        if len(keys) >= 2 and known:
            found.append(_shift(name, pair[0], pair[1], [key[0] for key in keys]))
    return tuple(found)


def _shift(name: str, mine: FloatArray, theirs: FloatArray, clusters: Sequence[str]) -> Shift:
    ones = np.ones(len(mine))
    estimate = paired_difference((theirs, ones), (mine, ones), clusters=clusters)
    low, high = estimate.interval() if estimate is not None else (None, None)
    return Shift(
        name=name,
        first=float(mine.mean()),
        other=float(theirs.mean()),
        value=float(theirs.mean() - mine.mean()),
        ci_low=low,
        ci_high=high,
        n=len(mine),
    )
