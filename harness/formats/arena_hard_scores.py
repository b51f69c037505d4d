"""One model's questions -> Arena-Hard's scores: the closed form, our interval and the reference's.

v0.1 and v2.0 differ in the reference's interval: v0.1 resamples the rows of all models together and takes a 95 %
interval, v2.0 each model's own and takes a 90 % one (show_result.py of either).
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
from .arena_hard_rows import Game, Question, Version

SIZES = {"arena-hard-v0.1": 500, "hard_prompt": 500, "creative_writing": 250}
"""Questions asked in each official category: a file with fewer is short of the rest."""
HEADLINE_CATEGORIES = ("arena-hard-v0.1", "hard_prompt")
"""The category that `arena_hard` is read from, where the rows hold it; v2.0's others have another baseline."""
BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",  # config/judge_config.yaml of v0.1; its rows do not name their baseline
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
MISSING_FROM_A_ROUND = 50.0  # show_result.py of v0.1: NaN becomes 0.5


@dataclass(frozen=True)
class Group:
    """One model under one judge: what becomes one card."""

    model: str
    judge: str
    version: Version
    baseline: str | None
    questions: tuple[Question, ...]
    """In the files' order; empty for a model of which only answers are known."""
    duplicates: int = 0
    """Rows that a later one of the same question replaced."""

    @property
    def suite(self) -> str:
        categories = {question.category for question in self.questions}
        return "arena_hard" if categories <= {"arena-hard-v0.1"} else "arena_hard_v2"

    @property
    def main(self) -> tuple[Question, ...]:
        """The questions that the headline is read from."""
        by_category = self.by_category()
        for name in (*HEADLINE_CATEGORIES, *by_category):
            if name in by_category:
                return by_category[name]
        return ()

    def by_category(self) -> dict[str, tuple[Question, ...]]:
        found: dict[str, list[Question]] = {}
        for question in self.questions:
            found.setdefault(question.category, []).append(question)
        return {name: tuple(questions) for name, questions in found.items()}


def baseline_of(group: Group, named: str | None) -> str:
    """Whom the group's main questions were played against: as the rows say, else as `named`, else the official one."""
    question = group.main[0]
    return question.baseline or named or BASELINES.get(question.category, BASELINES["arena-hard-v0.1"])


def scored(questions: Iterable[Question]) -> list[Game]:
    return [game for question in questions for game in question.games if game.points is not None]


def asked(questions: Sequence[Question]) -> int:
    """Games that should be there: two a question, of all the benchmark's questions or those there are."""
    ids: dict[str, set[str]] = {}
    for question in questions:
        ids.setdefault(question.category, set()).add(question.id)
    return 2 * sum(max(SIZES.get(name, 0), len(found)) for name, found in ids.items())


def table(questions: Iterable[Question]) -> FloatArray:
    """Weighted points and weights of each question with a scored game; shape (questions, 2)."""
    sums: dict[str, list[float]] = {}
    for question in questions:
        for game in question.games:
            if game.points is not None:
                row = sums.setdefault(question.id, [0.0, 0.0])
                row[0] += game.weight * game.points
                row[1] += game.weight
    return np.array(list(sums.values())).reshape(-1, 2)


def closed_form(questions: Sequence[Question], sums: FloatArray, interval: Interval | None) -> Score:
    """100 * (wins + ties / 2) / battles, which is the reference's fit to the printed digit; None without a battle."""
    games = len(scored(questions))
    unscored = max(0, asked(questions) - games)
    if not games:
        return Score(value=None, n=0, unscored=unscored)
    above, below = sums.sum(axis=0)
    value = float(100.0 * above / below)
    if interval is None:
        return Score(value=value, n=games, unscored=unscored)
    low, high, error = 100.0 * interval.low, 100.0 * interval.high, 100.0 * interval.se
    return Score(value=value, ci_low=low, ci_high=high, se=error, n=games, unscored=unscored)


def reasons(questions: Iterable[Question], *, kept: bool) -> dict[str, int]:
    """Broken games by reason: those left out, or (`kept`) those the reference scores all the same."""
    found = Counter(
        game.reason
        for question in questions
        for game in question.games
        if game.reason is not None and (game.points is not None) == kept
    )
    return dict(found.most_common())


# ----------------------------------------------------------------------------------------------- reference intervals


def pooled_battles(groups: Sequence[Group]) -> Battles:
    """The weight-expanded rows of all groups in their order; model 0 is the baseline, group i is model i + 1."""
    model = [np.full(sum(game.weight for game in scored(group.main)), place + 1) for place, group in enumerate(groups)]
    second: IntArray = np.concatenate(model).astype(np.int64)
    rows = [_results(group.main) for group in groups]
    names = ("", *(str(place) for place in range(len(groups))))
    return Battles(names, np.zeros(len(second), dtype=np.int64), second, np.concatenate(rows))


def _results(questions: Iterable[Question]) -> IntArray:
    """Result of each row as `Battles` has it, the baseline first: 2 where the baseline won."""
    games = scored(questions)
    result = np.array([round(2.0 - 2.0 * (game.points or 0.0)) for game in games], dtype=np.int64)
    repeated: IntArray = np.repeat(result, np.array([game.weight for game in games], dtype=np.int64))
    return repeated


def v01_reference(groups: Sequence[Group], values: Sequence[Score], *, strict: bool, anchored: bool) -> list[Score]:
    """Each group's score with the interval of 100 rounds over all groups' rows, numpy seed 42, 95 %.

    `anchored` False: as the reference does it with a baseline of one's own, whose rating then varies too.
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
    found = []
    for place, score in enumerate(values, start=1):
        low, high, error = (float(number) for number in (*ends[:, place], spread[place]))
        if score.value is not None and np.isnan(low) and strict:
            low = high = MISSING_FROM_A_ROUND
        known = score.value is not None and not np.isnan(low)
        limits = {"ci_low": low, "ci_high": high, "se": None if np.isnan(error) else error}
        found.append(score.model_copy(update=limits if known else dict.fromkeys(limits)))
    return found


def v2_reference(questions: Iterable[Question], score: Score) -> Score:
    """Mean and 90 % interval of 100 resamples of the model's own rows; upstream sets no seed, here it is 42."""
    games = scored(questions)
    found = v2_row_interval([game.points or 0.0 for game in games], [game.weight for game in games])
    if found is None:
        return score
    limits = {"value": found.middle, "ci_low": found.low, "ci_high": found.high, "se": found.se}
    return score.model_copy(update=limits)
