"""State the difference of two models in one metric, with its error: paired, refitted, adjusted or unpaired. Pure.

>>> from harness.records import Score, ScoreCard
>>> def card(value): return ScoreCard.model_construct(scores={"s": Score(value=value, se=1.0, n=50, unscored=0)})
>>> unpaired(card(7.0), card(7.5), "s").value
0.5

`comparison` explains each kind and chooses one for a pair of runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from ..records import Record, ScoreCard
from ..records.protocols import Refits
from ..stats.combined import AdjustedDifference, JudgedPart, adjusted_difference, difference_of_parts
from ..stats.intervals import FloatArray, percentile_interval
from ..stats.paired import (
    Bounds,
    ClusteredEstimate,
    Terms,
    correlation,
    detectable,
    least_se,
    required_n,
    swap_tests,
    terms,
    two_sided_p,
)
from ..suites.scoring import QuestionSums, common, shared_bounds, sums_difference

ALPHA = 0.05
Method = Literal["paired", "refitted", "unpaired", "direct", "adjusted", "pooled", "within"]
PERCENT: Bounds = (0.0, 100.0)
"""Of a fitted rate."""
FEW = 0.9
"""A run with at most this share of the other's questions is a part of it; with more, only some answers are missing."""


class Difference(Record):
    """Other minus first, for one metric over one category or all questions, in the metric's unit."""

    metric: str
    category: str | None
    """None: all questions."""
    first: float
    other: float
    """Both on the common questions only."""
    value: float
    ci_low: float | None
    ci_high: float | None
    """95 %: t over questions (paired, direct, adjusted), bootstrap percentiles (refitted), normal (unpaired), t over
    draws or repeats of these questions (within). None: every question has the same difference, of scores without
    bounds, or all its draws agree (within), so there is no spread."""
    se: float
    df: int
    """Degrees of freedom of `se`; 0: normal."""
    p: float
    """Two-sided: exact permutation, of right and wrong answers McNemar's (paired, direct); t (adjusted, pooled,
    within); normal (refitted, unpaired)."""
    p_adjusted: float | None = None
    """Holm-adjusted over `tests`; None if there is only one."""
    tests: int | None = Field(default=None, exclude_if=lambda tests: tests is None)
    """Tests corrected for together: the models compared with the first, for a category times the categories."""
    detectable: float
    """The smallest true difference that such a comparison detects with 80 % power at 5 %, two-sided."""
    needed: int | None
    """Questions needed to detect a true difference of this size; None if the difference is 0, or `n` unknown (0)."""
    n: int
    """Common questions; of an adjusted difference, those of the run that has fewer."""
    correlation: float | None = None
    """Correlation of the two models' question scores: what pairing gains."""
    method: Method
    bounds: Bounds | None = Field(default=None, exclude=True)
    """Of a question's score, in the metric's unit; None: unknown."""
    higher_is_better: bool | None = Field(default=True, exclude_if=bool)
    """False: less is better. None: neither is, or it is unknown which."""

    @property
    def decimals(self) -> int:
        """Return how many decimals its numbers need: two, but four for shares of 1, as lm-eval's metrics are."""
        return 4 if self.method != "pooled" and max(abs(self.first), abs(self.other)) <= 1 else 2

    @property
    def gain(self) -> float | None:
        """Return how much better the other model is, negative if it is worse, or None if no direction is better."""
        return None if self.higher_is_better is None else self.value if self.higher_is_better else -self.value

    @property
    def p_shown(self) -> float:
        """Return p, after Holm's correction if there is one."""
        return self.p if self.p_adjusted is None else self.p_adjusted

    @property
    def is_shown(self) -> bool:
        """Return whether p and the interval, if there is one, agree that the models differ."""
        return self.p_shown <= ALPHA and not self.is_cautious

    @property
    def is_cautious(self) -> bool:
        """Return whether the interval contains 0 although p is small: with few questions it is wider than p needs."""
        if self.ci_low is None or self.ci_high is None:
            return False
        return self.p_shown <= ALPHA and self.ci_low <= 0 <= self.ci_high

    def estimate(self) -> ClusteredEstimate:
        return ClusteredEstimate(self.value, self.se, self.df, self.n)


