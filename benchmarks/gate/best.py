"""How often the set of models that may be the best is right, on published verdicts with a known best model.

Each data set draws models and, with replacement, questions of one suite. The best model is known in three ways:

- *equal best*: the better half of the models exchange their answers, question by question at random;
- *near tie*: all of them do, and one is then given the best of their answers to so many questions that it truly leads
  by half a standard error of a difference, the hardest case for a set that must contain it;
- *clear best*: the models as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from harness.analysis.best import best_of_sums
from harness.pages.text import markdown_table
from harness.stats.best import BestBounds, compare_with_best
from harness.stats.intervals import FloatArray
from harness.stats.length_control import LengthControl, LengthRows, control_length_replicates, weighted_win_rates
from harness.suites.scoring import QuestionSums, common

from .default_gate import REFITS, LengthBoard, length_board
from .published import published, published_root

DESIGNS = {"mt_bench": ((80,), (5,)), "alpaca_eval": ((100, 805), (3, 5, 10)), "arena_hard": ((500,), (5,))}
"""Suite -> questions, candidates."""
Shape = Literal["equal best", "near tie", "clear best"]
SHAPES: tuple[Shape, ...] = ("equal best", "near tie", "clear best")
LEAD = 0.5
"""Of a near tie, in standard errors of a difference."""
REFITTED = 3
"""Candidates of a data set whose headline is refitted: a fit takes most of a second."""
REFITTED_SETS = 5
SETS_PER_TRIAL = 20
"""Per trial, of which there are 100: 500 and 2,000 data sets, so a share of 95 % has a standard error of 1.0 or 0.5."""
HEAD = (
    *("suite", "questions", "candidates", "scores", "all intervals hold", "the best is in the set"),
    *("models in the set, mean", "data sets"),
)
LEFT = ("suite", "scores")


@dataclass(frozen=True)
class Field:
    """The models of one suite: arrays of shape (models, questions), the lowest score first."""

    first: QuestionSums
    above: FloatArray
    below: FloatArray

    def truth(self, above: FloatArray, below: FloatArray) -> FloatArray:
        values: FloatArray = self.first.scale * above.sum(axis=1) / below.sum(axis=1)
        return values


@dataclass(frozen=True)
class Drawn:
    """One data set: terms of shape (models, questions) and the models' true values."""

    above: FloatArray
    below: FloatArray
    true: FloatArray


@dataclass(frozen=True)
class Outcome:
    """What the comparison with the best said of one data set."""

    held: bool
    """All intervals contain the truth."""
    inside: bool
    """The best model is in the set."""
    members: int

    @classmethod
    def of(cls, bounds: Sequence[BestBounds], true: FloatArray) -> Outcome:
        gaps = [float(value - np.delete(true, at).max()) for at, value in enumerate(true)]
        held = all(row.low - 1e-9 <= gap <= row.high + 1e-9 for row, gap in zip(bounds, gaps, strict=True))
        return cls(held, bounds[int(true.argmax())].may_be_best, sum(row.may_be_best for row in bounds))


def _cells(outcomes: Sequence[Outcome]) -> list[str]:
    sets = len(outcomes)
    shares = [100 * sum(hits) / sets for hits in ([row.held for row in outcomes], [row.inside for row in outcomes])]
    members = sum(row.members for row in outcomes) / sets
    return [*(f"{share:.1f} %" for share in shares), f"{members:.1f}", str(sets)]


def best_lines(trials: int) -> list[str]:
    rows = []
    for suite, design in DESIGNS.items():
        field = _field(list(published(suite).models.values()))
        for size, candidates, shape in product(*design, SHAPES):
            cells = best_shares(field, shape, candidates, size, SETS_PER_TRIAL * trials)
            rows.append([suite, str(size), str(candidates), shape, *cells])
    board = length_board(published_root())
    for shape in SHAPES:
        if shape != "near tie":
            cells = refitted_shares(board, shape, REFITTED_SETS * trials)
            rows.append(["alpaca_eval, length-controlled", "805", str(REFITTED), shape, *cells])
    return markdown_table(HEAD, rows, LEFT)


def _field(models: Sequence[QuestionSums]) -> Field:
    shared = common(models)
    return Field(shared[0], np.stack([sums.above for sums in shared]), np.stack([sums.below for sums in shared]))


