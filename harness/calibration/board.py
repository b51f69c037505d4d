"""Models' scores under a judge: their order beside the published board, and what people would have said. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..records import Score
from ..stats.agreement import Measure, mean_measure, share_measure
from ..stats.correction import Corrected, JudgedSample, prediction_powered, rogan_gladen
from ..stats.intervals import FloatArray, Interval
from ..stats.rank_correlation import rank_correlation
from .bias import ENOUGH
from .items import Comparison, Item
from .measures import SaidOf, score_of


def shift(items: Sequence[Item], said: SaidOf, *, scale: float) -> Score:
    """Mean of the judge's numbers minus the retired judge's on the same items: what changing the judge adds."""
    rows = []
    for item in items:
        value = said[item.id].value if item.id in said else None
        if value is not None and item.recorded is not None:
            rows.append((value - item.recorded, item.question))
    return score_of(mean_measure(np.array([row[0] for row in rows]), [row[1] for row in rows]), scale=scale)


def board_scores(items: Sequence[Item], said: SaidOf, board: Mapping[str, float]) -> dict[str, Score]:
    """Spearman and Kendall of the candidates' mean numbers with the published board; {} under three models."""
    rows = [
        (_candidate(item), item.question, said[item.id].value)
        for item in items
        if item.id in said and said[item.id].value is not None and _candidate(item) in board
    ]
    models = sorted({model for model, _, _ in rows})
    questions = {question: place for place, question in enumerate(dict.fromkeys(row[1] for row in rows))}
    if len(models) < 3:
        return {}
    sums, counts = np.zeros((len(questions), len(models))), np.zeros((len(questions), len(models)))
    for model, question, value in rows:
        place = questions[question], models.index(model)
        sums[place] += value or 0.0
        counts[place] += 1
    found = rank_correlation(sums, counts, np.array([board[model] for model in models]))
    return {"spearman_board": score_of(found.spearman), "kendall_board": score_of(found.kendall)}


def _candidate(item: Item) -> str:
    return item.candidate if isinstance(item, Comparison) else item.model


# --------------------------------------------------------------------------------------------- what people would say


def win_rates(comparisons: Sequence[Comparison], said: SaidOf) -> dict[str, dict[str, Score]]:
    """Model -> its win rate, percent, over all comparisons it is in: the judge's, people's where they voted, and the
    judge's corrected by them. `judge` and `people` count a tie as half a win; `judge_decided` and `rogan_gladen` leave
    ties out; `prediction_powered` estimates people's, ties as half."""
    found = {}
    for model in sorted({name for item in comparisons for name in item.pair}):
        rows = _rows_of(model, comparisons, said)
        if len(rows.judge) >= ENOUGH and int((~np.isnan(rows.people)).sum()) >= ENOUGH:
            found[model] = _win_rates(rows)
    return found


def _rows_of(model: str, comparisons: Sequence[Comparison], said: SaidOf) -> JudgedSample:
    """A row a comparison, from the model's side; people's number is the mean of their votes."""
    judge, people, questions = [], [], []
    for item in comparisons:
        value = said[item.id].value if item.id in said else None
        if value is None or model not in item.pair:
            continue
        votes = float(np.mean(item.people)) if item.people else float("nan")
        mine = item.candidate == model
        judge.append(value if mine else 1 - value)
        people.append(votes if mine else 1 - votes)
        questions.append(item.question)
    return JudgedSample(np.array(judge), np.array(people), questions)


def _win_rates(rows: JudgedSample) -> dict[str, Score]:
    seen = ~np.isnan(rows.people)
    decided = rows.judge != 0.5
    return {
        "judge": _share(rows.judge, rows.clusters),
        "people": _share(rows.people[seen], _some(rows.clusters, seen.tolist())),
        "prediction_powered": _corrected(prediction_powered(rows, tuned=True), int(seen.sum())),
        "judge_decided": _share(rows.judge[decided], _some(rows.clusters, decided.tolist())),
        "rogan_gladen": _corrected(rogan_gladen(rows), int((seen & decided & (rows.people != 0.5)).sum())),
    }


def _some(values: Sequence[Hashable], kept: Sequence[bool]) -> list[Hashable]:
    return [value for value, keep in zip(values, kept, strict=True) if keep]


def _share(values: FloatArray, clusters: Sequence[Hashable]) -> Score:
    return score_of(share_measure(values, clusters), scale=100.0)


def _corrected(found: Corrected, n: int) -> Score:
    """Percent, within 0..100; `n` counts the comparisons that people saw."""
    interval = found.interval
    if interval is not None:
        interval = Interval(low=max(0.0, interval.low), high=min(1.0, interval.high), se=interval.se)
    return score_of(Measure(found.value, interval, n), scale=100.0)
