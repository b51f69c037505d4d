"""Arena-Hard: published boards and bootstrap rounds, and the interval of 31 files beside scikit-learn's fits."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.stats.bradley_terry import ROUNDS, SEED, Battles, reference_interval, reference_rounds
from harness.stats.intervals import FloatArray
from harness.stats.paired import ratio_interval
from harness.suites.arena_hard import files as arena_hard
from harness.suites.arena_hard.file_scores import ArenaGroup, pooled_battles, units
from harness.suites.files import ScoreOptions, read_files
from harness.suites.scoring import PREFERENCES, QuestionSums, sums_of_units

from .lines import Line, T, Timed, timed

TIMED_ROUNDS = 3
"""Of the reference's 100; its time is theirs times 100 / 3, for all of them take minutes."""


def measure(published: Path, mirror: Path, work: Path) -> list[Line]:
    """The 31-model board, the interval of its files, the committed bootstrap rounds, and all given files."""
    folder = published / "arena_hard"
    return [*_image_arena(folder / "raw_judgments"), _rounds(folder / "exact_bootstrap"), _all_files(folder)]


def _image_arena(folder: Path) -> list[Line]:
    options = ScoreOptions(intervals=False)
    sources = list(read_files([folder / "image_arena_gpt4o.tar.xz"]))
    with (folder / "image_arena_published.csv").open(encoding="utf-8") as file:
        board = {row["model"]: float(row["score"]) for row in csv.DictReader(file)}
    scored = timed(lambda: arena_hard.cards(sources, options))
    gaps = [abs(round(card.scores["arena_hard"].value or 0.0, 2) - board[card.model]) for card in scored.value]
    groups = arena_hard.read_groups(sources, {}, options)
    battles = pooled_battles(groups)
    rounds = timed(lambda: reference_interval(reference_rounds(battles, baseline="")))
    theirs = timed(lambda: reference_fits(battles, TIMED_ROUNDS))
    same = reference_rounds(battles, rounds=TIMED_ROUNDS, baseline="")
    sums_by_group = [_sums(group) for group in groups]
    ours = timed(lambda: [ratio_interval(sums.above, sums.below, PREFERENCES) for sums in sums_by_group])
    name = f"scikit-learn, {TIMED_ROUNDS} of {ROUNDS} rounds timed"
    seconds = theirs.seconds * ROUNDS / TIMED_ROUNDS
    difference = f"{np.max(np.abs(same - theirs.value)):.1e} Elo to those rounds"
    return [
        Line("Arena-Hard, 31 image-arena models", len(gaps), f"{max(gaps):.2f} points to the board", scored.seconds),
        Line(
            "Arena-Hard, the reference's interval of 31 models", len(groups), difference, rounds.seconds, seconds, name
        ),
        Line("Arena-Hard, our interval of 31 models", len(groups), "-", ours.seconds, seconds, name),
        *_each_alone(groups),
    ]


def _sums(group: ArenaGroup) -> QuestionSums:
    return sums_of_units("arena_hard", 100.0, units(group.main))


def _each_alone(groups: list[ArenaGroup]) -> list[Line]:
    """The same with each file scored by itself, as a user with one new model does: 100 rounds, all of them timed.

    scikit-learn's fits alone are timed, without the tables that the reference builds in pandas around each.
    """
    reference_fits(pooled_battles(groups[:1]), 1)  # imports and first calls
    found: dict[str, list[tuple[float, float]]] = {"the reference's interval": [], "our interval": []}
    gap = 0.0
    for group in groups:
        battles, sums = pooled_battles([group]), _sums(group)
        rounds = _median(lambda: reference_rounds(battles, baseline=""), 7)  # noqa: B023 - called at once
        theirs = _median(lambda: reference_fits(battles, ROUNDS), 3)  # noqa: B023
        ours = _median(lambda: ratio_interval(sums.above, sums.below, PREFERENCES), 7)  # noqa: B023
        gap = max(gap, float(np.max(np.abs(rounds.value - theirs.value))))
        found["the reference's interval"].append((rounds.seconds, theirs.seconds))
        found["our interval"].append((ours.seconds, theirs.seconds))
    return [
        Line(
            f"Arena-Hard, {name}, each of 31 files alone (least of them: {_least(times):.0f} x)",
            len(times),
            f"{gap:.1e} Elo" if name != "our interval" else "-",
            sum(ours for ours, _ in times),
            sum(theirs for _, theirs in times),
            f"scikit-learn, all {ROUNDS} rounds of each file",
        )
        for name, times in found.items()
    ]


