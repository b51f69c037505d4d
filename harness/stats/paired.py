"""Compare two models on the same questions: clustered standard errors, tests, rank intervals, power, non-inferiority.

>>> import numpy as np
>>> first, second, ones = np.array([1.0, 0.5, 1.0, 0.0]), np.array([0.5, 0.5, 0.5, 0.0]), np.ones(4)
>>> difference = paired_difference((first, ones), (second, ones))
>>> difference.value, round(difference.se, 3), difference.df
(0.25, 0.144, 3)

A statistic is r = sum(above) / sum(below) with one row per question; a mean is the case below = 1. Its linearised terms
u_i = (above_i - r * below_i) / mean(below) sum to zero, and

    SE = sqrt( G / (G - 1) * sum over clusters of (sum of u_i in the cluster)^2 ) / n,   df = G - 1

(Miller 2024, arXiv 2411.00640, appendix A, with the finite-cluster factor G / (G - 1); Cochran 1977, section 6.3 for
ratios). The terms of a paired difference are the difference of the terms, so that common variation cancels. Without
clusters each question is its own, and with below = 1 the paired difference is the paired t test.

With few questions, or verdicts that are nearly all equal, the sample shows too little of how much scores vary. Scores
with a lowest and a highest value therefore get two pseudo-questions, one at each: `ratio_interval` adds them to a
model's questions, and the error of `paired_difference` is never below theirs.

Limits: it needs two clusters, and without bounds the first-order linearisation is good from about 30 questions
(`make bench-stats`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval

CONFIDENCE = 0.95
"""Two-sided, of every interval here."""
ALPHA = 0.05
"""One-sided, as a gate looks for a drop."""
POWER = 0.8  # the usual convention (Cohen 1988)
FLIPS = 10_000  # a p of 0.05 then has a standard error of 0.002
CELLS = 2_000_000
"""Signs drawn at a time, as bytes: 2 MB."""
KEPT = 12_000_000
"""Signs that stay in memory for the next pair of models, as bytes: those of 1,200 questions."""
FEWEST = 30
"""Without bounds, fewer questions that all have the same difference decide nothing; the linearisation, too, is good
from about 30."""
PIECE_RESAMPLES, PIECE_MODELS = 1000, 64
"""Cells of a piece of `_largest_differences`: 0.5 MB of floats. Of the sizes tried, the fastest for 1,000 models."""
CANCELLED = 1e-6
"""A variance of a difference below this share of both variances is computed from the difference itself."""
SMALLEST = 1e-12
"""Rounding error of a difference of two ratios: swaps this close to the observed value count as equal to it."""
Answer = Literal["safe", "worse", "undecided"]
Bounds = tuple[float, float]
"""The lowest and the highest value that a question's score can have, before scaling."""
Terms = tuple[FloatArray, FloatArray]
"""(above, below) of a ratio, each of shape (questions,) or (clusters,)."""


@dataclass(frozen=True)
class ClusteredEstimate:
    """A value with its standard error, in the value's unit, and the degrees of freedom of that error."""

    value: float
    se: float
    df: float
    n: int
    """Number of questions."""

    @property
    def varies(self) -> bool:
        """Return whether the questions differ at all. If not, the error is unknown rather than 0."""
        return self.se > SMALLEST * max(1.0, abs(self.value))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided t interval, of width 0 if nothing varies."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se
        return self.value - half, self.value + half

    def lower(self, alpha: float) -> float:
        """Return the one-sided lower bound with confidence 1 - alpha."""
        return self.value - t_quantile(1 - alpha, self.df) * self.se

    def upper(self, alpha: float) -> float:
        """Return the one-sided upper bound with confidence 1 - alpha."""
        return self.value + t_quantile(1 - alpha, self.df) * self.se

    def p_below(self, bound: float) -> float:
        """Return the one-sided p of "the true value is at least `bound`" against "it is below"."""
        return self._share_below(self.value - bound)

    def p_above(self, bound: float) -> float:
        """Return the one-sided p of "the true value is at most `bound`" against "it is above"."""
        return self._share_below(bound - self.value)

    def p_two_sided(self) -> float:
        """Return the two-sided p of "the true value is 0"."""
        return min(1.0, 2 * min(self.p_below(0.0), self.p_above(0.0)))

    def _share_below(self, distance: float) -> float:
        if not self.varies:  # many equal questions are taken as certain, a few say nothing
            return 0.5 if distance == 0 or 0 < self.n < FEWEST else float(distance > 0)
        return t_cdf(distance / self.se, self.df)


