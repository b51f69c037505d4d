"""Coverage of 95 % intervals from few questions, rows or labels: cards and paired differences on published judgments,
kappa, and corrections of a judge by people's votes.

Each cell draws questions of a real model (or pair) with replacement; the truth is its score over all of them. A number
in brackets is the share of plain t intervals, as if scores had no bounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from benchmarks.gate.published import FILES, Published, published
from harness.stats.agreement import JudgedSample, agreement, prediction_powered, rogan_gladen
from harness.stats.intervals import Interval
from harness.stats.paired import paired_difference, ratio_interval
from harness.stats.variance import IntArray
from harness.suites.scoring import QuestionSums, common

SIZES = (5, 10, 20, 50, 100)
ROWS = (11, 20, 30, 60)
LABELS = (10, 20, 50, 100)
LOST = 0.05
"""Share of questions that a copy of the best model loses altogether."""


@dataclass(frozen=True)
class Cell:
    """Shares of `sets` data sets whose interval contains the truth, and how much wider than the plain one it is."""

    covered: float
    plain: float
    wider: float | None
    """None: no plain interval has a width."""

    def wider_text(self) -> str:
        return "-" if self.wider is None else f"{100 * self.wider:.0f} %"

    def text(self) -> str:
        return f"{self.covered:.3f} ({self.plain:.3f})"


def grid_lines(sets: int) -> Iterator[str]:
    """Markdown of all tables; those on published judgments need HARNESS_PUBLISHED."""
    if "HARNESS_PUBLISHED" in os.environ:
        parts = [published(suite) for suite in FILES]
        yield from _published_lines(parts, sets)
    else:
        yield "(the tables on published judgments need HARNESS_PUBLISHED)\n"
    yield from _kappa_lines(sets // 2)
    yield from _correction_lines(sets // 2)


def _published_lines(parts: Sequence[Published], sets: int) -> Iterator[str]:
    heads = "".join(f" n = {size} |" for size in SIZES)
    rule = " ---: |" * (len(SIZES) + 1)
    yield f"## Few questions: one model's score, {sets} data sets\n"
    yield f"| questions drawn from |{heads} wider at 50 |\n| --- |{rule}"
    for name, sums in (row for part in parts for row in single_models(part)):
        cells = [single_cell(sums, size, sets) for size in SIZES]
        yield f"| {name} | " + " | ".join(cell.text() for cell in cells) + f" | {cells[3].wider_text()} |"
    yield f"\n## Few questions: paired differences, {sets} data sets\n"
    yield f"| questions drawn from |{heads} wider at 50 |\n| --- |{rule}"
    for name, first, second in (row for part in parts for row in model_pairs(part)):
        cells = [paired_cell(first, second, size, sets) for size in SIZES]
        yield f"| {name} | " + " | ".join(cell.text() for cell in cells) + f" | {cells[3].wider_text()} |"
    yield f"\n## Few questions: paired differences of right and wrong answers, {sets} data sets\n"
    yield f"| questions drawn from |{heads} wider at 50 |\n| --- |{rule}"
    for name, first, second in (row for part in parts for row in right_or_wrong_pairs(part)):
        cells = [paired_cell(first, second, size, sets) for size in SIZES]
        yield f"| {name} | " + " | ".join(cell.text() for cell in cells) + f" | {cells[3].wider_text()} |"
    yield ""


def right_or_wrong_pairs(part: Published) -> Iterator[tuple[str, QuestionSums, QuestionSums]]:
    """Return the pairs of `model_pairs` of a benchmark of preferences with a question won or lost, as 1 or 0."""
    if part.models and next(iter(part.models.values())).scale != 1.0:
        won = {name: _won(sums) for name, sums in part.models.items()}
        yield from model_pairs(replace(part, models=won))


def _won(sums: QuestionSums) -> QuestionSums:
    above = (sums.above / sums.below > 0.5).astype(np.float64)
    return replace(sums, scale=1.0, above=above, below=np.ones(len(above)), bounds=(0.0, 1.0))


def single_models(part: Published) -> Iterator[tuple[str, QuestionSums]]:
    """Return the weakest, the middle and the best model, the mirror of the weakest, and a model of equal verdicts."""
    sums = list(part.models.values())
    for word, model in (("weakest", sums[0]), ("middle", sums[len(sums) // 2]), ("best", sums[-1])):
        yield f"{part.suite}, {word}: {model.value:.2f}", model
    assert sums[0].bounds is not None, "published verdicts state their bounds"
    mirrored = replace(sums[0], above=sum(sums[0].bounds) * sums[0].below - sums[0].above)
    yield f"{part.suite}, weakest mirrored: {mirrored.value:.2f}", mirrored
    equal = replace(sums[-1], above=0.9 * sums[0].bounds[1] * sums[-1].below)
    yield f"{part.suite}, all equal: {equal.value:.2f}", equal


def model_pairs(part: Published) -> Iterator[tuple[str, QuestionSums, QuestionSums]]:
    """Return pairs of neighbours at both ends and in the middle, the two ends, and the best model with losses."""
    sums = list(part.models.values())
    middle, last = len(sums) // 2, len(sums) - 1
    for word, at in (("weakest two", (1, 0)), ("middle two", (middle + 1, middle)), ("best two", (last, last - 1))):
        yield f"{part.suite}, {word}", sums[at[0]], sums[at[1]]
    yield f"{part.suite}, best and weakest", sums[last], sums[0]
    yield f"{part.suite}, best and itself", sums[last], sums[last]
    best = sums[last]
    assert best.bounds is not None, "published verdicts state their bounds"
    lost = np.random.default_rng(7).random(len(best.ids)) < LOST
    worse = replace(best, above=np.where(lost, best.bounds[0] * best.below, best.above))
    yield f"{part.suite}, best and itself with {lost.mean():.0%} lost", worse, best


def single_cell(sums: QuestionSums, size: int, sets: int, *, seed: int = 1) -> Cell:
    true = float(sums.above.sum() / sums.below.sum())

    def pair(at: IntArray) -> tuple[Interval | None, Interval | None]:
        above, below = sums.above[at], sums.below[at]
        return ratio_interval(above, below, sums.bounds), ratio_interval(above, below)

    return _cell(pair, true, (len(sums.ids), size, sets), seed)


def paired_cell(first: QuestionSums, second: QuestionSums, size: int, sets: int, *, seed: int = 2) -> Cell:
    first, second = common([first, second])
    true = float(first.above.sum() / first.below.sum() - second.above.sum() / second.below.sum())

    def pair(at: IntArray) -> tuple[Interval | None, Interval | None]:
        terms = (first.above[at], first.below[at]), (second.above[at], second.below[at])
        estimates = [paired_difference(*terms, bounds=bounds) for bounds in (first.bounds, None)]
        bounded, plain = (
            Interval(*estimate.interval(), estimate.se) if estimate is not None else None for estimate in estimates
        )
        return bounded, plain

    return _cell(pair, true, (len(first.ids), size, sets), seed)


def _cell(
    pair: Callable[[IntArray], tuple[Interval | None, Interval | None]],
    true: float,
    shape: tuple[int, int, int],
    seed: int,
) -> Cell:
    rng, (population, size, sets) = np.random.default_rng(seed), shape
    rows = [pair(rng.integers(population, size=size)) for _ in range(sets)]
    covered, plain = (float(np.mean([_covers(row[at], true) for row in rows])) for at in (0, 1))
    widths = [(a.high - a.low) / (b.high - b.low) for a, b in rows if a and b and b.high - b.low > 1e-9]
    return Cell(covered, plain, max(0.0, float(np.median(widths)) - 1) if widths else None)


def _covers(interval: Interval | None, true: float) -> bool:
    """Return whether the truth is inside, up to rounding; a missing interval counts as a miss."""
    return interval is not None and interval.low - 1e-9 <= true <= interval.high + 1e-9


def _kappa_lines(sets: int) -> Iterator[str]:
    yield f"## Cohen's kappa from few rows, {sets} data sets\n"
    yield "| shares of the labels | kappa |" + "".join(f" {rows} rows |" for rows in ROWS)
    yield "| --- | ---: |" + " ---: |" * len(ROWS)
    for shares in ((0.93, 0.07), (0.8, 0.2), (0.5, 0.5), (0.45, 0.45, 0.1)):
        for kappa in (0.0, 0.4, 0.8):
            cells = " | ".join(f"{kappa_share(shares, kappa, rows, sets):.3f}" for rows in ROWS)
            yield f"| {', '.join(f'{share:.0%}' for share in shares)} | {kappa:g} | {cells} |"
    yield ""


def kappa_share(shares: Sequence[float], kappa: float, rows: int, sets: int, *, seed: int = 3) -> float:
    """How often kappa's interval contains the truth; the second judge repeats the first with probability kappa.

    Rows with one label only, of which no kappa is shown, are left out.
    """
    rng = np.random.default_rng(seed)
    hits: list[bool] = []
    for _ in range(sets):
        first, alone = rng.choice(len(shares), size=(2, rows), p=shares)
        second = np.where(rng.random(rows) < kappa, first, alone)
        measure = agreement(first.tolist(), second.tolist()).kappa
        if measure.value is not None:
            hits.append(_covers(measure.interval, kappa))
    return float(np.mean(hits))


def _correction_lines(sets: int) -> Iterator[str]:
    yield f"## Corrections by few people's votes, {sets} data sets of 400 comparisons\n"
    yield "| people's win rate | method |" + "".join(f" {labels} votes |" for labels in LABELS)
    yield "| ---: | --- |" + " ---: |" * len(LABELS)
    for rate in (0.5, 0.8, 0.9):
        cells = [correction_shares(rate, labels, sets) for labels in LABELS]
        for at, name in enumerate(("prediction-powered", "Rogan and Gladen")):
            yield f"| {rate:.0%} | {name} | " + " | ".join(f"{cell[at]:.3f}" for cell in cells) + " |"


def correction_shares(rate: float, labels: int, sets: int, *, rows: int = 400, seed: int = 4) -> tuple[float, float]:
    """How often the two corrected intervals contain the truth; four rows per question, a judge right in 83 %.

    A data set that gives no interval counts as a miss: at 10 votes many show no error, or no loss.
    """
    rng, hits = np.random.default_rng(seed), [0, 0]
    clusters: list[Hashable] = [row % (rows // 4) for row in range(rows)]
    for _ in range(sets):
        lean = rng.normal(0, 0.6, rows // 4)[np.array(clusters, dtype=np.int64)]
        truth = (lean + rng.normal(0, 0.8, rows) < special.ndtri(rate)).astype(np.float64)
        judge = np.where(rng.random(rows) < np.where(truth == 1, 0.85, 0.8), truth, 1 - truth)
        people = np.full(rows, np.nan)
        seen = rng.choice(rows, labels, replace=False)
        people[seen] = truth[seen]
        sample = JudgedSample(judge, people, clusters)
        powered = prediction_powered(sample, tuned=True, bounds=(0.0, 1.0), fewest=2)
        gladen = rogan_gladen(sample, fewest=2)
        hits[0] += _covers(powered.interval, rate)
        hits[1] += _covers(gladen.interval, rate)
    return hits[0] / sets, hits[1] / sets
