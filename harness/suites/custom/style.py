"""Estimate the win rate that answers of equal style would have: Arena-Hard's style control for a single pair.

>>> style("# Title\\n- one\\n- **two**\\n```\\n# no title\\n```")
(42.0, 1.0, 2.0, 1.0)

Log-odds that the answer wins = strength + coefficients . style differences. The differences are those of Arena-Hard
v2.0 (relative length, and relative density of headers, list items and bold spans) with characters in place of tokens.
They are divided by their spread but, unlike in Arena-Hard's pool of many models, not centred: their zero is a pair of
equal style, and the rate there is the strength's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...records import Answer, Judgment, Prompt, Score
from ...records.protocols import Refits, RunRows
from ...stats.bradley_terry import IntArray
from ...stats.intervals import FloatArray, percentile_interval, resampling_weights
from ...stats.style_control import StyledBattles, StyleFit, fit_style, raw_features, style_rate
from ..scoring import latest_answers, slot_unit, verdicts_by_slot
from .facts import STYLED

FEWEST = 40
"""Questions for a fit of a strength and four coefficients."""
REFITS = 300
CODE = re.compile(r"```[^`]*```")
# arena-hard-auto utils/add_markdown_info.py, count_markdown_elements, which leaves code blocks out
MARKS = (
    re.compile(r"^#{1,6}\s", re.MULTILINE),
    re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)
NAMES = ("length", "headers", "lists", "bold")


def style(text: str) -> tuple[float, float, float, float]:
    """Return the characters, headers, list items and bold spans of an answer; code counts as characters alone."""
    prose = CODE.sub("", text)
    headers, lists, bold = (float(len(mark.findall(prose))) for mark in MARKS)
    return float(len(text)), headers, lists, bold


@dataclass(frozen=True)
class StyledRun:
    """A model's games with the style of both answers."""

    battles: StyledBattles
    """Model 0 is the candidate, 1 the baseline."""
    question: IntArray
    """Number of each game's question among `ids`; prompts of one cluster are one question."""
    ids: tuple[str, ...]
    features: FloatArray
    """Style differences in units of their spread, shape (games, 4)."""

    def fit(self, weight: FloatArray | None = None, start: StyleFit | None = None) -> StyleFit:
        rows = self.battles.weight if weight is None else self.battles.weight * weight[self.question]
        return fit_style(self.battles, self.features, "v2.0", weight=rows, start=start)

    def refits(self, fit: StyleFit, seed: int = 0) -> FloatArray:
        """Return the rates of fits to resampled questions, in percent, shape (REFITS,)."""
        blocks = resampling_weights(len(self.ids), REFITS, np.random.default_rng(seed))
        fits = [self.fit(weight, fit) for block in blocks for weight in block]
        return np.array([rate(refit) for refit in fits])


def rate(fit: StyleFit) -> float:
    """Return the win rate against the baseline at equal style, in percent."""
    return float(style_rate(fit.strengths, 1)[0])


def styled_run(
    prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment], baseline: Mapping[str, Answer]
) -> StyledRun | None:
    """Return the games of these prompts, or None with fewer than `FEWEST` questions."""
    clusters = {prompt.id: prompt.cluster or prompt.id for prompt in prompts}
    latest = latest_answers(answers)
    units, styles, names = [], [], []
    for slot, verdicts in verdicts_by_slot(judgments, answers).items():
        opponent = baseline.get(slot.prompt_id)
        if slot.prompt_id in clusters and opponent is not None:
            units.append(slot_unit(slot.prompt_id, verdicts))
            texts = latest[slot.prompt_id, slot.index].turns, opponent.turns
            styles.append([style("\n\n".join(turns)) for turns in texts])
            names.append(clusters[slot.prompt_id])
    ids = tuple(dict.fromkeys(names))
    if len(ids) < FEWEST:
        return None
    table, weight = np.array(styles), np.array([unit.weight for unit in units])
    first = np.zeros(len(units), dtype=np.int64)
    points = np.array([unit.value / unit.weight for unit in units])
    battles = StyledBattles(2, first, first + 1, points, weight, table[:, 0], table[:, 1])
    features = raw_features(battles, "v2.0")
    spread = features.std(axis=0)
    number = {name: index for index, name in enumerate(ids)}
    question = np.array([number[name] for name in names], dtype=np.int64)
    return StyledRun(battles, question, ids, features / np.where(spread > 0, spread, 1.0))


def style_score(run: StyledRun | None, plain: Score) -> tuple[Score, tuple[str, ...]]:
    """Return the style-controlled win rate with its interval over questions, and what the card says about the fit."""
    none = Score(value=None, n=plain.n, unscored=plain.unscored)
    if run is None:
        return none, (f"no {STYLED}: under {FEWEST} questions are scored, too few to tell style from strength",)
    fit = run.fit()
    if not fit.converged:
        return none, (
            f"no {STYLED}: the fit did not converge, as if all games of a style are won, or styles never vary apart",
        )
    drawn = percentile_interval(run.refits(fit))
    parts = ", ".join(f"{name} {value:+.2f}" for name, value in zip(NAMES, fit.coefficients, strict=True))
    score = Score(value=rate(fit), n=plain.n, unscored=plain.unscored).with_interval(drawn)
    return score, (f"style control: log-odds per standard deviation of the difference: {parts}",)


def style_refits(
    prompts: Sequence[Prompt], baseline: Mapping[str, Answer], first: RunRows, second: RunRows
) -> Refits | None:
    """Return both models' rates over their common questions, refitted to the same resamples.

    None if one of them cannot be fitted.
    """
    runs = [styled_run(prompts, run.answers, run.judgments, baseline) for run in (first, second)]
    shared = set.intersection(*(set() if run is None else set(run.ids) for run in runs))
    both = [prompt for prompt in prompts if (prompt.cluster or prompt.id) in shared]
    values, replicates = [], []
    for rows in (first, second):
        run = styled_run(both, rows.answers, rows.judgments, baseline)
        fit = None if run is None else run.fit()
        if run is None or fit is None or not fit.converged:
            return None
        values.append(rate(fit))
        replicates.append(run.refits(fit))
    return Refits(STYLED, (values[0], values[1]), (replicates[0], replicates[1]), len(shared))
