"""One difference of two models on the same questions: by sums, by refitting, or by two cards' errors. Pure."""

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
    """Other minus first, of one metric over one category or all, in the metric's unit."""

    metric: str
    category: str | None
    """None: all questions."""
    first: float
    other: float
    """Both on the common questions alone."""
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
    """Holm over the models compared with the first; None where there is one."""
    detectable: float
    """The smallest true difference that such a comparison sees with 80 % power at 5 %, two-sided."""
    needed: int | None
    """Questions that would see the difference found, were it true; None where it is 0."""
    n: int
    """Common questions."""
    correlation: float | None = None
    """Of the two models' question scores: what pairing gains."""
    method: Method

    def estimate(self) -> ClusteredEstimate:
        return ClusteredEstimate(self.value, self.se, self.df, self.n)


def paired(first: QuestionSums, other: QuestionSums, category: str | None, seed: int) -> Difference | None:
    """Both over the same questions in one order; None where there is no error to give."""
    mine, theirs = (first.above, first.below), (other.above, other.below)
    estimate = paired_difference(theirs, mine, scale=first.scale)
    if estimate is None or first.value is None or other.value is None:
        return None
    low, high = estimate.interval()
    return Difference(
        metric=first.metric,
        category=category,
        first=first.value,
        other=other.value,
        value=estimate.value,
        ci_low=low,
        ci_high=high,
        se=estimate.se,
        df=estimate.df,
        p=swap_test(theirs, mine, seed=seed),
        detectable=detectable(estimate.se, alpha=ALPHA / 2),
        needed=required_n(estimate.n, estimate.se, estimate.value, alpha=ALPHA / 2),
        n=estimate.n,
        correlation=correlation(first.scores(), other.scores()),
        method="paired",
    )


def refitted(found: Refits) -> Difference:
    """By replicates that share their questions."""
    value = found.values[1] - found.values[0]
    apart = found.replicates[1] - found.replicates[0]
    interval = percentile_interval(apart)
    assert interval is not None, "a fit is refitted at least twice"
    return Difference(
        metric=found.metric,
        category=None,
        first=found.values[0],
        other=found.values[1],
        value=value,
        ci_low=interval.low,
        ci_high=interval.high,
        se=interval.se,
        df=0,
        p=two_sided_p(apart, value),
        detectable=detectable(interval.se, alpha=ALPHA / 2),
        needed=required_n(found.n, interval.se, value, alpha=ALPHA / 2),
        n=found.n,
        correlation=correlation(*found.replicates),
        method="refitted",
    )


def unpaired(first: ScoreCard, other: ScoreCard) -> list[Difference]:
    """Where there are no rows to pair: the cards' own headlines and errors, as if the questions were different ones."""
    mine, theirs = first.scores[first.headline], other.scores.get(first.headline)
    if theirs is None or mine.value is None or theirs.value is None or mine.se is None or theirs.se is None:
        return []
    value, se = theirs.value - mine.value, float((mine.se**2 + theirs.se**2) ** 0.5)
    estimate = ClusteredEstimate(value, se, 0, min(mine.n, theirs.n))
    low, high = estimate.interval()
    return [
        Difference(
            metric=first.headline,
            category=None,
            first=mine.value,
            other=theirs.value,
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
