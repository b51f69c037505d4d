"""How sure length-controlled win rates are with few instructions, on published AlpacaEval preferences.

Each data set draws instructions of a published model with replacement. Its rival is a copy that loses each of them with
a probability; the truth is the fit to all 805, with preferences as expected. The gate's margin is the true drop: a pass
is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.analysis.differences import refitted
from harness.pages.text import markdown_table
from harness.records.protocols import Refits
from harness.stats.intervals import FloatArray
from harness.stats.length_control import (
    LengthControl,
    LengthRows,
    control_length,
    control_length_interval,
    control_length_replicates,
)
from harness.stats.paired import non_inferiority

from .default_gate import REFITS, LengthBoard, LengthModel, length_board
from .published import published_root

SIZES = (20, 50, 100, 400)
HEAD = (
    *("model", "win rate", "true drop", "instructions", "its interval holds", "the difference's interval holds"),
    *("passes at the margin", "data sets"),
)


@dataclass(frozen=True)
class Rival:
    """A model, and the share of instructions that its copy loses."""

    name: str
    rows: LengthRows
    lost: float


def few_length_lines(trials: int) -> list[str]:
    board = length_board(published_root())
    rows = [cells(rival, board, size, 2 * trials) for rival in _rivals(board.models) for size in SIZES]
    return markdown_table(HEAD, rows, ("model",))


def _rivals(models: tuple[LengthModel, ...]) -> list[Rival]:
    weakest, middle, best = models[0].rows, models[len(models) // 2].rows, models[-1].rows
    mirrored = LengthRows(1 - weakest.preference, weakest.length_difference, weakest.difficulty)
    return [
        Rival("weakest", weakest, 0.5),
        Rival("middle", middle, 0.3),
        Rival("best", best, 0.08),
        Rival("weakest mirrored", mirrored, 0.06),
    ]


def cells(rival: Rival, board: LengthBoard, size: int, sets: int, *, seed: int = 0) -> list[str]:
    """Return a row: shares of `sets` data sets of `size` instructions that can be fitted."""
    rng, rows = np.random.default_rng([seed, size]), rival.rows
    expected = LengthRows(rows.preference * (1 - rival.lost), rows.length_difference, rows.difficulty)
    true = [_fit(rows, board).win_rate, _fit(expected, board).win_rate]
    drop = true[0] - true[1]
    hits: list[tuple[bool, bool, bool]] = []
    for number in range(sets):
        at, lost = rng.integers(len(rows.preference), size=size), rng.random(size) < rival.lost
        first = LengthRows(rows.preference[at], rows.length_difference[at], rows.difficulty[at])
        other = LengthRows(np.where(lost, 0.0, first.preference), first.length_difference, first.difficulty)
        fits = [control_length(part, board.gamed) for part in (first, other)]
        if fits[0] is None or fits[1] is None:
            continue
        interval = control_length_interval(first, board.gamed, fits[0], refits=REFITS, seed=number)
        replicates = _replicates(first, fits[0], board, number), _replicates(other, fits[1], board, number)
        row = refitted(Refits("lc_win_rate", (fits[0].win_rate, fits[1].win_rate), replicates, size))
        covers = interval is not None and interval.low <= true[0] <= interval.high
        safe = non_inferiority(row.estimate(), drop).answer == "safe"
        low, high = (
            row.estimate().interval() if row.ci_low is None or row.ci_high is None else (row.ci_low, row.ci_high)
        )
        hits.append((covers, low <= -drop <= high, safe))
    held, apart, passed = np.mean(hits, axis=0)
    shares = [f"{held:.3f}", f"{apart:.3f}", f"{100 * passed:.1f} %"]
    return [rival.name, f"{true[0]:.1f}", f"{drop:.1f}", str(size), *shares, str(len(hits))]


def _fit(rows: LengthRows, board: LengthBoard) -> LengthControl:
    fit = control_length(rows, board.gamed)
    assert fit is not None, "all 805 instructions can be fitted"
    return fit


def _replicates(rows: LengthRows, fit: LengthControl, board: LengthBoard, seed: int) -> FloatArray:
    replicates = control_length_replicates(rows, board.gamed, fit, refits=REFITS, seed=seed)
    assert replicates is not None, "a fit has at least ten rows"
    return replicates
