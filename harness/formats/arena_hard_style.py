"""Arena-Hard's style control over a pool of models: `arena_hard_style` with our interval and the reference's.

A model's score depends on the other models of the pool (their battles set the coefficients and the scaling), so the
notes state pool and scaling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..records import Score
from ..stats.bradley_terry import ROUNDS, SEED
from ..stats.intervals import FloatArray, resampling_weights
from ..stats.style_control import (
    COLUMNS,
    Elements,
    Formula,
    Scaling,
    StyledBattles,
    StyleFit,
    fit_style,
    refits,
    row_resamples,
    style_features,
    style_rate,
)
from .arena_hard_answers import AnswerFacts, Answers, Style
from .arena_hard_rows import ArenaQuestion
from .arena_hard_scores import ArenaGroup, baseline_of, expected_games
from .options import ScoreOptions

FORMULAS: dict[str, tuple[Formula, Elements]] = {
    "v0.1": ("v0.1", "style"),
    "v2": ("v2.0", "style"),
    "length": ("v2.0", "length"),
    "markdown": ("v2.0", "markdown"),
}
"""Values of --style-control; length and markdown alone exist in v2.0 only."""
NAMES = ("length", "headers", "lists", "bold")
REFITS = 200
"""Resamples of questions for our interval."""
PERCENTILES: dict[Formula, tuple[float, float]] = {"v0.1": (2.5, 97.5), "v2.0": (5.0, 95.0)}
"""Percentiles of the reference's intervals: 95 % and 90 %."""


@dataclass(frozen=True)
class BattlePool:
    """The battles of one fit."""

    battles: StyledBattles
    question: FloatArray
    """Index of the question of each battle."""
    baseline: tuple[int, ...]
    """Model index of each group's baseline; group i is model i."""
    games: tuple[int, ...]
    """Number of games of each group in the fit."""


@dataclass(frozen=True)
class StyleControl:
    """The scores of a pool's models, in the groups' order."""

    scores: tuple[Mapping[str, Score], ...]
    notes: tuple[str, ...]


def style_control(groups: Sequence[ArenaGroup], answers: Answers, options: ScoreOptions) -> StyleControl:
    """Fit all groups together; raise ConfigError for an unknown formula, or if the answers' style is missing."""
    if options.style_control not in FORMULAS:
        raise ConfigError(f"no style control {options.style_control!r}; known: {', '.join(FORMULAS)}")
    formula, elements = FORMULAS[options.style_control]
    judged = [group for group in groups if group.main]
    if len({(group.judge, group.suite) for group in judged}) > 1:
        raise ConfigError("style control is one fit: pass the files of one judge and one Arena-Hard version")
    pool = _pool(judged, answers, options)
    features, scaling = style_features(pool.battles, formula, elements)
    fit = fit_style(pool.battles, features, formula)
    scores = _scores(pool, features, formula, fit, options)
    scores_by_group = {
        id(group): _named(group, score, reference) for group, (score, reference) in zip(judged, scores, strict=True)
    }
    notes = _notes(judged, elements, options.style_control, fit, scaling)
    return StyleControl(tuple(scores_by_group.get(id(group), {}) for group in groups), notes)


def _named(group: ArenaGroup, score: Score, reference: Score) -> dict[str, Score]:
    rest = {"unscored": max(0, expected_games(group.main) - score.n)}
    return {
        "arena_hard_style": score.model_copy(update=rest),
        "arena_hard_style_reference": reference.model_copy(update=rest),
    }


def _scores(
    pool: BattlePool, features: FloatArray, formula: Formula, fit: StyleFit, options: ScoreOptions
) -> list[tuple[Score, Score]]:
    """Return each group's score with our interval and with the reference's (whose v2.0 value is the rounds' median)."""
    battles, groups = pool.battles, len(pool.games)
    value = _rates(fit.strengths[None], pool)[0]
    if not options.intervals:
        plain = [Score(value=float(value[index]), n=pool.games[index]) for index in range(groups)]
        return [(score, score) for score in plain]
    question = pool.question.astype(np.int64)
    drawn = resampling_weights(int(question.max()) + 1, REFITS, np.random.default_rng(options.seed))
    ours_weights = (battles.weight * row[question] for block in drawn for row in block)
    our_rates = _rates(refits(battles, features, formula, fit, ours_weights), pool)
    reference_rates = _rates(refits(battles, features, formula, fit, row_resamples(battles, ROUNDS, SEED)), pool)
    middle = np.median(reference_rates, axis=0) if formula == "v2.0" else value
    pairs = []
    for index in range(groups):
        our_score = _score(float(value[index]), our_rates[:, index], (2.5, 97.5), pool.games[index])
        pairs.append(
            (
                our_score,
                _score(float(middle[index]), reference_rates[:, index], PERCENTILES[formula], pool.games[index]),
            )
        )
    return pairs