class Adjustment(Record):
    """A difference adjusted for the questions on which one of the two or both were not judged, beside the plain one.

    The questions that were judged must be a random sample, as those of `--limit` are.
    """

    difference: Difference
    """Over questions of the kind, like the plain one: it may decide."""
    n: int
    of: int
    """Questions judged for both, and those that the difference is about: of the run that has more, or of `models`."""
    judged: tuple[int, int] | None = Field(default=None, exclude_if=lambda counts: counts is None)
    """Questions of the two, if both have a limit and neither has all of the other's questions and more."""
    set_low: float
    set_high: float
    """95 %, of the difference on just these `of` questions: what judging the rest would show."""
    models: tuple[str, ...]
    """Other models whose scores predict the missing ones, besides those of the run that has more questions."""


def paired(first: QuestionSums, second: QuestionSums, category: str | None, seed: int) -> Difference | None:
    """Return the paired difference over the same questions in the same order, or None if there is no error estimate."""
    row = paired_rows([(first, second)], seed)[0]
    return None if row is None else row.model_copy(update={"category": category})


def paired_rows(pairs: Sequence[tuple[QuestionSums, QuestionSums]], seed: int = 0) -> list[Difference | None]:
    """Return the paired difference of each pair over all of its questions, or None if there is no error estimate."""
    estimates = [sums_difference(second, first) for first, second in pairs]
    rows: list[Difference | None] = []
    for (first, second), estimate, p in zip(pairs, estimates, _swap_ps(pairs, seed), strict=True):
        if estimate is None or p is None or first.value is None or second.value is None:
            rows.append(None)
            continue
        low, high = estimate.interval()
        if widest := _widest(first, second):
            # Student's t is wide for few questions: no difference can exceed the scale's length
            low, high = max(low, -widest), min(high, widest)
        row = _difference(first.metric, (first.value, second.value), estimate, (low, high), p, "paired")
        update = {"correlation": correlation(first.scores(), second.scores()), "bounds": _bounds(first, second)}
        rows.append(row.model_copy(update=update))
    return rows


def _swap_ps(pairs: Sequence[tuple[QuestionSums, QuestionSums]], seed: int) -> list[float | None]:
    """Return the permutation p of each pair, or None with under two questions.

    Pairs with the same number of questions share their swaps, and a model's products with them if its questions are
    the same, too.
    """
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number, (first, _) in enumerate(pairs):
        groups[len(first.ids)].append(number)
    p_values: list[float | None] = [None] * len(pairs)
    for count, group in groups.items():
        if count < 2:
            continue
        models: dict[tuple[bytes, bytes], int] = {}
        columns: list[Terms] = []
        positions = []
        for first, second in (pairs[number] for number in group):
            for sums in (second, first):
                key = sums.above.tobytes(), sums.below.tobytes()
                if key not in models:
                    models[key] = len(columns)
                    columns.append((sums.above, sums.below))
                positions.append(models[key])
        tested = swap_tests(columns, list(zip(positions[::2], positions[1::2], strict=True)), seed=seed)
        for number, p in zip(group, tested, strict=True):
            p_values[number] = p
    return p_values


def refitted(refits: Refits) -> Difference:
    """Return the difference of two fitted rates by bootstrap replicates that share their questions.

    Few questions show too little of how much a fit varies: of 20 at which both models win nearly always, the resamples
    are nearly alike. The error is therefore at least that of a paired difference of as many questions, `least_se`.
    """
    value = refits.values[1] - refits.values[0]
    apart = refits.replicates[1] - refits.replicates[0]
    interval = percentile_interval(apart)
    assert interval is not None, "a fit is refitted at least twice"
    least = least_se(refits.n, value, PERCENT)
    # of the differences, not of two separate intervals: replicates share their questions, which cancels their noise
    estimate, p = ClusteredEstimate(value, interval.se, 0, refits.n), two_sided_p(apart, value)
    low, high = interval.low, interval.high
    if least > interval.se:
        estimate = ClusteredEstimate(value, least, refits.n - 1, refits.n)
        span, p = estimate.interval(), estimate.p_two_sided()
        low, high = max(min(low, span[0]), -PERCENT[1]), min(max(high, span[1]), PERCENT[1])
    row = _difference(refits.metric, refits.values, estimate, (low, high), p, "refitted")
    return row.model_copy(update={"correlation": correlation(*refits.replicates)})