def best_shares(field: Field, shape: Shape, candidates: int, size: int, sets: int, *, seed: int = 0) -> list[str]:
    """Return the cells of one row after the shape, over `sets` data sets of `size` questions."""
    rng = np.random.default_rng([seed, candidates, size, SHAPES.index(shape)])
    outcomes = []
    ids = tuple(map(str, range(size)))
    for _ in range(sets):
        drawn = _drawn(field, shape, candidates, size, rng)
        sums = [
            replace(field.first, ids=ids, above=above, below=below)
            for above, below in zip(drawn.above, drawn.below, strict=True)
        ]
        outcomes.append(Outcome.of(best_of_sums(sums)[1], drawn.true))
    return _cells(outcomes)


def refitted_shares(board: LengthBoard, shape: Shape, sets: int, *, seed: int = 0) -> list[str]:
    """Return the cells of one row for length-controlled win rates, fitted to every data set and to its resamples."""
    rng = np.random.default_rng([seed, REFITTED, SHAPES.index(shape)])
    outcomes = []
    for _ in range(sets):
        chosen = np.sort(rng.choice(len(board.models), REFITTED, replace=False))
        models = [board.models[at] for at in chosen]
        fit, difficulty = models[-1].fit, models[0].rows.difficulty
        preference = np.stack([model.rows.preference for model in models])
        length = np.stack([model.rows.length_difference for model in models])
        size = len(difficulty)
        tied = np.arange(1 if shape == "equal best" else REFITTED, REFITTED)
        order = np.tile(np.arange(REFITTED)[:, None], (1, size))
        order[tied] = rng.permuted(order[tied], axis=0)
        at, seed_of_refits = rng.integers(size, size=size), int(rng.integers(2**31))

        def fitted(rows: LengthRows, fit: LengthControl = fit, size: int = size) -> float:
            counts = np.full((1, len(rows.difficulty)), size / len(rows.difficulty))
            return float(weighted_win_rates(rows, board.gamed, fit, counts)[0])

        mixtures = [tied if row in tied else np.array([row]) for row in range(REFITTED)]
        true = [
            fitted(LengthRows(preference[of].ravel(), length[of].ravel(), np.tile(difficulty, len(of))))
            for of in mixtures
        ]
        drawn = [LengthRows(preference[row, at], length[row, at], difficulty[at]) for row in order]
        replicates = [
            control_length_replicates(rows, board.gamed, fit, refits=REFITS, seed=seed_of_refits) for rows in drawn
        ]
        covariance = np.cov(np.stack([values for values in replicates if values is not None])).astype(np.float64)
        values = np.array([fitted(rows) for rows in drawn])
        outcomes.append(Outcome.of(compare_with_best(values, covariance, 0), np.array(true)))
    return _cells(outcomes)


def _drawn(field: Field, shape: Shape, candidates: int, size: int, rng: np.random.Generator) -> Drawn:
    models, total = field.above.shape
    if shape == "near tie":  # neighbours, so that their answers can be exchanged
        chosen = rng.integers(models - candidates + 1) + np.arange(candidates)
    else:
        chosen = np.sort(rng.choice(models, candidates, replace=False))
    above, below = field.above[chosen], field.below[chosen]
    at = rng.integers(total, size=size)
    if shape == "clear best":
        return Drawn(above[:, at], below[:, at], field.truth(above, below))
    tied = np.arange(candidates - (candidates + 1) // 2 if shape == "equal best" else 0, candidates)
    mean_above, mean_below = above.copy(), below.copy()
    mean_above[tied], mean_below[tied] = above[tied].mean(axis=0), below[tied].mean(axis=0)
    order = rng.permuted(np.tile(tied[:, None], (1, size)), axis=0)
    drawn_above, drawn_below = above[:, at], below[:, at]
    drawn_above[tied], drawn_below[tied] = above[order, at], below[order, at]
    if shape == "near tie":
        top = (above / below).argmax(axis=0)
        top_above, top_below = (np.take_along_axis(part, top[None], axis=0)[0] for part in (above, below))
        share = _share_given(field, above, below, (top_above, top_below), size)
        given = rng.random(size) < share
        drawn_above[-1] = np.where(given, top_above[at], drawn_above[-1])
        drawn_below[-1] = np.where(given, top_below[at], drawn_below[-1])
        mean_above[-1] += share * (top_above - mean_above[-1])
        mean_below[-1] += share * (top_below - mean_below[-1])
    return Drawn(drawn_above, drawn_below, field.truth(mean_above, mean_below))


def _share_given(
    field: Field, above: FloatArray, below: FloatArray, top: tuple[FloatArray, FloatArray], size: int
) -> float:
    """Return the share of questions with the best answer that makes a lead of about `LEAD` standard errors."""
    gain = top[0].sum() / top[1].sum() - above.sum() / below.sum()
    spread = np.sqrt(2 * (above / below).var(axis=0, ddof=1).mean() / size)
    return float(min(1.0, LEAD * spread / gain)) if gain > 0 else 0.0
