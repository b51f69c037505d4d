"""How often the default gate of three suites is right, the length-controlled win rate included.

The length-controlled rate is a fit, so nothing can be added to it; but losing each question with a probability q lowers
it, and q is solved for on the pair's own questions. The refits use the pair's own penalty and 100 resamples (the gate:
400), which makes their standard error noisier by a few percent.
"""

from __future__ import annotations

import csv
import io
import lzma
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from harness.analysis.gate.policy import GatePolicy
from harness.analysis.gate.power import RunPair
from harness.records.protocols import SuiteOptions
from harness.stats.combined import pooled
from harness.stats.intervals import FloatArray
from harness.stats.length_control import (
    LengthControl,
    LengthRows,
    control_length,
    control_length_replicates,
    weighted_win_rates,
)
from harness.stats.paired import ClusteredEstimate, non_inferiority, quantiles
from harness.suites.alpaca_eval.suite import load_official
from harness.suites.scoring import QuestionSums, common

DROPS = (0.0, 1.0, 2.0)
"""In multiples of the margin."""
REFITS = 100
PREFERENCES, LENGTHS = "alpaca_eval/preferences_published.csv.xz", "alpaca_eval/length_differences_published.csv.xz"
LEFT_OUT = ("gpt4_gamed",)

Trials = dict[float, list[ClusteredEstimate]]
"""Drop in multiples of the margin -> the gate's estimates, each of another draw of questions."""


@dataclass(frozen=True)
class LengthModel:
    rows: LengthRows
    fit: LengthControl


@dataclass(frozen=True)
class LengthBoard:
    """Published models of AlpacaEval with their preferences and lengths, by length-controlled win rate."""

    models: tuple[LengthModel, ...]
    gamed: tuple[tuple[float, float, float], ...]

    def neighbours(self, lowest: float) -> list[tuple[LengthModel, LengthModel]]:
        """Each model with the next better one, if both score above `lowest`."""
        return list(pairwise(model for model in self.models if model.fit.win_rate > lowest))


def length_board(root: Path) -> LengthBoard:
    data = load_official(SuiteOptions())
    difficulty = np.array([data.difficulty[prompt.id] for prompt in data.prompts])
    names, preferences = _table(root / PREFERENCES)
    _, lengths = _table(root / LENGTHS)
    models = []
    for at, name in enumerate(names):
        complete = ~np.isnan(preferences[:, at])
        rows = LengthRows(preferences[complete, at], lengths[complete, at], difficulty[complete])
        fit = control_length(rows, data.gamed) if name not in LEFT_OUT and complete.all() else None
        if fit is not None:
            models.append(LengthModel(rows, fit))
    return LengthBoard(tuple(sorted(models, key=lambda model: model.fit.win_rate)), data.gamed)


def _table(path: Path) -> tuple[list[str], FloatArray]:
    """Return the models, and their values of shape (instructions, models); NaN if one is missing."""
    with lzma.open(path) as file:
        head, *rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8"))
    return head[2:], np.array([[float(cell) if cell else np.nan for cell in row[2:]] for row in rows])


def length_trials(
    pair: tuple[LengthModel, LengthModel],
    gamed: tuple[tuple[float, float, float], ...],
    margin: float,
    trials: int,
    seed: int,
) -> Trials:
    """Return the gate's estimates for a pair, made equal by a coin per question, with known drops."""
    rng, fit = np.random.default_rng(seed), pair[0].fit
    estimates: Trials = {}
    for times in DROPS:
        q = lost_share(pair, gamed, times * margin)
        estimates[times] = [_length_estimate(pair, gamed, fit, q, rng) for _ in range(trials)]
    return estimates


def lost_share(
    pair: tuple[LengthModel, LengthModel], gamed: tuple[tuple[float, float, float], ...], drop: float
) -> float:
    """Return the probability of losing a question that lowers the length-controlled rate of the mixture by `drop`."""
    first, second = pair[0].rows, pair[1].rows
    mixture = LengthRows(
        np.concatenate([first.preference, second.preference, np.zeros(2 * len(first.preference))]),
        np.tile(np.concatenate([first.length_difference, second.length_difference]), 2),
        np.tile(np.concatenate([first.difficulty, second.difficulty]), 2),
    )
    shares = np.linspace(0, 0.9, 31)
    half = len(mixture.preference) // 2
    weights = np.column_stack([np.repeat((1 - shares)[:, None] / 2, half, 1), np.repeat(shares[:, None] / 2, half, 1)])
    rates = weighted_win_rates(mixture, gamed, pair[0].fit, weights)
    return float(np.interp(drop, rates[0] - rates, shares))