def adjustment(sums: Sequence[QuestionSums], names: Sequence[str], *, seed: int = 0) -> Adjustment | None:
    """Return the second model minus the first, adjusted for the questions that only one of the two has.

    `sums`: the two, then the models `names`, of which those with 90 % of the questions are used. None if too few
    questions were judged for both.
    """
    first, second, *covariates = sums
    sign = 1.0 if len(second.ids) < len(first.ids) else -1.0
    smaller, whole = (second, first) if sign > 0 else (first, second)
    smaller = common([smaller, whole])[0]
    position_of = {prompt_id: position for position, prompt_id in enumerate(whole.ids)}
    predictors, models = _predictors(covariates, names, whole.ids)
    judged = [position_of[prompt_id] for prompt_id in smaller.ids]
    if not judged:
        return None
    estimate = adjusted_difference(
        _linear(smaller), judged, _linear(whole), models, widest=_widest(smaller, whole), seed=seed
    )
    if estimate is None:
        return None
    row = _adjusted_row(first.metric, estimate, sign, _bounds(first, second))
    low, high = sorted(sign * end for end in estimate.interval_set())
    return Adjustment(difference=row, n=estimate.n, of=estimate.of, set_low=low, set_high=high, models=predictors)


def adjustment_of_parts(sums: Sequence[QuestionSums], names: Sequence[str], *, seed: int = 0) -> Adjustment | None:
    """Return the second model minus the first, both judged on parts of the questions, adjusted for all of them.

    `sums`: the two, then the models `names`. All questions are those of the model that has most; of the models, those
    with 90 % of them are used. None without models, or if too few questions were judged.
    """
    first, second, *covariates = sums
    ids = max((row.ids for row in covariates), key=len, default=())
    position_of = {prompt_id: position for position, prompt_id in enumerate(ids)}
    predictors, models = _predictors(covariates, names, ids)
    if models is None:
        return None
    judged_sums = [row.of(ids) for row in (first, second)]
    positions = [np.array([position_of[prompt_id] for prompt_id in row.ids], dtype=np.int64) for row in judged_sums]
    if not all(map(len, positions)):
        return None
    reference, judged = (
        JudgedPart(_linear(row), judged_at) for row, judged_at in zip(judged_sums, positions, strict=True)
    )
    estimate = difference_of_parts(judged, reference, models, widest=_widest(first, second), seed=seed)
    if estimate is None:
        return None
    low, high = estimate.interval_set()
    return Adjustment(
        difference=_adjusted_row(first.metric, estimate, 1.0, _bounds(first, second)),
        n=len(set(judged_sums[0].ids) & set(judged_sums[1].ids)),
        of=estimate.of,
        judged=(len(judged_sums[0].ids), len(judged_sums[1].ids)),
        set_low=low,
        set_high=high,
        models=predictors,
    )


def _bounds(first: QuestionSums, second: QuestionSums) -> Bounds | None:
    """Return the lowest and highest score of a question in the metric's unit; None if unknown."""
    bounds = shared_bounds(first, second)
    return None if bounds is None else (first.scale * bounds[0], first.scale * bounds[1])


def _widest(first: QuestionSums, second: QuestionSums) -> float:
    """Return the range of a question's score in the metric's unit; 0 if it is unknown."""
    lowest, highest = _bounds(first, second) or (0.0, 0.0)
    return highest - lowest


def _adjusted_row(metric: str, estimate: AdjustedDifference, sign: float, bounds: Bounds | None) -> Difference:
    """Return the difference. `sign` -1 if the reference is the second model."""
    value, reference = sign * estimate.value, estimate.reference
    means = (reference, reference + value) if sign > 0 else (reference - value, reference)
    clustered = ClusteredEstimate(value, estimate.se, estimate.df, estimate.n)
    row = _difference(metric, means, clustered, clustered.interval(), clustered.p_two_sided(), "adjusted")
    # the error does not shrink with the square root of the questions, so the rule for `needed` does not apply
    return row.model_copy(update={"needed": None, "bounds": bounds})