def _score(value: float, rounds: FloatArray, percentiles: tuple[float, float], games: int) -> Score:
    low, high = np.percentile(rounds, percentiles)
    return Score(value=value, ci_low=float(low), ci_high=float(high), se=float(np.std(rounds, ddof=1)), n=games)


def _rates(strengths: FloatArray, pool: BattlePool) -> FloatArray:
    """Return win rates in percent of each group against its baseline, shape (fits, groups)."""
    rates = [style_rate(strengths, base)[:, index] for index, base in enumerate(pool.baseline)]
    return np.column_stack(rates)


# ------------------------------------------------------------------------------------------------------------- pool


def _pool(groups: Sequence[ArenaGroup], answers: Answers, options: ScoreOptions) -> BattlePool:
    models: dict[str, int] = {f"{group.model}\n{index}": index for index, group in enumerate(groups)}
    questions: dict[str, int] = {}
    rows: list[tuple[int, int, float, int, int]] = []
    styles: list[tuple[Style, Style]] = []
    baselines, games = [], []
    for index, group in enumerate(groups):
        base = baseline_of(group, options.baseline)
        baselines.append(models.setdefault(base, len(models)))
        before = len(rows)
        for question in group.main:
            pair = _pair(question, answers.get(group.model, {}), answers.get(base, {}))
            if pair is None:
                continue
            number = questions.setdefault(question.id, len(questions))
            for game in question.games:
                if game.points is not None:
                    rows.append((index, baselines[-1], game.points, game.weight, number))
                    styles.append(pair)
        games.append(len(rows) - before)
        if not games[-1]:
            raise ConfigError(
                f"style control needs --answers with token and markdown counts of {group.model!r} and of its baseline "
                f"{base!r} (--baseline names another)"
            )
    columns = np.array(rows, dtype=np.float64)
    style = np.array(styles, dtype=np.float64)
    battles = StyledBattles(
        models=len(models),
        first=columns[:, 0].astype(np.int64),
        second=columns[:, 1].astype(np.int64),
        points=columns[:, 2],
        weight=columns[:, 3],
        first_style=style[:, 0],
        second_style=style[:, 1],
    )
    return BattlePool(battles, columns[:, 4], tuple(baselines), tuple(games))


def _pair(
    question: ArenaQuestion, candidate_facts: Mapping[str, AnswerFacts], baseline_facts: Mapping[str, AnswerFacts]
) -> tuple[Style, Style] | None:
    candidate, baseline = candidate_facts.get(question.id), baseline_facts.get(question.id)
    if candidate is None or baseline is None or candidate.style is None or baseline.style is None:
        return None
    return candidate.style, baseline.style


def _notes(
    groups: Sequence[ArenaGroup], elements: Elements, asked_for: str, fit: StyleFit, scaling: Scaling
) -> tuple[str, ...]:
    names = [NAMES[column] for column in COLUMNS[elements]]
    parts = ", ".join(
        f"{name} {coefficient:+.4f} (mean {mean:.4g}, sd {spread:.4g})"
        for name, coefficient, mean, spread in zip(names, fit.coefficients, scaling.mean, scaling.spread, strict=True)
    )
    pool = ", ".join(sorted(group.model for group in groups))
    notes = [f"style control {asked_for} over a pool of {len(groups)} models ({pool}); coefficients: {parts}"]
    if not fit.converged:
        notes.append("the style-controlled fit did not converge")
    if len(groups) == 1:
        notes.append("a pool of one model hardly tells its style from its strength")
    return tuple(notes)