# scipy.special takes most of a second to import, and every command imports this module: it is imported when used


def normal_quantile(level: float) -> float:
    """Return the quantile of the standard normal distribution at `level`, in 0..1."""
    from scipy import special

    return float(special.ndtri(level))


def t_quantile(level: float, df: float) -> float:
    """Return the quantile of Student's t. `df` of 0 or less means infinitely many (normal)."""
    from scipy import special

    return float(special.ndtri(level) if df <= 0 else special.stdtrit(df, level))


def t_cdf(value: float, df: float) -> float:
    """Return the share of Student's t below `value`, 0..1. `df` of 0 or less means infinitely many (normal)."""
    from scipy import special

    return float(special.ndtr(value) if df <= 0 else special.stdtr(df, value))


def student_bound(bound: float, df: float) -> float:
    """Return the bound of Student's t that is exceeded as often as `bound` by a normal statistic: t_df^(-1)(Phi(c)).

    Jennison and Turnbull 2000, section 3.8.
    """
    tail = 0.5 * math.erfc(bound / math.sqrt(2))
    return math.inf if tail == 0 else -t_quantile(tail, df)


def terms(above: FloatArray, below: FloatArray) -> FloatArray:
    """Return the linearised terms of sum(above) / sum(below), shape (questions,). Their sum is zero."""
    ratio = above.sum() / below.sum()
    linearised: FloatArray = (above - ratio * below) / below.mean()
    return linearised


def clustered_se(centred: FloatArray, clusters: Sequence[Hashable] | None = None) -> tuple[float, int]:
    """Return the standard error of a mean with terms minus mean `centred` (questions,), and its degrees of freedom.

    Raise ValueError if there are fewer than two clusters.
    """
    sums = centred if clusters is None else cluster_sums(centred, clusters)
    groups = len(sums)
    if groups < 2:
        raise ValueError("a standard error needs at least two clusters")
    return math.sqrt(groups / (groups - 1) * float(sums @ sums)) / len(centred), groups - 1


