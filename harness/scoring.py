"""Turn judgments into scores: what the suites' scorers share. Pure.

A score is a ratio of sums over questions (for a mean, the sum over the count), so that one bootstrap over questions
serves all suites. A slot without a verdict counts as unscored and adds nothing to either sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .records import Answer, Judgment, Order, Preference, Prompt, Score, Verdict
from .stats.intervals import Interval, ratio_interval

MIN_SCORED = 0.9
"""A card with a smaller scored share has complete=False and is never ranked (specs: 90 %)."""


def is_complete(headline: Score) -> bool:
    """Return whether enough was scored to rank a card by this score."""
    return headline.value is not None and headline.n >= MIN_SCORED * (headline.n + headline.unscored)


@dataclass(frozen=True)
class Slot:
    """The unit of judging: a turn, a game or an instruction of one answer."""

    prompt_id: str
    index: int = 0
    turn: int | None = None
    order: Order | None = None


@dataclass(frozen=True)
class Unit:
    """One scored slot: its terms of numerator and denominator."""

    prompt_id: str
    value: float
    weight: float = 1.0


Verdicts = Mapping[Slot, Sequence[Verdict]]
STRONG_WEIGHT = 3.0  # arena-hard-auto show_result.py WEIGHT: a ">>" verdict counts as three battles


def latest_answers(answers: Iterable[Answer]) -> dict[tuple[str, int], Answer]:
    """Return (prompt id, index) -> answer; the last answer wins."""
    return {(answer.prompt_id, answer.index): answer for answer in answers}


def verdicts_by_slot(judgments: Sequence[Judgment], answers: Iterable[Answer], *, ordered: bool = True) -> Verdicts:
    """Return the verdicts of each slot, one per repeat; of several judgments with one key the last wins.

    A judgment of a text other than the current answer's is left out. `ordered` False: a slot's two orders are one.
    """
    named = any(judgment.answer_sha is not None for judgment in judgments)  # else no digest is needed
    current = {key: answer.sha for key, answer in latest_answers(answers).items()} if named else {}
    last = {judgment.key: judgment for judgment in judgments}
    verdicts: dict[Slot, list[Verdict]] = defaultdict(list)
    for _, judgment in sorted(last.items()):  # the order of arrival must not move the last digit of a mean
        stale = judgment.answer_sha not in (None, current.get((judgment.prompt_id, judgment.index)))
        if judgment.verdict is not None and not stale:
            order = judgment.order if ordered else None
            verdicts[Slot(judgment.prompt_id, judgment.index, judgment.turn, order)].append(judgment.verdict)
    return verdicts


def verdict_weight(verdict: Verdict) -> float:
    return STRONG_WEIGHT if isinstance(verdict, Preference) and verdict.strength == 2 else 1.0


def slot_unit(prompt_id: str, verdicts: Sequence[Verdict]) -> Unit:
    """Return a scored slot as weighted value and weight; repeats of a judgment count as their mean."""
    weights = [verdict_weight(verdict) for verdict in verdicts]
    values = [weight * verdict.value for weight, verdict in zip(weights, verdicts, strict=True)]
    return Unit(prompt_id, value=sum(values) / len(values), weight=sum(weights) / len(weights))


def draws(answers: Iterable[Answer]) -> int:
    """Return answers per prompt: one more than the highest index; 1 if there is no answer."""
    return 1 + max((answer.index for answer in answers), default=0)


def mean_score(
    units: Sequence[Unit], expected: int, *, scale: float = 1.0, seed: int = 0, intervals: bool = True
) -> Score:
    """Return scale * sum(values) / sum(weights) with its 95 % interval over questions; no value if nothing is
    scored."""
    unscored = max(0, expected - len(units))
    below = sum(unit.weight for unit in units)
    if not below:
        return Score(value=None, n=0, unscored=expected)
    value = scale * sum(unit.value for unit in units) / below
    interval = _interval(units, seed) if intervals else None
    if interval is None:
        return Score(value=value, n=len(units), unscored=unscored)
    return Score(
        value=value,
        ci_low=scale * interval.low,
        ci_high=scale * interval.high,
        se=scale * interval.se,
        n=len(units),
        unscored=unscored,
    )


def _interval(units: Sequence[Unit], seed: int) -> Interval | None:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for unit in units:
        sums[unit.prompt_id][0] += unit.value
        sums[unit.prompt_id][1] += unit.weight
    table = np.array(list(sums.values()))
    return ratio_interval(table[:, 0], table[:, 1], seed=seed)


def categories(prompts: Iterable[Prompt]) -> dict[str, list[str]]:
    """Return category -> ids of its prompts in the prompts' order, because a seeded bootstrap depends on it."""
    ids_by_category: dict[str, list[str]] = {}
    for prompt in prompts:
        ids_by_category.setdefault(prompt.category, []).append(prompt.id)
    return ids_by_category


def unscored_note(score: Score, unit: str) -> tuple[str, ...]:
    """Return one sentence for the card if something is unscored."""
    if not score.unscored:
        return ()
    return (f"{score.unscored} of {score.n + score.unscored} {unit} are unscored",)