def _length_estimate(
    pair: tuple[LengthModel, LengthModel],
    gamed: tuple[tuple[float, float, float], ...],
    fit: LengthControl,
    q: float,
    rng: np.random.Generator,
) -> ClusteredEstimate:
    first, second = pair[0].rows, pair[1].rows
    size = len(first.preference)
    at, swapped, lost = rng.integers(size, size=size), rng.random(size) < 0.5, rng.random(size) < q
    sides = []
    for left, right, penalty in ((first, second, np.zeros(size, bool)), (second, first, lost)):
        preference = np.where(swapped, left.preference[at], right.preference[at])
        length = np.where(swapped, left.length_difference[at], right.length_difference[at])
        sides.append(LengthRows(np.where(penalty, 0.0, preference), length, first.difficulty[at]))
    seed, ones = int(rng.integers(2**31)), np.ones((1, size))
    values = [float(weighted_win_rates(rows, gamed, fit, ones)[0]) for rows in sides]
    refits = [control_length_replicates(rows, gamed, fit, refits=REFITS, seed=seed) for rows in sides]
    assert refits[0] is not None, "the rows are many"
    assert refits[1] is not None, "the rows are many"
    return ClusteredEstimate(values[1] - values[0], float(np.std(refits[1] - refits[0], ddof=1)), 0, size)


def sum_trials(pair: tuple[QuestionSums, QuestionSums], margin: float, trials: int, seed: int) -> Trials:
    """Return the same of a metric that is a sum over questions; none if the pair scores too low to lose so much."""
    drawn, rng = RunPair(*common(pair)), np.random.default_rng(seed)
    if drawn.room <= max(DROPS) * margin:
        return {}
    size = len(drawn.first.ids)
    return {times: [drawn.difference(drawn.drawn(size, times * margin, rng)) for _ in range(trials)] for times in DROPS}


def together(parts: list[Trials]) -> Trials:
    """Return the trials of all pairs."""
    return {times: [estimate for part in parts for estimate in part.get(times, [])] for times in DROPS}


@dataclass(frozen=True)
class SuiteTrials:
    suite: str
    metric: str
    margin: float
    trials: Trials


DEFAULT_HEAD = (
    *("suite", "metric", "margin", "equal models pass", "pass at the margin", "fail at twice the margin"),
    *("the same as one of three", "gates"),
)


def default_rows(parts: list[SuiteTrials], policy: GatePolicy) -> list[list[str]]:
    """Return one row per suite, and one for the gate that contains them all.

    Suites have different questions, so equal models pass all of them with the product of the shares.
    """
    rows, equal = [], 1.0
    for part in parts:
        judged = {
            times: [non_inferiority(estimate, part.margin, alpha=policy.alpha) for estimate in estimates]
            for times, estimates in part.trials.items()
        }
        passed = {times: np.mean([row.answer == "safe" for row in answers]) for times, answers in judged.items()}
        equal *= float(passed[0.0])
        failed = np.mean([row.answer == "worse" for row in judged[2.0]])
        # Holm's first step: the smallest of three p-values counts three times, if the others are of equal models
        corrected = np.mean([len(parts) * row.p_worse <= policy.alpha for row in judged[2.0]])
        shares = [f"{100 * share:.1f} %" for share in (passed[0.0], passed[1.0], failed, corrected)]
        rows.append([part.suite, part.metric, f"{part.margin:g}", *shares, str(len(judged[0.0]))])
    return [*rows, ["all three", "", "", f"{100 * equal:.1f} %", "", "", "", ""]]


POOLED_HEAD = (
    *("check", "unit", "smallest detectable drop", "equal models pass at 2.5", "pass at a drop of 2.5", "draws"),
)
POOLED_MARGIN = 2.5


def pooled_rows(parts: list[tuple[str, list[ClusteredEstimate], float]], policy: GatePolicy) -> list[list[str]]:
    """Return how sharp each of two suites is alone, and both pooled, in the unit of the first.

    `parts`: name, estimates of equal models, and slope. The drop is added to the estimates.
    """
    rng = np.random.default_rng(0)
    draws = max(len(estimates) for _, estimates, _ in parts)
    series = []
    for name, estimates, slope in parts:
        chosen = [estimates[at] for at in rng.integers(len(estimates), size=draws)]
        series.append((name, [pooled([estimate], [slope]) for estimate in chosen]))
    both = [pooled(pair, [1.0] * len(pair)) for pair in zip(*(estimates for _, estimates in series), strict=True)]
    rows = []
    for name, estimates in [*series, (" + ".join(name for name, _, _ in parts), both)]:
        shares = [
            np.mean(
                [
                    non_inferiority(
                        ClusteredEstimate(estimate.value - drop, estimate.se, estimate.df, estimate.n),
                        POOLED_MARGIN,
                        alpha=policy.alpha,
                    ).answer
                    == "safe"
                    for estimate in estimates
                ]
            )
            for drop in (0.0, POOLED_MARGIN)
        ]
        sharp = quantiles(policy.alpha, policy.power) * float(np.mean([estimate.se for estimate in estimates]))
        cells = [f"{100 * share:.1f} %" for share in shares]
        rows.append([name, parts[0][0], f"{sharp:.1f}", *cells, str(draws)])
    return rows