def _least(times: list[tuple[float, float]]) -> float:
    """How many times faster ours is where it is least so."""
    return min(theirs / ours for ours, theirs in times)


def _median(call: Callable[[], T], repeats: int) -> Timed[T]:
    """The value, and the median time: the same measure for both sides, whatever else the machine does."""
    done = sorted((timed(call, repeats=1) for _ in range(repeats)), key=lambda one: one.seconds)
    return done[repeats // 2]


def reference_fits(battles: Battles, rounds: int) -> FloatArray:
    """Elo of the first rounds as the reference finds them: a logistic regression each (specs/arena_hard, section 2)."""
    from sklearn.linear_model import LogisticRegression

    models = len(battles.names)
    design = np.zeros((len(battles), models))
    everyone = np.arange(len(battles))
    design[everyone, battles.first] = np.log(10.0)
    design[everyone, battles.second] = -np.log(10.0)
    rng, found = np.random.RandomState(SEED), []
    for _ in range(rounds):
        drawn = rng.randint(0, len(battles), len(battles))
        rows, result = design[drawn], battles.result[drawn]
        won = np.concatenate((result >= 1, result == 2))  # a tie is a win and a loss
        model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(np.concatenate((rows, rows)), won)
        elo = 400.0 * model.coef_[0] + 1000.0
        found.append(elo - elo[0] + 1000.0)
    return np.array(found)


def _rounds(folder: Path) -> Line:
    """The reference's own committed rounds, with the fault of a custom baseline where the file has it."""
    gaps, spent, models = [0.0], 0.0, 0
    self_battles = 0.0
    for source in read_files([folder]):
        if not source.name.endswith(".battles.jsonl"):
            continue
        stem = source.name.removesuffix(".battles.jsonl")
        battles, baseline = read_battles([dict(row) for row in source.rows])
        [rounds] = read_files([folder / f"{stem}.bootstrap100.jsonl.xz"])
        committed = np.array([[row[name] for name in battles.names] for row in rounds.rows], dtype=np.float64)
        anchor = None if "unanchored" in stem else baseline
        done = timed(lambda: reference_rounds(battles, baseline=anchor))  # noqa: B023 - called at once
        spent, models = spent + done.seconds, models + len(battles.names)
        gap = float(np.max(np.abs(done.value - committed)))
        if np.any(battles.first == battles.second):
            self_battles = max(self_battles, gap)
        else:
            gaps.append(gap)
    difference = f"{max(gaps):.1e} Elo ({self_battles:.2f} with self-battles) to the committed rounds"
    return Line("Arena-Hard, 7 committed bootstraps of 100 rounds", models, difference, spent)


def read_battles(rows: list[dict[str, Any]]) -> tuple[Battles, str]:
    """The battle table and its baseline, the model that stands first in it."""
    names = tuple(dict.fromkeys(str(row[side]) for row in rows for side in ("model_a", "model_b")))
    place = {name: number for number, name in enumerate(names)}
    results = {"model_a": 2, "model_b": 0}
    battles = Battles(
        names,
        np.array([place[row["model_a"]] for row in rows]),
        np.array([place[row["model_b"]] for row in rows]),
        np.array([results.get(row["winner"], 1) for row in rows]),
    )
    return battles, str(rows[0]["model_a"])


def _all_files(folder: Path) -> Line:
    published = json.loads((folder / "published.json").read_text("utf-8"))["v0.1"]["leaderboard_20240731"]["rows"]
    every = [folder / "raw_judgments", folder / "official_verdicts.gpt-4-0613.jsonl.xz"]
    done = timed(lambda: arena_hard.cards(read_files(every), ScoreOptions(intervals=False)))
    tokens = arena_hard.cards(
        read_files([folder / "official_answers_metadata.jsonl.xz"]), ScoreOptions(intervals=False)
    )
    found = {card.model: card.scores["avg_tokens"].value for card in tokens}
    gaps = [abs((found[row["model"]] or 0) - row["avg_tokens"]) for row in published if row["model"] in found]
    difference = f"{max(gaps):.0f} tokens (average tokens of {len(gaps)} models)"
    return Line("Arena-Hard, all given files read and scored", len(done.value), difference, done.seconds)
