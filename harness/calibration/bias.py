"""What sways a judge beyond what people see: length, its own family, being kinder than its predecessor. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Score
from ..stats.agreement import Measure, mean_measure
from ..stats.clustered import clustered_interval
from ..stats.intervals import FloatArray
from .items import Comparison
from .measures import SaidOf, score_of

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
"""Maker -> how its models' names begin (after an organisation's name)."""


ENOUGH = 10
"""Rows below which a model's own line is left out: its interval would say nothing."""


def family(model: str) -> str | None:
    """Whose model a name is; None where the name does not say."""
    name = model.rsplit("/", 1)[-1].lower()
    return next((maker for maker, pattern in FAMILIES.items() if re.match(pattern, name)), None)


@dataclass(frozen=True)
class _Row:
    """One comparison seen by the judge and by somebody else; preferences are the candidate's."""

    item: Comparison
    judge: float
    other: float


def _rows(comparisons: Sequence[Comparison], said: SaidOf, *, people: bool) -> list[_Row]:
    """A row a vote, or a row a verdict of the retired judge."""
    found = []
    for item in comparisons:
        value = said[item.id].value if item.id in said else None
        if value is not None:
            others = item.people if people else () if item.recorded is None else (item.recorded,)
            found += [_Row(item, value, other) for other in others]
    return found


# --------------------------------------------------------------------------------------------------------- length


def length_scores(comparisons: Sequence[Comparison], said: SaidOf, other: str) -> dict[str, Score]:
    """Log-odds that the longer answer is preferred (0: length says nothing), of the judge, of `other` ("people" or
    "retired") on the same rows, and their difference: `length_bias`. Ties and answers of one length are left out."""
    rows = [row for row in _rows(comparisons, said, people=other == "people") if _comparable(row)]
    longer = [_longer_wins(row) for row in rows]
    judge, theirs = (np.array([pair[place] for pair in longer], dtype=np.float64) for place in (0, 1))
    questions = [row.item.question for row in rows]
    if not rows:
        return {}
    (ours, our_influence), (others, other_influence) = _log_odds(judge), _log_odds(theirs)
    return {
        "length_log_odds": _score(ours, our_influence, questions),
        f"length_log_odds_{other}": _score(others, other_influence, questions),
        f"length_bias_{other}": _score(ours - others, our_influence - other_influence, questions),
    }


def _comparable(row: _Row) -> bool:
    lengths = row.item.lengths
    return lengths is not None and lengths[0] != lengths[1] and row.judge != 0.5 and row.other != 0.5


def _longer_wins(row: _Row) -> tuple[float, float]:
    assert row.item.lengths is not None
    candidate_longer = row.item.lengths[0] > row.item.lengths[1]
    return float((row.judge > 0.5) == candidate_longer), float((row.other > 0.5) == candidate_longer)


def _log_odds(wins: FloatArray) -> tuple[float, FloatArray]:
    """ln((k + 1/2) / (n - k + 1/2)), finite when all or none win (Haldane 1956, Anscombe 1956), and rows' influence."""
    n = len(wins)
    share = (wins.sum() + 0.5) / (n + 1)
    return float(np.log(share / (1 - share))), (wins - wins.mean()) / (n * share * (1 - share))


def _score(value: float, influence: FloatArray, questions: Sequence[str]) -> Score:
    return score_of(Measure(value, clustered_interval(value, influence, questions), len(influence)))


# --------------------------------------------------------------------------------------------------------- family


def self_preference(comparisons: Sequence[Comparison], said: SaidOf, judge_model: str, other: str) -> dict[str, Score]:
    """Points (0..1) that the judge gives its own family's answer beyond what `other` gives, against other families.

    A strong family gains from any consistent judge, since votes scatter towards 0.5: read it beside `excess_by_model`.
    """
    own = family(judge_model)
    values, questions = [], []
    for row in _rows(comparisons, said, people=other == "people"):
        candidate, baseline = family(row.item.candidate) == own, family(row.item.baseline) == own
        if own is not None and candidate != baseline:
            excess = row.judge - row.other
            values.append(excess if candidate else -excess)
            questions.append(row.item.question)
    if not values:
        return {}
    return {f"self_preference_{other}": score_of(mean_measure(np.array(values), questions))}


def excess_by_model(comparisons: Sequence[Comparison], said: SaidOf, other: str) -> dict[str, Score]:
    """Model -> points (0..1) that the judge gives it beyond what `other` gives, over the same rows."""
    values: dict[str, tuple[list[float], list[str]]] = {}
    for row in _rows(comparisons, said, people=other == "people"):
        excess = row.judge - row.other
        for model, points in ((row.item.candidate, excess), (row.item.baseline, -excess)):
            some, questions = values.setdefault(model, ([], []))
            some.append(points)
            questions.append(row.item.question)
    return {
        model: score_of(mean_measure(np.array(some), questions))
        for model, (some, questions) in sorted(values.items())
        if len(some) >= ENOUGH
    }
