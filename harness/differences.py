"""The difference of two models on the same questions, by sums, by refitting, or by two cards' errors. Pure."""

from __future__ import annotations

from typing import Literal

from .protocols import Refits
from .questions import QuestionSums
from .records import Record, ScoreCard
from .stats.intervals import percentile_interval
from .stats.paired import ClusteredEstimate, correlation, paired_difference
from .stats.power import detectable, required_n
from .stats.significance import swap_test, two_sided_p

ALPHA = 0.05
Method = Literal["paired", "refitted", "unpaired"]


class Difference(Record):
    """Other minus first, for one metric over one category or all questions, in the metric's unit."""

    metric: str
    category: str | None
    """None: all questions."""
    first: float
    other: float
    """Both on the common questions only."""
    value: float
    ci_low: float
    ci_high: float
    """95 %: t over questions (paired), bootstrap percentiles (refitted), normal (unpaired)."""
    se: float
    df: int
    """Degrees of freedom of `se`; 0: normal."""
    p: float
    """Two-sided: exact permutation (paired), normal (refitted, unpaired)."""
    p_adjusted: float | None = None
    """Holm-adjusted over the models compared with the first; None if there is only one."""
    detectable: float
    """The smallest true difference that such a comparison detects with 80 % power at 5 %, two-sided."""
    needed: int | None
    """Questions needed to detect a true difference of this size; None if the difference is 0."""
    n: int
    """Common questions."""
    correlation: float | None = None
    """Correlation of the two models' question scores: what pairing gains."""
    method: Method

    def estimate(self) -> ClusteredEstimate:
        return ClusteredEstimate(self.value, self.se, self.df, self.n)


def paired(first: QuestionSums, second: QuestionSums, category: str | None, seed: int) -> Difference | None:
    """Return the paired difference over the same questions in the same order; None if there is no error estimate."""
    first_terms, second_terms = (first.above, first.below), (second.above, second.below)
    estimate = paired_difference(second_terms, first_terms, scale=first.scale)
    if estimate is None or first.value is None or second.value is None:
        return None
    low, high = estimate.interval()
    return Difference(
        metric=first.metric,
        category=category,
        first=first.value,
        other=second.value,
        value=estimate.value,
        ci_low=low,
        ci_high=high,
        se=estimate.se,
        df=estimate.df,
        p=swap_test(second_terms, first_terms, seed=seed),
        detectable=detectable(estimate.se, alpha=ALPHA / 2),
        needed=required_n(estimate.n, estimate.se, estimate.value, alpha=ALPHA / 2),
        n=estimate.n,
        correlation=correlation(first.scores(), second.scores()),
        method="paired",
    )


def refitted(refits: Refits) -> Difference:
    """Return the difference of two fitted values by bootstrap replicates that share their questions."""
    value = refits.values[1] - refits.values[0]
    apart = refits.replicates[1] - refits.replicates[0]
    interval = percentile_interval(apart)
    assert interval is not None, "a fit is refitted at least twice"
    return Difference(
        metric=refits.metric,
        category=None,
        first=refits.values[0],
        other=refits.values[1],
        value=value,
        ci_low=interval.low,
        ci_high=interval.high,
        se=interval.se,
        df=0,
        p=two_sided_p(apart, value),
        detectable=detectable(interval.se, alpha=ALPHA / 2),
        needed=required_n(refits.n, interval.se, value, alpha=ALPHA / 2),
        n=refits.n,
        correlation=correlation(*refits.replicates),
        method="refitted",
    )


def unpaired(first: ScoreCard, second: ScoreCard) -> list[Difference]:
    """Return the difference of two headlines by the cards' own errors, as if the questions were independent.

    Used if there are no rows to pair.
    """
    first_score, second_score = first.scores[first.headline], second.scores.get(first.headline)
    if (
        second_score is None
        or first_score.value is None
        or second_score.value is None
        or first_score.se is None
        or second_score.se is None
    ):
        return []
    value, se = second_score.value - first_score.value, float((first_score.se**2 + second_score.se**2) ** 0.5)
    estimate = ClusteredEstimate(value, se, 0, min(first_score.n, second_score.n))
    low, high = estimate.interval()
    return [
        Difference(
            metric=first.headline,
            category=None,
            first=first_score.value,
            other=second_score.value,
            value=value,
            ci_low=low,
            ci_high=high,
            se=se,
            df=0,
            p=estimate.p_two_sided(),
            detectable=detectable(se, alpha=ALPHA / 2),
            needed=required_n(estimate.n, se, value, alpha=ALPHA / 2),
            n=estimate.n,
            method="unpaired",
        )
    ]
