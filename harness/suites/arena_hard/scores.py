"""Compute Arena-Hard's scores of one model: the closed form, our interval and the reference's.

v0.1 and v2.0 differ in the reference's interval: v0.1 resamples the rows of all models together and takes a 95 %
interval, v2.0 resamples each model's own rows and takes a 90 % interval (show_result.py of each).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...records import Score
from ...records.errors import ConfigError
from ...stats.bradley_terry import (
    ROUNDS,
    SEED,
    Battles,
    IntArray,
    fit_strengths,
    reference_interval,
    reference_rounds,
    v2_row_interval,
    win_rate,
)
from ...stats.intervals import FloatArray, Interval, percentile_interval, resampling_weights
from ...stats.style_control import (
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
from ..files import ScoreOptions
from .rows import AnswerFacts, Answers, ArenaQuestion, Game, Style, Version

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


# -------------------------------------------------------------------------------------------------- reference intervals


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


# -------------------------------------------------------------------------------------------------------- style control
# A model's score depends on the other models of the pool (their battles set the coefficients and the scaling), so the
# notes state pool and scaling.


FORMULAS: dict[str, tuple[Formula, Elements]] = {
    "v0.1": ("v0.1", "style"),
    "v2": ("v2.0", "style"),
    "length": ("v2.0", "length"),
    "markdown": ("v2.0", "markdown"),
}
"""Values of --style-control; length and markdown alone exist in v2.0 only."""
NAMES = ("length", "headers", "lists", "bold")
STYLE_REFITS = 200
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
    notes = _style_notes(judged, elements, options.style_control, fit, scaling)
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
    drawn = resampling_weights(int(question.max()) + 1, STYLE_REFITS, np.random.default_rng(options.seed))
    ours_weights = (battles.weight * row[question] for block in drawn for row in block)
    our_rates = _rates(refits(battles, features, formula, fit, ours_weights), pool)
    reference_rates = _rates(refits(battles, features, formula, fit, row_resamples(battles, ROUNDS, SEED)), pool)
    middle = np.median(reference_rates, axis=0) if formula == "v2.0" else value
    pairs = []
    for index in range(groups):
        our_score = _style_score(float(value[index]), our_rates[:, index], (2.5, 97.5), pool.games[index])
        pairs.append(
            (
                our_score,
                _style_score(float(middle[index]), reference_rates[:, index], PERCENTILES[formula], pool.games[index]),
            )
        )
    return pairs


def _style_score(value: float, rounds: FloatArray, percentiles: tuple[float, float], games: int) -> Score:
    low, high = np.percentile(rounds, percentiles)
    return Score(value=value, ci_low=float(low), ci_high=float(high), se=float(np.std(rounds, ddof=1)), n=games)


def _rates(strengths: FloatArray, pool: BattlePool) -> FloatArray:
    """Return win rates in percent of each group against its baseline, shape (fits, groups)."""
    rates = [style_rate(strengths, base)[:, index] for index, base in enumerate(pool.baseline)]
    return np.column_stack(rates)


# ----------------------------------------------------------------------------------------------------------------- pool


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


def _style_notes(
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


# ---------------------------------------------------------------------------------------------------- pool of baselines
# Against a single baseline this equals the closed form. With several baselines, a model is also rated against the
# anchor through others: a model that played two baselines links them.


POOL_REFITS = 400
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
    scores_by_group = {id(group): _pool_score(group, strength, drawn, names.index(group.model)) for group in judged}
    notes = _pool_notes(names, bases, anchor, strength)
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
    blocks = resampling_weights(questions, POOL_REFITS, np.random.default_rng(seed))
    return np.array(
        [fit_strengths(points.reshape(models, models), anchor) for weights in blocks for points in weights @ flat]
    )


def _pool_score(group: ArenaGroup, strength: FloatArray, drawn: FloatArray | None, index: int) -> Score:
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


def _pool_notes(names: Sequence[str], bases: Sequence[str], anchor: str, strength: FloatArray) -> tuple[str, ...]:
    candidates = ", ".join(sorted(set(names) - set(bases)))
    notes = [f"pool of {len(set(bases))} baselines ({', '.join(sorted(set(bases)))}) and {candidates}; anchor {anchor}"]
    apart = [name for name, value in zip(names, strength, strict=True) if np.isnan(value)]
    if apart:
        notes.append(f"no chain of won and lost games ties these to the anchor: {', '.join(sorted(apart))}")
    return tuple(notes)
