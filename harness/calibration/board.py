"""Score models under a judge: their order against the published board, and estimates of what people would say. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ..records import Score
from ..stats.agreement import Measure, mean_measure, share_measure
from ..stats.correction import Corrected, JudgedSample, prediction_powered, rogan_gladen
from ..stats.intervals import FloatArray, Interval
from ..stats.rank_correlation import rank_correlation
from .bias import ENOUGH
from .items import Item, RecordedComparison
from .measures import ItemVerdicts, score_of


def shift(items: Sequence[Item], verdicts: ItemVerdicts, *, scale: float) -> Score:
    """Return the mean difference between the judge's and the retired judge's numbers on the same items."""
    rows = []
    for item in items:
        value = verdicts[item.id].value if item.id in verdicts else None
        if value is not None and item.recorded is not None:
            rows.append((value - item.recorded, item.question))
    return score_of(mean_measure(np.array([row[0] for row in rows]), [row[1] for row in rows]), scale=scale)


def board_scores(items: Sequence[Item], verdicts: ItemVerdicts, board: Mapping[str, float]) -> dict[str, Score]:
    """Return Spearman and Kendall correlations of the candidates' mean numbers with the published board.

    Empty if fewer than three models are on both.
    """
    rows = [
        (_candidate(item), item.question, verdicts[item.id].value)
        for item in items
        if item.id in verdicts and verdicts[item.id].value is not None and _candidate(item) in board
    ]
    models = sorted({model for model, _, _ in rows})
    questions = {question: index for index, question in enumerate(dict.fromkeys(row[1] for row in rows))}
    if len(models) < 3:
        return {}
    sums, counts = np.zeros((len(questions), len(models))), np.zeros((len(questions), len(models)))
    for model, question, value in rows:
        cell = questions[question], models.index(model)
        sums[cell] += value or 0.0
        counts[cell] += 1
    correlations = rank_correlation(sums, counts, np.array([board[model] for model in models]))
    return {"spearman_board": score_of(correlations.spearman), "kendall_board": score_of(correlations.kendall)}


def _candidate(item: Item) -> str:
    return item.candidate if isinstance(item, RecordedComparison) else item.model


# --------------------------------------------------------------------------------------------- what people would say


def win_rates(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, dict[str, Score]]:
    """Return, per model, its win rate in percent over all comparisons it takes part in.

    `judge` and `people` count a tie as half a win (people: only comparisons with votes). `judge_decided` and
    `rogan_gladen` leave ties out. `prediction_powered` estimates people's rate from both, with ties as half.
    """
    rates = {}
    for model in sorted({name for item in comparisons for name in item.pair}):
        rows = _rows_of(model, comparisons, verdicts)
        if len(rows.judge) >= ENOUGH and int((~np.isnan(rows.people)).sum()) >= ENOUGH:
            rates[model] = _win_rates(rows)
    return rates


def _rows_of(model: str, comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> JudgedSample:
    """Return one row per comparison, from the model's side; people's number is the mean of their votes."""
    judge, people, questions = [], [], []
    for item in comparisons:
        value = verdicts[item.id].value if item.id in verdicts else None
        if value is None or model not in item.pair:
            continue
        votes = float(np.mean(item.people)) if item.people else float("nan")
        is_candidate = item.candidate == model
        judge.append(value if is_candidate else 1 - value)
        people.append(votes if is_candidate else 1 - votes)
        questions.append(item.question)
    return JudgedSample(np.array(judge), np.array(people), questions)


def _win_rates(rows: JudgedSample) -> dict[str, Score]:
    seen = ~np.isnan(rows.people)
    decided = rows.judge != 0.5
    return {
        "judge": _share(rows.judge, rows.clusters),
        "people": _share(rows.people[seen], _kept(rows.clusters, seen.tolist())),
        "prediction_powered": _corrected(prediction_powered(rows, tuned=True), int(seen.sum())),
        "judge_decided": _share(rows.judge[decided], _kept(rows.clusters, decided.tolist())),
        "rogan_gladen": _corrected(rogan_gladen(rows), int((seen & decided & (rows.people != 0.5)).sum())),
    }


def _kept(values: Sequence[Hashable], kept: Sequence[bool]) -> list[Hashable]:
    return [value for value, keep in zip(values, kept, strict=True) if keep]


def _share(values: FloatArray, clusters: Sequence[Hashable]) -> Score:
    return score_of(share_measure(values, clusters), scale=100.0)


def _corrected(corrected: Corrected, n: int) -> Score:
    """Return a corrected rate in percent, clipped to 0..100; `n` counts the comparisons that people voted on."""
    interval = corrected.interval
    if interval is not None:
        interval = Interval(low=max(0.0, interval.low), high=min(1.0, interval.high), se=interval.se)
    return score_of(Measure(corrected.value, interval, n), scale=100.0)
