"""Compute Arena-Hard's scores of one model: the closed form, our interval and the reference's.

v0.1 and v2.0 differ in the reference's interval: v0.1 resamples the rows of all models together and takes a 95 %
interval, v2.0 resamples each model's own rows and takes a 90 % interval (show_result.py of each).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..records import Score
from ..stats.bradley_terry import (
    Battles,
    IntArray,
    reference_interval,
    reference_rounds,
    v2_row_interval,
    win_rate,
)
from ..stats.intervals import FloatArray, Interval
from .arena_hard_rows import ArenaQuestion, Game, Version

SIZES = {"arena-hard-v0.1": 500, "hard_prompt": 500, "creative_writing": 250}
"""Number of questions in each official category; a file with fewer lacks the rest."""
HEADLINE_CATEGORIES = ("arena-hard-v0.1", "hard_prompt")
"""Categories that `arena_hard` is computed from if the rows have them; v2.0's others have another baseline."""
BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",  # config/judge_config.yaml of v0.1; its rows do not name their baseline
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
MISSING_FROM_A_ROUND = 50.0  # show_result.py of v0.1: NaN becomes 0.5


@dataclass(frozen=True)
class ArenaGroup:
    """One model under one judge, which becomes one card."""

    model: str
    judge: str
    version: Version
    baseline: str | None
    questions: tuple[ArenaQuestion, ...]
    """In the files' order; empty for a model with answers only."""
    duplicates: int = 0
    """Rows that a later row of the same question replaced."""

    @property
    def suite(self) -> str:
        categories = {question.category for question in self.questions}
        return "arena_hard" if categories <= {"arena-hard-v0.1"} else "arena_hard_v2"

    @property
    def main(self) -> tuple[ArenaQuestion, ...]:
        """Return the questions that the headline is computed from."""
        by_category = self.by_category()
        for name in (*HEADLINE_CATEGORIES, *by_category):
            if name in by_category:
                return by_category[name]
        return ()

    def by_category(self) -> dict[str, tuple[ArenaQuestion, ...]]:
        categories: dict[str, list[ArenaQuestion]] = {}
        for question in self.questions:
            categories.setdefault(question.category, []).append(question)
        return {name: tuple(questions) for name, questions in categories.items()}


def baseline_of(group: ArenaGroup, named: str | None) -> str:
    """Return the baseline of the main questions: from the rows, else `named`, else the official one."""
    question = group.main[0]
    return question.baseline or named or BASELINES.get(question.category, BASELINES["arena-hard-v0.1"])


def scored(questions: Iterable[ArenaQuestion]) -> list[Game]:
    return [game for question in questions for game in question.games if game.points is not None]


def expected_games(questions: Sequence[ArenaQuestion]) -> int:
    """Return the number of expected games: two per question, over the benchmark's questions or those present."""
    ids: dict[str, set[str]] = {}
    for question in questions:
        ids.setdefault(question.category, set()).add(question.id)
    return 2 * sum(max(SIZES.get(name, 0), len(question_ids)) for name, question_ids in ids.items())


def table(questions: Iterable[ArenaQuestion]) -> FloatArray:
    """Return weighted points and weights of each question with a scored game, shape (questions, 2)."""
    sums: dict[str, list[float]] = {}
    for question in questions:
        for game in question.games:
            if game.points is not None:
                row = sums.setdefault(question.id, [0.0, 0.0])
                row[0] += game.weight * game.points
                row[1] += game.weight
    return np.array(list(sums.values())).reshape(-1, 2)


def closed_form(questions: Sequence[ArenaQuestion], sums: FloatArray, interval: Interval | None) -> Score:
    """Return 100 * (wins + ties / 2) / battles, equal to the reference's fit as printed; None without a battle."""
    games = len(scored(questions))
    unscored = max(0, expected_games(questions) - games)
    if not games:
        return Score(value=None, n=0, unscored=unscored)
    above, below = sums.sum(axis=0)
    value = float(100.0 * above / below)
    if interval is None:
        return Score(value=value, n=games, unscored=unscored)
    low, high, error = 100.0 * interval.low, 100.0 * interval.high, 100.0 * interval.se
    return Score(value=value, ci_low=low, ci_high=high, se=error, n=games, unscored=unscored)


def reasons(questions: Iterable[ArenaQuestion], *, kept: bool) -> dict[str, int]:
    """Return broken games by reason: those left out, or (`kept`) those that the reference scores anyway."""
    counts = Counter(
        game.reason
        for question in questions
        for game in question.games
        if game.reason is not None and (game.points is not None) == kept
    )
    return dict(counts.most_common())


# ----------------------------------------------------------------------------------------------- reference intervals


def pooled_battles(groups: Sequence[ArenaGroup]) -> Battles:
    """Return the weight-expanded rows of all groups in order; model 0 is the baseline, group i is model i + 1."""
    model = [np.full(sum(game.weight for game in scored(group.main)), index + 1) for index, group in enumerate(groups)]
    second: IntArray = np.concatenate(model).astype(np.int64)
    rows = [_results(group.main) for group in groups]
    names = ("", *(str(index) for index in range(len(groups))))
    return Battles(names, np.zeros(len(second), dtype=np.int64), second, np.concatenate(rows))


def _results(questions: Iterable[ArenaQuestion]) -> IntArray:
    """Return the result of each row in the form of `Battles`, baseline first: 2 if the baseline won."""
    games = scored(questions)
    result = np.array([round(2.0 - 2.0 * (game.points or 0.0)) for game in games], dtype=np.int64)
    repeated: IntArray = np.repeat(result, np.array([game.weight for game in games], dtype=np.int64))
    return repeated


def v01_reference(
    groups: Sequence[ArenaGroup], values: Sequence[Score], *, strict: bool, anchored: bool
) -> list[Score]:
    """Return each group's score with the interval of 100 rounds over all groups' rows, numpy seed 42, 95 %.

    `anchored` False: as the reference treats a custom baseline, whose rating then varies too.
    """
    battles = pooled_battles(groups)
    if not len(battles):
        return [score.model_copy(update={"ci_low": None, "ci_high": None, "se": None}) for score in values]
    rounds = reference_rounds(battles, baseline="" if anchored else None)
    if anchored:
        ends = reference_interval(rounds)
    else:
        elo = np.percentile(rounds, (2.5, 97.5), axis=0)
        ends = win_rate(elo, elo[:, :1])
    spread = np.std(win_rate(rounds, rounds[:, :1]), axis=0, ddof=1)
    scores = []
    for column, score in enumerate(values, start=1):
        low, high, error = (float(number) for number in (*ends[:, column], spread[column]))
        if score.value is not None and np.isnan(low) and strict:
            low = high = MISSING_FROM_A_ROUND
        known = score.value is not None and not np.isnan(low)
        limits = {"ci_low": low, "ci_high": high, "se": None if np.isnan(error) else error}
        scores.append(score.model_copy(update=limits if known else dict.fromkeys(limits)))
    return scores


def v2_reference(questions: Iterable[ArenaQuestion], score: Score) -> Score:
    """Return mean and 90 % interval of 100 resamples of the model's own rows; upstream sets no seed, we use 42."""
    games = scored(questions)
    interval = v2_row_interval([game.points or 0.0 for game in games], [game.weight for game in games])
    if interval is None:
        return score
    limits = {"value": interval.middle, "ci_low": interval.low, "ci_high": interval.high, "se": interval.se}
    return score.model_copy(update=limits)
