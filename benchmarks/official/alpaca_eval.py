"""AlpacaEval 2: the board's digits, and one length-controlled fit beside the installed package's own."""

from __future__ import annotations

import csv
import json
import lzma
import os
import shutil
import statistics
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.stats.length_control import REFITS, FoldOrder, LengthRows, control_length, control_length_interval
from harness.store.official import pinned_files
from harness.suites.alpaca_eval import files as ours
from harness.suites.alpaca_eval.suite import read_gamed
from harness.suites.files import ScoreOptions, read_files

from .lines import Line, timed

STABLE = "FuseChat-Llama-3.2-3B-Instruct"
"""The one of the given models whose published digits come from the stable fold order."""
REVISION = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
REPEATS = 3

Gamed = tuple[tuple[float, float, float], ...]


def measure(published: Path, mirror: Path, work: Path) -> list[Line]:
    """The board's length-controlled rates and fit times, the plain rates, the refit bootstrap, and all files."""
    gamed_file = mirror / pinned_files()["alpaca_eval/gamed"].path
    _hub_cache(gamed_file, work)
    difficulty, gamed = read_gamed(gamed_file)
    board = _board(published)
    files = sorted((published / "alpaca_eval" / "annotations").glob("*.json.xz"))
    gaps: list[float] = []
    ours_seconds: list[float] = []
    their_seconds: list[float] = []
    for place, file in enumerate(files):
        model, rows = file.name.removesuffix(".json.xz"), json.loads(lzma.decompress(file.read_bytes()))
        order: FoldOrder = "stable" if model == STABLE else "published"
        if place == 0:  # imports and first calls
            _headline(rows, difficulty, gamed, order)
            _reference(rows)
        for _ in range(REPEATS):
            fit = timed(partial(_headline, rows, difficulty, gamed, order), repeats=1)
            ours_seconds.append(fit.seconds)
            their_seconds.append(timed(partial(_reference, rows), repeats=1).seconds)
        gaps.append(abs(fit.value - float(board[model]["length_controlled_winrate"])))
    return [
        Line(
            "AlpacaEval, one length-controlled fit (median)",
            len(gaps),
            f"{max(gaps):.1e} points to the board",
            statistics.median(ours_seconds),
            statistics.median(their_seconds),
            "alpaca-eval 0.6.6, get_length_controlled_winrate",
        ),
        _refits(rows, difficulty, gamed),
        _all_files(files, mirror, board),
    ]


def _headline(rows: list[dict[str, Any]], difficulty: dict[str, float], gamed: Gamed, order: FoldOrder) -> float:
    fit = control_length(_length_rows(rows, difficulty), gamed, order=order)
    assert fit is not None
    return fit.win_rate


def _length_rows(rows: list[dict[str, Any]], difficulty: dict[str, float]) -> LengthRows:
    """Difficulty by position, as the board has it."""
    return LengthRows(
        preference=np.array([_preference(row["preference"]) for row in rows]),
        length_difference=np.array([float(len(row["output_1"]) - len(row["output_2"])) for row in rows]),
        difficulty=np.array([difficulty[str(place)] for place in range(len(rows))]),
    )


def _preference(stored: float | None) -> float:
    if stored is None:
        return float("nan")
    return 0.5 if stored == 0 else stored - 1


def _reference(rows: list[dict[str, Any]]) -> float:
    from alpaca_eval.metrics import get_length_controlled_winrate

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_length_controlled_winrate(rows, save_weights_dir=None, is_add_glm_preference_inplace=False)
    return float(found["length_controlled_winrate"])


def _refits(rows: list[dict[str, Any]], difficulty: dict[str, float], gamed: Gamed) -> Line:
    found = _length_rows(rows, difficulty)
    fit = control_length(found, gamed)
    assert fit is not None
    done = timed(lambda: control_length_interval(found, gamed, fit, refits=REFITS))
    return Line(f"AlpacaEval, interval of one model ({REFITS} refits)", 1, "-", done.seconds)


def _all_files(files: list[Path], mirror: Path, board: dict[str, dict[str, str]]) -> Line:
    options = ScoreOptions(intervals=False, strict_reference=True, mirror=str(mirror))
    done = timed(lambda: ours.cards(read_files(files), options))
    names = {"win_rate": "win_rate", "standard_error": "standard_error", "discrete_win_rate": "discrete_win_rate"}
    gaps = [
        abs((card.scores[name].value or 0.0) - float(board[card.model][column]))
        for card in done.value
        for name, column in names.items()
    ]
    difference = f"{max(gaps):.1e} points to the board (win rate, standard error, discrete win rate)"
    return Line("AlpacaEval, all given files read and scored", len(done.value), difference, done.seconds)


def _board(published: Path) -> dict[str, dict[str, str]]:
    with (published / "alpaca_eval" / "published_leaderboard.csv").open(encoding="utf-8") as file:
        return {row[""]: row for row in csv.DictReader(file)}


def _hub_cache(gamed: Path, work: Path) -> None:
    """The Hub's cache layout with the one file the reference asks for, so that it needs no network."""
    repository = work / "hub" / "datasets--tatsu-lab--alpaca_eval"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    shutil.copy(gamed, snapshot / "df_gamed.csv")
    os.environ |= {"HF_HOME": str(work), "HF_HUB_CACHE": str(work / "hub"), "HF_HUB_OFFLINE": "1"}