def cluster_sums(values: FloatArray, clusters: Sequence[Hashable]) -> FloatArray:
    """Return the sum of the values of each cluster, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    cluster_numbers = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums: FloatArray = np.bincount(cluster_numbers, values, len(numbers)).astype(np.float64)
    return sums


def ratio_estimate(
    above: FloatArray, below: FloatArray, *, clusters: Sequence[Hashable] | None = None, scale: float = 1.0
) -> ClusteredEstimate | None:
    """Return scale * sum(above) / sum(below) with its clustered error, or None for under two questions or clusters."""
    if _too_few(len(above), clusters):
        return None
    se, df = clustered_se(terms(above, below), clusters)
    return ClusteredEstimate(scale * float(above.sum() / below.sum()), scale * se, df, len(above))


def ratio_interval(above: FloatArray, below: FloatArray, bounds: Bounds | None = None) -> Interval | None:
    """Return the 95 % interval of sum(above) / sum(below), both of shape (questions,), and its error.

    With `bounds`: the t interval after adding two pseudo-questions of average weight, one at the lowest and one at the
    highest score, limited to the bounds: Agresti and Coull's interval of a share (1998, The American Statistician
    52:119), with one pseudo-observation of each kind and Student's t. Without `bounds`, or if scores are outside: the
    t interval. None with fewer than two questions, and without bounds if all are equal.
    """
    if len(above) < 2:
        return None
    value, weight = float(above.sum() / below.sum()), float(below.mean())
    low, high = bounds or (-math.inf, math.inf)
    bounded = bounds is not None and bool(
        np.all(above >= low * below - SMALLEST) and np.all(above <= high * below + SMALLEST)
    )
    if bounded:
        above, below = np.append(above, [low * weight, high * weight]), np.append(below, [weight, weight])
    estimate = ratio_estimate(above, below)
    if estimate is None or not estimate.varies:
        return None
    lower, upper = estimate.interval()
    if bounded:  # the estimate is the real questions' own; the pseudo-questions pull the middle to the centre
        lower, upper = min(value, max(low, lower)), max(value, min(high, upper))
    return Interval(lower, upper, estimate.se)


def paired_difference(
    first: tuple[FloatArray, FloatArray],
    second: tuple[FloatArray, FloatArray],
    *,
    clusters: Sequence[Hashable] | None = None,
    scale: float = 1.0,
    bounds: Bounds | None = None,
) -> ClusteredEstimate | None:
    """Return the ratio of `first` minus that of `second`, each (above, below) over the same ordered questions.

    `bounds` of a question's score: the error is at least `least_error`. None with fewer than two questions or clusters.
    """
    if _too_few(len(first[0]), clusters):
        return None
    se, df = clustered_se(terms(*first) - terms(*second), clusters)
    value = float(first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum())
    if bounds is not None and clusters is None:
        se = max(se, least_error(first, second, bounds))
    return ClusteredEstimate(scale * value, scale * se, df, len(first[0]))


def least_error(first: Terms, second: Terms, bounds: Bounds) -> float:
    """Return the least standard error of a paired difference of scores within `bounds`, before scaling."""
    return float(least_errors([first, second], bounds)[0, 1])


def least_errors(models: Sequence[Terms], bounds: Bounds) -> FloatArray:
    """Return `least_error` of each pair of models with the same questions, shape (models, models).

    `least_se`; if each question is at a bound in both, as if it was right or wrong, the error with two questions added,
    one lost entirely and one won entirely. Such differences are 0 or as large as possible: if only a few differ, their
    spread in the sample is as uncertain as their number, so the floor of `least_se` is too low.
    """
    questions, widest = len(models[0][0]), bounds[1] - bounds[0]
    values = np.array([above.sum() / below.sum() for above, below in models])
    apart = values[:, None] - values
    least: FloatArray = np.sqrt(
        (2 * widest**2 + 2 * questions * apart**2 / (questions + 2)) / ((questions + 1) * (questions + 2))
    )
    exact = [number for number, model in enumerate(models) if _is_right_or_wrong(model, bounds)]
    if len(exact) > 1:
        table = np.stack([models[number][0] for number in exact])
        squares = (table**2).sum(axis=1)
        mean_square = (squares[:, None] + squares - 2 * table @ table.T + 2 * widest**2) / (questions + 2)
        shift = (table.sum(axis=1)[:, None] - table.sum(axis=1)) / (questions + 2)
        least[np.ix_(exact, exact)] = np.sqrt((mean_square - shift**2) / (questions + 2))
    return least


def _is_right_or_wrong(scores: Terms, bounds: Bounds) -> bool:
    above, below = scores
    return bool((below == 1.0).all()) and bool(((above == bounds[0]) | (above == bounds[1])).all())


def least_se(questions: int, difference: float, bounds: Bounds) -> float:
    """Return the least standard error of a paired difference of scores within `bounds`.

    It is the error if each of the n questions had the observed difference d, and one were lost entirely and one won
    entirely besides: -R and +R for a range R, as Bonett and Price (2012, Journal of Educational and Behavioral
    Statistics 37:479) add them to paired wins and losses. sqrt((2 R^2 + 2 n d^2 / (n + 2)) / ((n + 1) (n + 2))).
    They bound the error instead of adding to it: differences of 50 questions and more usually vary more than that, and
    adding would widen MT-Bench's intervals by 13 to 20 % for no better coverage.
    """
    n, widest = questions, bounds[1] - bounds[0]
    return math.sqrt((2 * widest**2 + 2 * n * difference**2 / (n + 2)) / ((n + 1) * (n + 2)))


def _too_few(questions: int, clusters: Sequence[Hashable] | None) -> bool:
    return questions < 2 or (clusters is not None and len(set(clusters)) < 2)


def correlation(first: FloatArray, second: FloatArray) -> float | None:
    """Return Pearson's correlation of two models' question scores, or None if one has no spread.

    The higher it is, the more pairing reduces var(a - b).
    """
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def clustered_interval(value: float, influence: FloatArray, clusters: Sequence[Hashable]) -> Interval | None:
    """Return value +- t * SE with SE = sqrt(G/(G-1) * sum over clusters of (sum of influence)^2).

    None with fewer than two clusters. `influence`, shape (rows,): a row's first-order contribution to the estimate's
    error, in the estimate's own unit ((s_i - mean)/n for a mean). G clusters, G-1 degrees of freedom. Miller 2024
    (arXiv 2411.00640) appendix A, with the finite-cluster factor.
    """
    sums = cluster_sums(influence, clusters)
    groups = len(sums)
    if groups < 2:
        return None
    se = float(np.sqrt(groups / (groups - 1) * np.sum(sums**2)))
    half = t_quantile(0.5 + CONFIDENCE / 2, groups - 1) * se
    return Interval(low=value - half, high=value + half, se=se)


@dataclass(frozen=True)
class RankInterval:
    best: int
    """1 is the highest value."""
    worst: int


def rank_intervals(
    estimates: FloatArray,
    replicates: FloatArray,
    level: float = CONFIDENCE,
    *,
    joint: bool = False,
    df: float = 0,
    least: FloatArray | None = None,
) -> list[RankInterval]:
    """Return each model's rank interval from estimates (models,) and paired replicates (resamples, models).

    The rank is between 1 + (models significantly better) and k - (models significantly worse). Significance is a
    two-sided test of all k - 1 paired differences at once: |d_jk| / se_jk above the quantile of its largest value over
    k (Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91:476). An interval contains the true rank
    with a probability of at least `level`; ties widen it. `joint`: all intervals contain their ranks at once with that
    probability, as the largest value is taken over all pairs. Replicates with a NaN are ignored.

    `df` above 0: the replicates are resamples of df + 1 questions, too few to show their own spread. The spread of
    resamples is then multiplied by sqrt((df + 1) / df), and the quantile is that of Student's t with the same tail.
    `least`, shape (models, models): the error of a difference is never below.
    """
    sound = replicates[np.isfinite(replicates).all(axis=1)]
    count = len(estimates)
    errors = sound - estimates
    spreads = _spreads_of_differences(errors)
    bars = np.full(count, np.inf)
    if len(errors):
        largest = _largest_differences(errors, 1 / spreads)
        bars[:] = np.quantile(largest.max(axis=0), level) if joint else np.quantile(largest, level, axis=1)
    if df > 0:
        spreads = spreads * math.sqrt((df + 1) / df)
        bars = np.array([student_bound(bar, df) for bar in bars])
    if least is not None:
        spreads = np.maximum(spreads, least)
    intervals = []
    for model, (bar, spread) in enumerate(zip(bars, spreads, strict=True)):
        apart = estimates - estimates[model]
        with np.errstate(invalid="ignore"):  # 0 * inf if all answer alike: NaN, which is neither above nor below
            reach = bar * spread
        better, worse = int(np.sum(apart > reach)), int(np.sum(apart < -reach))
        intervals.append(RankInterval(1 + better, count - worse))
    return intervals


def _spreads_of_differences(errors: FloatArray) -> FloatArray:
    """Return the standard deviation of each difference of two columns, shape (models, models), or infinite if it is 0.

    Models that answer all alike are thus never distinguished.
    """
    resamples, count = errors.shape
    if resamples < 2:
        return np.full((count, count), np.inf)
    centred = errors - errors.mean(axis=0)
    covariance = centred.T @ centred / (resamples - 1)
    variances = np.diag(covariance)
    both = variances[:, None] + variances
    spreads: FloatArray = np.sqrt(np.maximum(both - 2 * covariance, 0.0))
    # of nearly equal columns the subtraction above leaves rounding errors
    for model in np.flatnonzero((spreads**2 < CANCELLED * both).any(axis=1)):
        near = np.flatnonzero(spreads[model] ** 2 < CANCELLED * both[model])
        spreads[model, near] = (errors[:, near] - errors[:, [model]]).std(axis=0, ddof=1)
    spreads[spreads == 0] = np.inf
    return spreads


def _largest_differences(errors: FloatArray, rates: FloatArray) -> NDArray[np.float32]:
    """Return the largest of |errors_j - errors_k| * rates_jk over k for each model j, shape (models, resamples).

    Each pair is computed once, for both of its models, in pieces that stay in the processor's cache, and in single
    precision: a relative error of 1e-7 is far below that of a quantile of 2,000 resamples, and halves the time.
    """
    resamples, count = errors.shape
    largest = np.zeros((count, resamples), dtype=np.float32)
    single, single_rates = errors.astype(np.float32), rates.astype(np.float32)
    for start in range(0, resamples, PIECE_RESAMPLES):
        piece = np.ascontiguousarray(single[start : start + PIECE_RESAMPLES].T)
        best = np.zeros_like(piece)
        for first in range(0, count, PIECE_MODELS):
            end = min(count, first + PIECE_MODELS)
            for model in range(end - 1):
                rivals = slice(max(first, model + 1), end)
                apart = piece[rivals] - piece[model]
                apart *= single_rates[model, rivals, None]
                np.abs(apart, out=apart)
                np.maximum(best[rivals], apart, out=best[rivals])
                np.maximum(best[model], apart.max(axis=0), out=best[model])
        largest[:, start : start + PIECE_RESAMPLES] = best
    return largest


def swap_test(first: Terms, second: Terms, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided permutation p of "the two models are exchangeable", swapping their answers by cluster.

    Each is (above, below) of shape (clusters,), already summed within a cluster; the statistic is the difference of the
    two ratios. p = (1 + swaps at least as far from 0 as the observed value) / (flips + 1), so it is never 0 and the
    test is exact (Phipson and Smyth 2010, arXiv 1603.05766). With below = 1 it is the sign-flip test. If a swap moves
    the difference by one and the same amount or not at all, as with right and wrong answers, p is that of all swaps,
    without drawing any: McNemar's exact test (1947, Psychometrika 12:153).
    """
    return swap_tests([first, second], [(0, 1)], flips=flips, seed=seed)[0]