def adjustment_line(row: Adjustment, plain: Difference) -> str:
    """Return the adjusted estimate beside the plain one, as a sentence."""
    sharper = row.difference
    places = sharper.decimals
    by = "the other run's" if not row.models else f"those of the other run and {len(row.models)} more"
    judged = f"{row.n}"
    if row.judged is not None:
        by = f"those of {len(row.models)} complete run{'s' if len(row.models) > 1 else ''}"
    if row.judged is not None and set(row.judged) != {row.n}:
        judged = f"{row.judged[0]} and {row.judged[1]} ({row.n} for both)"
    return (
        f"{judged} of {row.of} questions judged, the rest predicted from {by}: {difference_span(sharper)}, and on just "
        f"these {row.of} questions [{row.set_low:+.{places}f}, {row.set_high:+.{places}f}]; plain "
        f"{difference_span(plain)}"
    )


def difference_span(row: Difference) -> str:
    """Return `+0.23 [+0.22, +0.24]`, or without an interval if every question has the same difference."""
    places = row.decimals
    span = f"{row.value:+.{places}f}"
    if row.ci_low is None or row.ci_high is None:
        return span
    return f"{span} [{row.ci_low:+.{places}f}, {row.ci_high:+.{places}f}]"


def _predictors(
    covariates: Sequence[QuestionSums], names: Sequence[str], ids: Sequence[str]
) -> tuple[tuple[str, ...], FloatArray | None]:
    """Return names and scores (questions, models) of the models with 90 % of the questions, or None without any."""
    questions = set(ids)
    columns = [
        (name, _column(row, ids))
        for name, row in zip(names, covariates, strict=True)
        if questions and sum(prompt_id in questions for prompt_id in row.ids) / len(questions) >= FEW
    ]
    return tuple(name for name, _ in columns), np.column_stack([scores for _, scores in columns]) if columns else None


def _column(sums: QuestionSums, ids: Sequence[str]) -> FloatArray:
    """Return a model's score of each question, or its mean score if it has none of the question."""
    scores = dict(zip(sums.ids, _linear(sums), strict=True))
    mean = sums.value or 0.0
    return np.array([scores.get(prompt_id, mean) for prompt_id in ids])


def _linear(sums: QuestionSums) -> FloatArray:
    """Return each question's score with the weights of a ratio linearised, so that their mean is the ratio."""
    return (sums.value or 0.0) + sums.scale * terms(sums.above, sums.below)


def unpaired(first: ScoreCard, second: ScoreCard, metric: str, category: str | None = None) -> Difference | None:
    """Return the difference of a metric by the cards' own errors, as if the questions were independent.

    Used if there are no rows to pair. None if a value or standard error is missing.
    """
    score, other_score = (
        (card.scores if category is None else card.by_category.get(category, {})).get(metric)
        for card in (first, second)
    )
    if score is None or other_score is None or score.value is None or other_score.value is None:
        return None
    if score.se is None or other_score.se is None:
        return None
    # the same questions make the scores of two models move together, so this is too wide, which is the safe side
    se = float((score.se**2 + other_score.se**2) ** 0.5)
    estimate = ClusteredEstimate(other_score.value - score.value, se, 0, min(score.n, other_score.n))
    means = score.value, other_score.value
    row = _difference(metric, means, estimate, estimate.interval(), estimate.p_two_sided(), "unpaired")
    return row.model_copy(update={"category": category})


def _difference(
    metric: str,
    means: tuple[float, float],
    estimate: ClusteredEstimate,
    interval: tuple[float, float],
    p: float,
    method: Method,
) -> Difference:
    # half of alpha in each tail: the comparison is two-sided
    return Difference(
        metric=metric,
        category=None,
        first=means[0],
        other=means[1],
        value=estimate.value,
        ci_low=interval[0] if estimate.varies else None,
        ci_high=interval[1] if estimate.varies else None,
        se=estimate.se,
        df=int(estimate.df),  # an integer for all but crossed means
        p=p,
        detectable=detectable(estimate.se, alpha=ALPHA / 2),
        needed=required_n(estimate.n, estimate.se, estimate.value, alpha=ALPHA / 2)
        if estimate.n and estimate.varies
        else None,
        n=estimate.n,
        method=method,
    )
