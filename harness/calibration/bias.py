"""Measure what sways a judge beyond what people see: length, its own family, more leniency than its predecessor.
Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Score
from ..stats.agreement import Measure, mean_measure
from ..stats.clustered import clustered_interval
from ..stats.intervals import FloatArray
from .items import RecordedComparison
from .measures import ItemVerdicts, score_of

FAMILIES = {
    "openai": r"gpt|chatgpt|o[1-9](-|$)|text_davinci",
    "anthropic": r"claude",
    "google": r"gemini|gemma|palm|bard",
    "meta": r"(meta-)?llama",
    "mistral": r"mistral|mixtral",
    "alibaba": r"qwen|qwq",
    "deepseek": r"deepseek",
    "microsoft": r"phi-|wizardlm",
}
"""Maker -> pattern for the start of its models' names (after an organisation's name)."""


ENOUGH = 10
"""With fewer rows a model gets no line of its own: its interval would be too wide to mean anything."""


def family(model: str) -> str | None:
    """Return the family of a model by its name, or None if the name does not show it."""
    name = model.rsplit("/", 1)[-1].lower()
    return next((maker for maker, pattern in FAMILIES.items() if re.match(pattern, name)), None)


@dataclass(frozen=True)
class _Row:
    """One comparison as judged by the judge and by a reference (people or the retired judge).

    Preferences are the candidate's."""

    item: RecordedComparison
    judge: float
    reference: float


def _rows(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, *, people: bool) -> list[_Row]:
    """Return one row per vote, or one row per verdict of the retired judge."""
    rows = []
    for item in comparisons:
        value = verdicts[item.id].value if item.id in verdicts else None
        if value is not None:
            references = item.people if people else () if item.recorded is None else (item.recorded,)
            rows += [_Row(item, value, reference) for reference in references]
    return rows


# --------------------------------------------------------------------------------------------------------- length


def length_scores(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, reference: str
) -> dict[str, Score]:
    """Return the log-odds that the longer answer is preferred (0: length makes no difference).

    For the judge, for the reference ("people" or "retired") on the same rows, and their difference, `length_bias`.
    Ties and answers of equal length are left out.
    """
    rows = [row for row in _rows(comparisons, verdicts, people=reference == "people") if _comparable(row)]
    longer = [_longer_wins(row) for row in rows]
    judge_wins, reference_wins = (np.array([pair[side] for pair in longer], dtype=np.float64) for side in (0, 1))
    questions = [row.item.question for row in rows]
    if not rows:
        return {}
    (ours, our_influence), (reference_log_odds, reference_influence) = _log_odds(judge_wins), _log_odds(reference_wins)
    return {
        "length_log_odds": _score(ours, our_influence, questions),
        f"length_log_odds_{reference}": _score(reference_log_odds, reference_influence, questions),
        f"length_bias_{reference}": _score(ours - reference_log_odds, our_influence - reference_influence, questions),
    }


def _comparable(row: _Row) -> bool:
    lengths = row.item.lengths
    return lengths is not None and lengths[0] != lengths[1] and row.judge != 0.5 and row.reference != 0.5


def _longer_wins(row: _Row) -> tuple[float, float]:
    assert row.item.lengths is not None
    candidate_longer = row.item.lengths[0] > row.item.lengths[1]
    return float((row.judge > 0.5) == candidate_longer), float((row.reference > 0.5) == candidate_longer)


def _log_odds(wins: FloatArray) -> tuple[float, FloatArray]:
    """Return ln((k + 1/2) / (n - k + 1/2)) and each row's influence.

    The 1/2 keeps it finite if all or none win (Haldane 1956, Anscombe 1956)."""
    n = len(wins)
    share = (wins.sum() + 0.5) / (n + 1)
    return float(np.log(share / (1 - share))), (wins - wins.mean()) / (n * share * (1 - share))


def _score(value: float, influence: FloatArray, questions: Sequence[str]) -> Score:
    return score_of(Measure(value, clustered_interval(value, influence, questions), len(influence)))


# --------------------------------------------------------------------------------------------------------- family


def self_preference(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, judge_model: str, reference: str
) -> dict[str, Score]:
    """Return the points (0..1) that the judge gives its own family's answer beyond what the reference gives.

    Only comparisons with another family count. A strong family gains from any consistent judge, because votes scatter
    towards 0.5; read it beside `excess_by_model`.
    """
    judge_family = family(judge_model)
    values, questions = [], []
    for row in _rows(comparisons, verdicts, people=reference == "people"):
        candidate, baseline = family(row.item.candidate) == judge_family, family(row.item.baseline) == judge_family
        if judge_family is not None and candidate != baseline:
            excess = row.judge - row.reference
            values.append(excess if candidate else -excess)
            questions.append(row.item.question)
    if not values:
        return {}
    return {f"self_preference_{reference}": score_of(mean_measure(np.array(values), questions))}


def excess_by_model(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, reference: str
) -> dict[str, Score]:
    """Return model -> points (0..1) that the judge gives it beyond what the reference gives, on the same rows."""
    values: dict[str, tuple[list[float], list[str]]] = {}
    for row in _rows(comparisons, verdicts, people=reference == "people"):
        excess = row.judge - row.reference
        for model, points in ((row.item.candidate, excess), (row.item.baseline, -excess)):
            model_points, questions = values.setdefault(model, ([], []))
            model_points.append(points)
            questions.append(row.item.question)
    return {
        model: score_of(mean_measure(np.array(model_points), questions))
        for model, (model_points, questions) in sorted(values.items())
        if len(model_points) >= ENOUGH
    }
