"""Pool the differences of several suites into one, in the unit of the first suite's metric. Pure.

The suites must measure the same thing: their metrics then move together from model to model, and a slope converts one
into the other. Facts state the slopes of published boards; `slopes_of` estimates them from the user's own cards.

>>> from harness.records.facts import facts_of
>>> facts_of("arena_hard").metric("arena_hard").slope  # points per point of the length-controlled win rate
1.79
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from ...records import Record, ScoreCard
from ...records.facts import facts_of
from ...stats.combined import disagreement, pooled, slope_between
from ...stats.paired import detectable
from ..differences import ALPHA, Difference
from .policy import GateCheck

FEWEST_MODELS = 5
"""With fewer models on both boards the slope could be half or twice the one printed."""


def pooled_difference(check: GateCheck, rows: Sequence[Difference]) -> tuple[Difference | None, str | None]:
    """Return one difference from those of the check's suites, in their order, or None; and what speaks against it.

    `first` and `other` are the values of the first suite; `value` is the pooled difference.
    """
    unit = rows[0].metric
    slopes = [_slope(check, suite, row.metric, unit) for suite, row in zip(check.pooled, rows, strict=True)]
    known = [slope for slope in slopes if slope is not None]
    if len(known) < len(slopes):
        unknown = [check.pooled[at] for at, slope in enumerate(slopes) if slope is None]
        return None, f"no slope of {', '.join(unknown)} is known; state it in the check (`harness gate slopes`)"
    if not all(row.estimate().varies for row in rows):
        return None, "a suite's questions all have the same difference, so it has no weight"
    estimates = [row.estimate() for row in rows]
    estimate, p = pooled(estimates, known), disagreement(estimates, known)
    values = ", ".join(f"{row.value / slope:+.2f}" for row, slope in zip(rows, known, strict=True))
    note = f"its suites disagree, so look at each: {values} in points of {unit} (p {p:.2g})" if p < ALPHA else None
    low, high = estimate.interval()
    update = {
        "category": None,
        "value": estimate.value,
        "ci_low": low,
        "ci_high": high,
        "se": estimate.se,
        "df": int(estimate.df),
        "p": estimate.p_two_sided(),
        "p_adjusted": None,
        "detectable": detectable(estimate.se, alpha=ALPHA / 2),
        "needed": None,
        "n": estimate.n,
        "correlation": None,
        "method": "pooled",
    }
    return rows[0].model_copy(update=update), note


def _slope(check: GateCheck, suite: str, metric: str, unit: str) -> float | None:
    """Return the points of a suite's metric per point of the first suite's; None if it is unknown."""
    if suite == check.pooled[0]:
        return 1.0
    if suite in check.slopes:
        return check.slopes[suite]
    slope, slope_of_unit = facts_of(suite).metric(metric).slope, facts_of(check.pooled[0]).metric(unit).slope
    return None if slope is None or slope_of_unit is None else slope / slope_of_unit


class Slope(Record):
    """How two suites' headlines move together over models."""

    first: str
    second: str
    first_metric: str
    second_metric: str
    models: int
    slope: float
    """Points of the second per point of the first: the ratio of their standard deviations."""
    correlation: float
    """On the logit scale. Below about 0.9 the suites measure different things, and pooling them hides a loss."""
    stated: float | None
    """The slope that the facts state; None: none."""


def slopes_of(cards: Iterable[ScoreCard]) -> list[Slope]:
    """Return the slope of each pair of suites with `FEWEST_MODELS` models in common, of percentages only.

    Cards of one suite count only if they have its most frequent protocol, and the last of a model's cards.
    """
    by_board: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for card in cards:
        value = card.scores[card.headline].value
        if card.complete and value is not None and facts_of(card.suite).metric(card.headline).unit == "percent":
            by_board[card.suite, card.protocol_sha][card.model] = value
    boards: dict[str, dict[str, float]] = {}
    for (suite, _), values in by_board.items():
        if len(values) > len(boards.get(suite, ())):
            boards[suite] = values
    rows = []
    for first, second in combinations(boards, 2):
        models = sorted(boards[first].keys() & boards[second].keys())
        scores = [np.array([boards[suite][model] for model in models], float) for suite in (first, second)]
        if len(models) < FEWEST_MODELS or not all(np.ptp(board) for board in scores):
            continue
        slope, correlation = slope_between(scores[0], scores[1])
        metrics = [facts_of(suite).metric(facts_of(suite).headline) for suite in (first, second)]
        known = metrics[0].slope is not None and metrics[1].slope is not None
        rows.append(
            Slope(
                first=first,
                second=second,
                first_metric=metrics[0].name,
                second_metric=metrics[1].name,
                models=len(models),
                slope=slope,
                correlation=correlation,
                stated=(metrics[1].slope or 0.0) / (metrics[0].slope or 1.0) if known else None,
            )
        )
    return rows