def swap_tests(
    models: Sequence[Terms], pairs: Sequence[tuple[int, int]], *, flips: int = FLIPS, seed: int = 0
) -> list[float]:
    """Return `swap_test` for each pair of positions in `models`, which all have the same number of clusters.

    The swaps are multiplied with each model's terms once, not once per pair: a swap moves the difference of two models'
    products from one model to the other.
    """
    p_values = [_exact_p(models[first], models[second]) for first, second in pairs]
    if None not in p_values:
        return [p for p in p_values if p is not None]
    totals = [(above.sum(), below.sum()) for above, below in models]
    terms_of_models = np.column_stack([column for model in models for column in model])
    hits = [0] * len(pairs)
    for swapped in _swaps(len(terms_of_models), flips, seed):
        products = (swapped.astype(np.float64) @ terms_of_models).T.reshape(len(models), 2, -1)
        for number, (first, second) in enumerate(pairs):
            if p_values[number] is not None:
                continue
            above, below = products[second] - products[first]
            with np.errstate(invalid="ignore", divide="ignore"):
                seen = abs(totals[first][0] / totals[first][1] - totals[second][0] / totals[second][1])
                ratio = (totals[first][0] + above) / (totals[first][1] + below)
                ratio -= (totals[second][0] - above) / (totals[second][1] - below)
                nearer = np.abs(ratio, out=ratio) < seen - SMALLEST
            hits[number] += nearer.size - int(np.count_nonzero(nearer))  # NaN counts against us
    drawn = [(1 + count) / (flips + 1) for count in hits]
    return [share if p is None else p for p, share in zip(p_values, drawn, strict=True)]


