"""Compare a recipe's models on suites: one card per seed, paired by question and by seed.

>>> Gap(reference="target", value=4.5, ci_low=1.2, ci_high=7.8, verdict="better").text
'+4.500 [1.200, 7.800]'

Intervals are over questions, and over seeds if there are several. p-values are adjusted (Holm) over the models compared
with one reference on one suite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.analysis.leaderboard import HeadlineDifference, run_id
from harness.analysis.read_board import PairedRuns
from harness.records import ModelRef, Record, Score, ScoreCard
from harness.records.facts import higher_is_better
from harness.stats.paired import holm
from harness.stats.variance import CrossedMean, crossed_mean
from harness.suites.scoring import QuestionSums

from ..layout import Recipe
from .board import ALPHA, around, score_of
from .tables import Verdict, p_text, signed

TARGET = "target"
NORMAL = 1.96
"""Half a 95 % interval in standard errors, for many questions: the normal distribution's 97.5 % quantile."""
SeedCards = Mapping[int, ScoreCard]
"""Cards of one model and protocol by seed; a model that is the same for all seeds has one."""
Suites = Sequence[tuple[Path, ScoreCard]]
"""Cards with their paths."""


class Gap(Record):
    """A model minus a reference on one measure."""

    reference: str
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    """95 %, over questions, and over seeds if there are several; None: nothing varies, or no error is known."""
    p_adjusted: float | None = None
    verdict: Verdict

    @property
    def text(self) -> str:
        if self.ci_low is None or self.ci_high is None:
            return signed(self.value)
        return f"{signed(self.value)} [{self.ci_low:.3f}, {self.ci_high:.3f}]"


@dataclass(frozen=True)
class SuiteGroup:
    """The cards of all models on one protocol of a suite."""

    name: str
    file: str
    """Its name in file names."""
    cards: Mapping[str, SeedCards]
    """By model."""

    @property
    def first(self) -> ScoreCard:
        return next(iter(next(iter(self.cards.values())).values()))

    @property
    def title(self) -> str:
        first = self.first
        return f"{self.name}, {first.headline}" if first.headline != first.suite else self.name

    @property
    def higher_is_better(self) -> bool | None:
        return higher_is_better(self.first, self.first.headline)

    def of(self, models: Iterable[str]) -> SuiteGroup:
        """Return the group with these models only."""
        chosen = [model for model in models if model in self.cards]
        return SuiteGroup(self.name, self.file, {model: self.cards[model] for model in chosen})


def suite_groups(recipe: Recipe, suites: Suites) -> list[SuiteGroup]:
    """Return the cards by suite and protocol."""
    labels = _labels(recipe)
    groups: dict[tuple[str, str, str], dict[str, dict[int, ScoreCard]]] = {}
    for _, card in suites:
        if card.model in labels:
            model, seed = labels[card.model]
            group = groups.setdefault((card.suite, card.suite_version, card.protocol_sha), {})
            group.setdefault(model, {})[seed] = card
    names = [(suite, version) for suite, version, _ in groups]
    described = []
    for (suite, version, sha), cards in sorted(groups.items()):
        twice = names.count((suite, version)) > 1
        name = f"{suite} {version}" + (f" ({sha[:8]})" if twice else "")
        file = f"{suite}-{version}" + (f"-{sha[:8]}" if twice else "")
        described.append(
            SuiteGroup(name, file, {model: dict(sorted(by_seed.items())) for model, by_seed in cards.items()})
        )
    return described


def _labels(recipe: Recipe) -> dict[str, tuple[str, int]]:
    """Return the model and seed of every name on the suites' leaderboard."""
    spec = recipe.spec
    models = ("sft", *spec.variants, *spec.merges)
    labels = {recipe.label(model, seed): (model, seed) for model in models for seed in spec.seeds}
    labels |= {recipe.label(model, spec.seeds[0]): (model, spec.seeds[0]) for model in recipe.rivals}
    return labels | {ModelRef.parse(spec.target).label: (TARGET, spec.seeds[0])}


