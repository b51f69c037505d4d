"""Compute the scores of Arena-Hard's files: the reference's intervals, style control, and a pool of several baselines.

A live run is scored by `ArenaHard.score` in suite.py; this module scores files that the original tools wrote. v0.1 and
v2.0 differ in the reference's interval: v0.1 resamples the rows of all models together and takes a 95 % interval, v2.0
resamples each model's own rows and takes a 90 % interval (show_result.py of each).
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
from ...stats.intervals import FloatArray, percentile_interval, resampling_weights
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
from ..scoring import PREFERENCES, Unit, mean_score
from .rows import V01_CATEGORY, AnswerFacts, Answers, ArenaQuestion, Game, Style, Version
from .suite import with_reference_interval

SIZES = {V01_CATEGORY: 500, "hard_prompt": 500, "creative_writing": 250}
"""Number of questions in each official category; a file with fewer lacks the rest."""
HEADLINE_CATEGORIES = (V01_CATEGORY, "hard_prompt")
"""Categories that `arena_hard` is computed from if the rows have them; v2.0's others have another baseline."""
BASELINES = {
    V01_CATEGORY: "gpt-4-0314",  # config/judge_config.yaml of v0.1; its rows do not name their baseline
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
MISSING_FROM_A_ROUND = 50.0  # show_result.py of v0.1: NaN becomes 0.5
FORMULAS: dict[str, tuple[Formula, Elements]] = {
    "v0.1": ("v0.1", "style"),
    "v2": ("v2.0", "style"),
    "length": ("v2.0", "length"),
    "markdown": ("v2.0", "markdown"),
}
"""Values of --style-control; length and markdown alone exist in v2.0 only."""
STYLE_NAMES = ("length", "headers", "lists", "bold")
STYLE_REFITS = 200
"""Resamples of questions for our interval under style control."""
PERCENTILES: dict[Formula, tuple[float, float]] = {"v0.1": (2.5, 97.5), "v2.0": (5.0, 95.0)}
"""Percentiles of the reference's intervals: 95 % and 90 %."""
POOL_REFITS = 400
"""Resamples of questions for the interval of a pool's win rates."""


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
        return "arena_hard" if categories <= {V01_CATEGORY} else "arena_hard_v2"

    @property
    def main(self) -> tuple[ArenaQuestion, ...]:
        """Return the questions that the headline is computed from."""
        by_category = self.by_category()
        names = (*HEADLINE_CATEGORIES, *by_category)
        return next((by_category[name] for name in names if name in by_category), ())

    def by_category(self) -> dict[str, tuple[ArenaQuestion, ...]]:
        categories: dict[str, list[ArenaQuestion]] = {}
        for question in self.questions:
            categories.setdefault(question.category, []).append(question)
        return {name: tuple(questions) for name, questions in categories.items()}


@dataclass(frozen=True)
class FitScores:
    """What one fit over all groups gives: metrics of each group, in the groups' order, and notes for every card."""

    scores: tuple[Mapping[str, Score], ...]
    notes: tuple[str, ...]


def baseline_of(group: ArenaGroup, named: str | None) -> str:
    """Return the baseline of the main questions: from the rows, else `named`, else the official one."""
    question = group.main[0]
    return question.baseline or named or BASELINES.get(question.category, BASELINES[V01_CATEGORY])


def scored(questions: Iterable[ArenaQuestion]) -> list[Game]:
    return [game for question in questions for game in question.games if game.points is not None]


def expected_games(questions: Sequence[ArenaQuestion]) -> int:
    """Return the number of expected games: two per question, over the benchmark's questions or those present."""
    ids: dict[str, set[str]] = {}
    for question in questions:
        ids.setdefault(question.category, set()).add(question.id)
    return 2 * sum(max(SIZES.get(name, 0), len(question_ids)) for name, question_ids in ids.items())


def units(questions: Iterable[ArenaQuestion]) -> list[Unit]:
    """Return one unit per scored game: its points times its weight, and its weight."""
    return [
        Unit(question.id, game.weight * game.points, game.weight)
        for question in questions
        for game in question.games
        if game.points is not None
    ]


def closed_form(questions: Sequence[ArenaQuestion], options: ScoreOptions) -> Score:
    """Return 100 * (wins + ties / 2) / battles, equal to the reference's fit as printed, or None without a battle."""
    expected = expected_games(questions)
    return mean_score(units(questions), expected, scale=100.0, bounds=PREFERENCES, intervals=options.intervals)


def reasons(questions: Iterable[ArenaQuestion], *, is_scored: bool) -> dict[str, int]:
    """Return broken games by reason: those left out, or (`is_scored`) those that the reference scores anyway."""
    counts = Counter(
        game.reason
        for question in questions
        for game in question.games
        if game.reason is not None and (game.points is not None) == is_scored
    )
    return dict(counts.most_common())


def pooled_battles(groups: Sequence[ArenaGroup]) -> Battles:
    """Return the weight-expanded rows of all groups in order; model 0 is the baseline, group i is model i + 1."""
    model = [np.full(sum(game.weight for game in scored(group.main)), index + 1) for index, group in enumerate(groups)]
    second: IntArray = np.concatenate(model).astype(np.int64)
    results = [_results(group.main) for group in groups]
    names = ("", *(str(index) for index in range(len(groups))))
    return Battles(names, np.zeros(len(second), dtype=np.int64), second, np.concatenate(results))


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
        return [score.with_interval(None) for score in values]
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
        has_interval = score.value is not None and not np.isnan(low)
        limits = {"ci_low": low, "ci_high": high, "se": None if np.isnan(error) else error}
        scores.append(score.model_copy(update=limits if has_interval else dict.fromkeys(limits)))
    return scores


def v2_reference(questions: Iterable[ArenaQuestion], score: Score) -> Score:
    """Return mean and 90 % interval of 100 resamples of the model's own rows; upstream sets no seed, we use 42."""
    games = scored(questions)
    interval = v2_row_interval([game.points or 0.0 for game in games], [game.weight for game in games])
    return with_reference_interval(score, interval)


def _judged(groups: Sequence[ArenaGroup], option: str) -> list[ArenaGroup]:
    """Return the groups with games. Raise ConfigError if they do not have one judge and one version."""
    judged = [group for group in groups if group.main]
    if len({(group.judge, group.suite) for group in judged}) > 1:
        raise ConfigError(f"{option} is one fit: pass the files of one judge and one Arena-Hard version")
    return judged


def _fit_scores(
    groups: Sequence[ArenaGroup], judged: Iterable[Mapping[str, Score]], notes: tuple[str, ...]
) -> FitScores:
    """Return the metrics of the groups with games, and none for the others."""
    metrics = iter(judged)
    return FitScores(tuple(next(metrics) if group.main else {} for group in groups), notes)


def style_control(groups: Sequence[ArenaGroup], answers: Answers, options: ScoreOptions) -> FitScores:
    """Return `arena_hard_style` and `arena_hard_style_reference`, from one fit of all groups.

    A model's score depends on the other models: their battles set the coefficients and the scaling, which the notes
    state. Raise ConfigError for an unknown formula, or if the answers' style is missing.
    """
    if options.style_control not in FORMULAS:
        raise ConfigError(f"no style control {options.style_control!r}; known: {', '.join(FORMULAS)}")
    formula, elements = FORMULAS[options.style_control]
    judged = _judged(groups, "style control")
    sample = _style_sample(judged, answers, options)
    features, scaling = style_features(sample.battles, formula, elements)
    fit = fit_style(sample.battles, features, formula)
    scores = []
    for group, pair in zip(judged, _style_scores(sample, features, formula, fit, options), strict=True):
        missing = {"unscored": max(0, expected_games(group.main) - pair[0].n)}
        names = ("arena_hard_style", "arena_hard_style_reference")
        scores.append({name: score.model_copy(update=missing) for name, score in zip(names, pair, strict=True)})
    return _fit_scores(groups, scores, _style_notes(judged, elements, options.style_control, fit, scaling))


@dataclass(frozen=True)
class StyleSample:
    """The battles of one style-controlled fit."""

    battles: StyledBattles
    question: IntArray
    """Index of the question of each battle."""
    baseline: tuple[int, ...]
    """Model index of each group's baseline; group i is model i."""
    games: tuple[int, ...]
    """Number of games of each group in the fit."""

    def rates(self, strengths: FloatArray) -> FloatArray:
        """Return win rates in percent of each group against its baseline, shape (fits, groups)."""
        return np.column_stack([style_rate(strengths, base)[:, index] for index, base in enumerate(self.baseline)])


def _style_sample(groups: Sequence[ArenaGroup], answers: Answers, options: ScoreOptions) -> StyleSample:
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
            pair = _style_pair(question, answers.get(group.model, {}), answers.get(base, {}))
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
    return StyleSample(battles, columns[:, 4].astype(np.int64), tuple(baselines), tuple(games))


def _style_pair(
    question: ArenaQuestion, candidate_facts: Mapping[str, AnswerFacts], baseline_facts: Mapping[str, AnswerFacts]
) -> tuple[Style, Style] | None:
    candidate, baseline = candidate_facts.get(question.id), baseline_facts.get(question.id)
    if candidate is None or baseline is None or candidate.style is None or baseline.style is None:
        return None
    return candidate.style, baseline.style


def _style_scores(
    sample: StyleSample, features: FloatArray, formula: Formula, fit: StyleFit, options: ScoreOptions
) -> list[tuple[Score, Score]]:
    """Return each group's score with our interval and with the reference's (whose v2.0 value is the rounds' median)."""
    battles, games = sample.battles, sample.games
    value = sample.rates(fit.strengths[None])[0]
    if not options.intervals:
        return [
            (score, score) for score in (Score(value=float(rate), n=n) for rate, n in zip(value, games, strict=True))
        ]
    blocks = resampling_weights(int(sample.question.max()) + 1, STYLE_REFITS, np.random.default_rng(options.seed))
    weights = (battles.weight * row[sample.question] for block in blocks for row in block)
    our_rates = sample.rates(refits(battles, features, formula, fit, weights))
    reference_rates = sample.rates(refits(battles, features, formula, fit, row_resamples(battles, ROUNDS, SEED)))
    middle = np.median(reference_rates, axis=0) if formula == "v2.0" else value
    return [
        (
            _style_score(value[index], our_rates[:, index], (2.5, 97.5), n),
            _style_score(middle[index], reference_rates[:, index], PERCENTILES[formula], n),
        )
        for index, n in enumerate(games)
    ]


def _style_score(value: float, rounds: FloatArray, percentiles: tuple[float, float], games: int) -> Score:
    low, high = np.percentile(rounds, percentiles)
    return Score(value=float(value), ci_low=float(low), ci_high=float(high), se=float(np.std(rounds, ddof=1)), n=games)


def _style_notes(
    groups: Sequence[ArenaGroup], elements: Elements, form: str, fit: StyleFit, scaling: Scaling
) -> tuple[str, ...]:
    names = [STYLE_NAMES[column] for column in COLUMNS[elements]]
    parts = ", ".join(
        f"{name} {coefficient:+.4f} (mean {mean:.4g}, sd {spread:.4g})"
        for name, coefficient, mean, spread in zip(names, fit.coefficients, scaling.mean, scaling.spread, strict=True)
    )
    models = ", ".join(sorted(group.model for group in groups))
    notes = [f"style control {form} over a pool of {len(groups)} models ({models}); coefficients: {parts}"]
    if not fit.converged:
        notes.append("the style-controlled fit did not converge")
    if len(groups) == 1:
        notes.append("a pool of one model hardly tells its style from its strength")
    return tuple(notes)


def pool_scores(groups: Sequence[ArenaGroup], options: ScoreOptions) -> FitScores:
    """Return `arena_hard_pool`: win rate in percent against the anchor (--baseline, or the baseline with most games).

    With a single baseline this equals the closed form. With several, a model is also rated against the anchor through
    others: a model that played two baselines links them. Raise ConfigError for groups of several judges or Arena-Hard
    versions, or for an anchor without games.
    """
    judged = _judged(groups, "--pool")
    bases = [baseline_of(group, options.baseline) for group in judged]
    names = list(dict.fromkeys([*bases, *(group.model for group in judged)]))
    games = Counter[str]()
    for group, base in zip(judged, bases, strict=True):
        games[base] += len(scored(group.main))
    anchor = options.baseline or games.most_common(1)[0][0]
    if anchor not in names:
        raise ConfigError(f"no battle with --baseline {anchor!r} in these files; baselines: {', '.join(games)}")
    points = _points_by_pair(judged, bases, names)
    anchor_index = names.index(anchor)
    strengths = fit_strengths(points.sum(axis=0), anchor_index)
    resampled = _pool_refits(points, anchor_index, options.seed) if options.intervals else None
    scores = []
    for group in judged:
        index = names.index(group.model)
        draws = None if resampled is None else resampled[:, index]
        scores.append({"arena_hard_pool": _pool_score(group, strengths[index], draws)})
    return _fit_scores(groups, scores, _pool_notes(names, bases, anchor, strengths))


def _points_by_pair(groups: Sequence[ArenaGroup], bases: Sequence[str], names: Sequence[str]) -> FloatArray:
    """Return weighted points that model i took from model j on each question, shape (questions, models, models)."""
    ids = dict.fromkeys(question.id for group in groups for question in group.main)
    rows = {question_id: row for row, question_id in enumerate(ids)}
    points = np.zeros((len(rows), len(names), len(names)))
    for group, base in zip(groups, bases, strict=True):
        model, baseline = names.index(group.model), names.index(base)
        for unit in units(group.main) if model != baseline else ():
            points[rows[unit.prompt_id], model, baseline] += unit.value
            points[rows[unit.prompt_id], baseline, model] += unit.weight - unit.value
    return points


def _pool_refits(points: FloatArray, anchor: int, seed: int) -> FloatArray:
    """Return strengths of fits to resampled questions, shape (refits, models)."""
    questions, models, _ = points.shape
    flat = points.reshape(questions, models * models)
    blocks = resampling_weights(questions, POOL_REFITS, np.random.default_rng(seed))
    return np.array(
        [fit_strengths(row.reshape(models, models), anchor) for weights in blocks for row in weights @ flat]
    )


def _pool_score(group: ArenaGroup, strength: float, draws: FloatArray | None) -> Score:
    """Return the win rate of a model's strength, with the interval of the refits in which it is tied to the anchor."""
    games = len(scored(group.main))
    value = None if np.isnan(strength) else float(_rate(strength))
    interval = None if draws is None else percentile_interval(_rate(draws[~np.isnan(draws)]))
    score = Score(value=value, n=games, unscored=max(0, expected_games(group.main) - games))
    return score.with_interval(interval)


def _rate(strength: FloatArray | float) -> FloatArray:
    """Return the probability in percent of beating the anchor, whose strength is 0."""
    rate: FloatArray = 100.0 / (1.0 + np.exp(-strength))
    return rate


def _pool_notes(names: Sequence[str], bases: Sequence[str], anchor: str, strengths: FloatArray) -> tuple[str, ...]:
    candidates = ", ".join(sorted(set(names) - set(bases)))
    notes = [f"pool of {len(set(bases))} baselines ({', '.join(sorted(set(bases)))}) and {candidates}; anchor {anchor}"]
    apart = [name for name, value in zip(names, strengths, strict=True) if np.isnan(value)]
    if apart:
        notes.append(f"no chain of won and lost games ties these to the anchor: {', '.join(sorted(apart))}")
    return tuple(notes)
