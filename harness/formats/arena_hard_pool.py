"""Score Arena-Hard over a pool: one Bradley-Terry fit of all models and all baselines in the files.

Against a single baseline this equals the closed form. With several baselines, a model is also rated against the anchor
through others: a model that played two baselines links them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..records import Score
from ..stats.bradley_terry import fit_strengths
from ..stats.intervals import FloatArray, percentile_interval, resampling_weights
from .arena_hard_scores import ArenaGroup, baseline_of, expected_games, scored
from .options import ScoreOptions

REFITS = 400
"""Resamples of questions for the interval."""


@dataclass(frozen=True)
class Pooled:
    """The scores of a pool's models, in the groups' order."""

    scores: tuple[Mapping[str, Score], ...]
    notes: tuple[str, ...]


def pool_scores(groups: Sequence[ArenaGroup], options: ScoreOptions) -> Pooled:
    """Return `arena_hard_pool`: win rate in percent against the anchor (--baseline, or the baseline with most games).

    Raise ConfigError for groups of several judges or Arena-Hard versions, or for an anchor without games.
    """
    judged = [group for group in groups if group.main]
    if len({(group.judge, group.suite) for group in judged}) > 1:
        raise ConfigError("--pool is one fit: pass the files of one judge and one Arena-Hard version")
    bases = [baseline_of(group, options.baseline) for group in judged]
    names = list(dict.fromkeys([*bases, *(group.model for group in judged)]))
    games = Counter[str]()
    for group, base in zip(judged, bases, strict=True):
        games[base] += len(scored(group.main))
    anchor = options.baseline or games.most_common(1)[0][0]
    if anchor not in names:
        raise ConfigError(f"no battle with --baseline {anchor!r} in these files; baselines: {', '.join(games)}")
    table = _table(judged, bases, names)
    anchor_index = names.index(anchor)
    strength = fit_strengths(table.sum(axis=0), anchor_index)
    drawn = _refits(table, anchor_index, options.seed) if options.intervals else None
    scores_by_group = {id(group): _score(group, strength, drawn, names.index(group.model)) for group in judged}
    notes = _notes(names, bases, anchor, strength)
    scores = tuple(
        {"arena_hard_pool": scores_by_group[id(group)]} if id(group) in scores_by_group else {} for group in groups
    )
    return Pooled(scores, notes)


def _table(groups: Sequence[ArenaGroup], bases: Sequence[str], names: Sequence[str]) -> FloatArray:
    """Return weighted points that model i took from model j on each question, shape (questions, models, models)."""
    ids = dict.fromkeys(question.id for group in groups for question in group.main)
    row = {question: number for number, question in enumerate(ids)}
    table = np.zeros((len(row), len(names), len(names)))
    for group, base in zip(groups, bases, strict=True):
        row_model, column_model = names.index(group.model), names.index(base)
        for question in group.main if row_model != column_model else ():
            for game in question.games:
                if game.points is not None:
                    table[row[question.id], row_model, column_model] += game.weight * game.points
                    table[row[question.id], column_model, row_model] += game.weight * (1.0 - game.points)
    return table


def _refits(table: FloatArray, anchor: int, seed: int) -> FloatArray:
    """Return strengths of fits to resampled questions, shape (refits, models)."""
    questions, models, _ = table.shape
    flat = table.reshape(questions, models * models)
    blocks = resampling_weights(questions, REFITS, np.random.default_rng(seed))
    return np.array(
        [fit_strengths(points.reshape(models, models), anchor) for weights in blocks for points in weights @ flat]
    )


def _score(group: ArenaGroup, strength: FloatArray, drawn: FloatArray | None, index: int) -> Score:
    games = len(scored(group.main))
    unscored = max(0, expected_games(group.main) - games)
    if np.isnan(strength[index]):
        return Score(value=None, n=games, unscored=unscored)
    value = float(_rate(strength[index]))
    kept = None if drawn is None else drawn[~np.isnan(drawn[:, index]), index]
    interval = None if kept is None else percentile_interval(_rate(kept))
    if interval is None:
        return Score(value=value, n=games, unscored=unscored)
    limits = {"ci_low": interval.low, "ci_high": interval.high, "se": interval.se}
    return Score(value=value, n=games, unscored=unscored, **limits)


def _rate(strength: FloatArray) -> FloatArray:
    """Return the probability in percent of beating the anchor, whose strength is 0."""
    rate: FloatArray = 100.0 / (1.0 + np.exp(-strength))
    return rate


def _notes(names: Sequence[str], bases: Sequence[str], anchor: str, strength: FloatArray) -> tuple[str, ...]:
    candidates = ", ".join(sorted(set(names) - set(bases)))
    notes = [f"pool of {len(set(bases))} baselines ({', '.join(sorted(set(bases)))}) and {candidates}; anchor {anchor}"]
    apart = [name for name, value in zip(names, strength, strict=True) if np.isnan(value)]
    if apart:
        notes.append(f"no chain of won and lost games ties these to the anchor: {', '.join(sorted(apart))}")
    return tuple(notes)