class SuiteComparison:
    """Scores and differences of models with one card per seed."""

    def __init__(self, recipe: Recipe, suites: Suites) -> None:
        self._fixed = {*recipe.fixed, *(name for name, merge in recipe.spec.merges.items() if merge.seeds == "all")}
        cards = {run_id(card): card for _, card in suites}
        runs = PairedRuns({run_id(card): path.parent for path, card in suites})
        self._pair = runs.difference
        self._questions: Mapping[str, QuestionSums] = runs.question_sums(cards.values()) if len(cards) > 1 else {}

    def score(self, cards: SeedCards) -> Score:
        """Return the mean over seeds; its interval is over questions and seeds, or over questions for one seed."""
        scores = [card.scores[card.headline] for card in cards.values()]
        if len(scores) == 1:
            return scores[0]
        values = [score.value for score in scores if score.value is not None]
        if not values:
            return Score(value=None, n=sum(row.n for row in scores), unscored=sum(row.unscored for row in scores))
        value = sum(values) / len(values)
        errors = [score.se for score in scores]
        mean = self._mean([(card, None) for card in cards.values()], values, errors)
        interval, se = (None, None) if mean is None else (self._on_scale(around(mean, value), cards), mean.se)
        return score_of(value, interval, se, n=sum(row.n for row in scores), lost=sum(row.unscored for row in scores))

    def gaps(self, group: SuiteGroup, reference: str | None) -> dict[str, Gap]:
        """Return each model of a group minus the reference, or nothing if the reference was not run on the suite."""
        if reference is None or reference not in group.cards:
            return {}
        complete = {model: all(card.complete for card in cards.values()) for model, cards in group.cards.items()}
        pairs = {name: self._difference(group, name, reference) for name in group.cards if name != reference}
        differences = {name: pair for name, pair in pairs.items() if pair is not None}
        adjusted = dict(zip(differences, holm([pair.p for pair in differences.values()]), strict=True))
        higher = group.higher_is_better
        return {
            name: _gap(reference, pair, adjusted[name], higher, complete[name] and complete[reference])
            for name, pair in differences.items()
        }

    def _difference(self, group: SuiteGroup, model: str, reference: str) -> HeadlineDifference | None:
        """Return the mean over seeds of the differences, or None if a value, an error or a seed is missing."""
        pairs = self._seed_pairs(group, model, reference)
        by_seed = [self._pair(card, base) for card, base in pairs]
        paired = [pair for pair in by_seed if pair is not None]
        if len(by_seed) < 2 or len(paired) < len(by_seed):  # a mean over some of the seeds would be of other weights
            return by_seed[0] if len(by_seed) == 1 else None
        value = sum(pair.difference for pair in paired) / len(paired)
        errors = [(pair.ci_high - pair.ci_low) / 2 / NORMAL for pair in paired]
        mean = self._mean(pairs, [pair.difference for pair in paired], errors)
        if mean is None:
            return None
        low, high = around(mean, value)
        return HeadlineDifference(difference=value, ci_low=low, ci_high=high, p=mean.p_two_sided(), paired=True)

    def _seed_pairs(self, group: SuiteGroup, model: str, reference: str) -> list[tuple[ScoreCard, ScoreCard]]:
        """Return the cards to compare: of equal seeds, or of every seed with a model that is the same for all."""
        cards, base = group.cards[model], group.cards[reference]
        if reference in self._fixed:
            (single,) = base.values()
            return [(card, single) for card in cards.values()]
        if model in self._fixed:
            (single,) = cards.values()
            return [(single, card) for card in base.values()]
        return [(card, base[seed]) for seed, card in cards.items() if seed in base]

    def _mean(
        self,
        pairs: Sequence[tuple[ScoreCard, ScoreCard | None]],
        values: Sequence[float],
        errors: Sequence[float | None],
    ) -> CrossedMean | None:
        """Return the mean over questions and seeds, or that of the seeds' values and errors if no question varies."""
        card = pairs[0][0]
        mean = self._crossed(pairs)
        return mean if mean is not None and mean.varies else _pooled(values, errors, card.scores[card.headline].n)

    def _on_scale(self, interval: tuple[float, float], cards: SeedCards) -> tuple[float, float]:
        """Return the part of an interval that a score can have."""
        low, high = interval
        for card in cards.values():
            sums = self._questions.get(run_id(card))
            if sums is not None and sums.bounds is not None:
                low, high = max(low, sums.scale * sums.bounds[0]), min(high, sums.scale * sums.bounds[1])
        return low, high

    def _crossed(self, pairs: Sequence[tuple[ScoreCard, ScoreCard | None]]) -> CrossedMean | None:
        """Return the mean over questions and seeds, or None unless all cards have terms of their headline."""
        tables: list[dict[str, float]] = []
        for card, reference in pairs:
            moves = self._moves(card)
            base = None if reference is None else self._moves(reference)
            if moves is None or (reference is not None and base is None):
                return None
            shared = moves if base is None else moves.keys() & base.keys()
            tables.append({key: moves[key] - (base or {}).get(key, 0.0) for key in moves if key in shared})
        ids = [key for key in tables[0] if all(key in table for table in tables)]
        rows = np.array([[table[key] for table in tables] for key in ids], dtype=np.float64)
        return crossed_mean(rows.reshape(len(ids), len(tables)))

    def _moves(self, card: ScoreCard) -> dict[str, float] | None:
        return _moves(self._questions.get(run_id(card)), card)