def _exact_p(first: Terms, second: Terms) -> float | None:
    """Return the binomial p of all swaps if each moves the difference by one amount or not at all, else None."""
    apart = first[0] - second[0]
    moved = np.abs(apart[np.abs(apart) > SMALLEST])
    if not np.array_equal(first[1], second[1]) or (len(moved) and np.ptp(moved) > SMALLEST):
        return None
    from scipy import special

    won, lost = int((apart > SMALLEST).sum()), int((apart < -SMALLEST).sum())
    return 1.0 if won == lost else min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5)))


def _swaps(clusters: int, flips: int, seed: int) -> Iterable[NDArray[np.int8]]:
    """Return which clusters each permutation swaps: blocks of shape (rows, clusters) of 0 and 1."""
    # a table of many pairs asks for the same swaps each time
    return _remembered_swaps(clusters, flips, seed) if clusters * flips <= KEPT else _draw_swaps(clusters, flips, seed)


@lru_cache(maxsize=2)
def _remembered_swaps(clusters: int, flips: int, seed: int) -> tuple[NDArray[np.int8], ...]:
    return tuple(_draw_swaps(clusters, flips, seed))


def _draw_swaps(clusters: int, flips: int, seed: int) -> Iterator[NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // max(1, clusters))
    for drawn_before in range(0, flips, block):
        yield rng.integers(0, 2, size=(min(block, flips - drawn_before), clusters), dtype=np.int8)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted to bound the chance of any false alarm (Holm 1979): max over j <= i of (m - j) p_(j)."""
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted, highest = [0.0] * count, 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (count - rank) * float(p_values[position])))
        adjusted[position] = highest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted to bound the expected share of false alarms: min over j >= i of m p_(j) / j.

    Benjamini and Hochberg 1995.
    """
    order = np.argsort(p_values, kind="stable")
    count = len(order)
    adjusted, lowest = [0.0] * count, 1.0
    for rank in range(count - 1, -1, -1):
        lowest = min(lowest, count * float(p_values[order[rank]]) / (rank + 1))
        adjusted[order[rank]] = lowest
    return adjusted


def two_sided_p(replicates: FloatArray, estimate: float) -> float:
    """Return the normal two-sided p of "the true value is 0" for a refitted statistic, from its replicates' spread."""
    sound = replicates[np.isfinite(replicates)]
    spread = float(np.std(sound, ddof=1)) if len(sound) > 1 else 0.0
    if spread == 0:
        return 1.0 if estimate == 0 else 0.0
    return math.erfc(abs(estimate) / spread / math.sqrt(2))


def quantiles(alpha: float = ALPHA, power: float = POWER) -> float:
    """Return z_(1-alpha) + z_power: 2.486 for 5 %, one-sided, and 80 %."""
    return normal_quantile(1 - alpha) + normal_quantile(power)


def detectable(se: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the smallest true difference detected with this power, in the unit of its standard error.

    delta = (z_(1-alpha) + z_power) * sqrt((omega^2 + s_A^2 / K_A + s_B^2 / K_B) / n), with omega^2 the variance between
    questions of the true difference and s^2 / K that within a question of a model's mean over K answers (Miller 2024,
    section 5). Normal quantiles: good from about 30 questions.
    """
    return quantiles(alpha, power) * se


def required_n(n: int, se: float, distance: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return the questions needed to distinguish a value from a bound `distance` away, or None if the distance is 0.

    n questions of the same kind have the standard error `se`.
    """
    if distance == 0:
        return None
    return max(2, math.ceil(n * (quantiles(alpha, power) * se / distance) ** 2))


def required_repeats(
    between: float, within: float, n: int, distance: float, *, alpha: float = ALPHA, power: float = POWER
) -> int | None:
    """Return the repeats per question needed on the same n questions, or None if no number of repeats is enough.

    between: variance over questions of the true difference (omega^2); within: variance of one repeat's difference about
    its question's own (s_A^2 + s_B^2).
    """
    room = n * (distance / quantiles(alpha, power)) ** 2 - between
    if room <= 0:
        return None
    return max(1, math.ceil(within / room))


@dataclass(frozen=True)
class NonInferiority:
    """A paired difference compared with a margin. Bounds are one-sided, and p-values are not adjusted."""

    answer: Answer
    lower: float
    upper: float
    p_safe: float
    """p-value of "the drop is the margin or more": small means safe."""
    p_worse: float
    """p-value of "the drop is the margin or less": small means worse."""


def non_inferiority(
    difference: ClusteredEstimate, margin: float, *, alpha: float = ALPHA, strict: bool = False
) -> NonInferiority:
    """Compare a difference with `margin` >= 0 in its unit. `strict`: any drop is worse, so the upper limit is 0.

    "The true difference is -margin or less" is rejected if the lower one-sided bound is above -margin: safe. "It is
    -margin or more" is rejected if the upper one is below -margin: worse. Neither: undecided (the two one-sided tests
    of Schuirmann 1987). Fewer than `FEWEST` questions that all have the same difference decide nothing.
    """
    limit = 0.0 if strict else -margin
    lower, upper = difference.lower(alpha), difference.upper(alpha)
    answer: Answer = "undecided"
    if not difference.varies and 0 < difference.n < FEWEST:
        return NonInferiority(answer, lower, upper, difference.p_above(-margin), difference.p_below(limit))
    if upper < limit:  # tested first: under `strict` a small but certain drop is within the margin, too
        answer = "worse"
    elif lower > -margin:
        answer = "safe"
    return NonInferiority(answer, lower, upper, difference.p_above(-margin), difference.p_below(limit))