def _pooled(values: Sequence[float], errors: Sequence[float | None], questions: int) -> CrossedMean | None:
    """Return the mean of one value per seed from their errors alone, or None if an error is unknown.

    All seeds answer the same questions, so their errors over questions are not averaged away: the variance is the mean
    of the squared errors plus that of the seeds' mean, which is never too small. Degrees of freedom: Satterthwaite's.
    """
    positive = [error for error in errors if error]
    if len(positive) < len(values) or len(values) < 2 or questions < 2:
        return None
    by_question = sum(error**2 for error in positive) / len(positive)
    by_seed = float(np.var(values, ddof=1)) / len(values)
    variance = by_question + by_seed
    df = variance**2 / (by_question**2 / (questions - 1) + by_seed**2 / (len(values) - 1))
    mean, se = sum(values) / len(values), math.sqrt(variance)
    return CrossedMean(mean, se, df, questions, math.sqrt(by_question), len(values))


def _moves(sums: QuestionSums | None, card: ScoreCard) -> dict[str, float] | None:
    """Return terms per question whose mean is the headline. A ratio of sums is linearised at its value."""
    if sums is None or sums.metric != card.headline or sums.value is None:
        return None
    ratio = sums.value / sums.scale
    moves = sums.scale * (sums.above - ratio * sums.below) / float(sums.below.mean()) + sums.value
    return dict(zip(sums.ids, map(float, moves), strict=True))


def _gap(reference: str, pair: HeadlineDifference, p: float, higher: bool | None, complete: bool) -> Gap:
    verdict: Verdict = "not shown"
    if not complete:
        verdict = "incomplete"
    elif p < ALPHA and pair.is_apart and higher is not None:
        verdict = "better" if (pair.difference > 0) == higher else "worse"
    low, high = pair.ci_low, pair.ci_high
    return Gap(reference=reference, value=pair.difference, ci_low=low, ci_high=high, p_adjusted=p, verdict=verdict)


def gap_cells(gap: Gap | None) -> tuple[str, str, str]:
    """Return difference, p-value and verdict as texts."""
    if gap is None:
        return "-", "-", "-"
    return gap.text, "-" if gap.p_adjusted is None else p_text(gap.p_adjusted), gap.verdict
