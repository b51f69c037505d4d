"""Coverage of intervals and rates of false alarms over simulated data sets: shares, with their own Wilson interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.analysis.gate.sequential import looks
from harness.stats.intervals import FloatArray, percentile_interval
from harness.stats.paired import (
    ALPHA,
    least_errors,
    non_inferiority,
    paired_difference,
    rank_intervals,
    ratio_estimate,
    ratio_interval,
    student_bound,
    swap_test,
    t_quantile,
)
from harness.stats.sequential import boundaries

from .games import Sums, play, truth
from .methods import (
    bca_interval,
    jackknife,
    ratio_replicates,
    wilson,
)

LEVELS = (0.0, -0.2)
NULL = (0.1, 0.1)
Pair = tuple[FloatArray, FloatArray]
Shares = tuple[float, float]


@dataclass(frozen=True)
class Share:
    """How often something happened, and the 95 % interval of that share itself."""

    name: str
    questions: int
    hits: int
    of: int

    @property
    def value(self) -> float:
        return self.hits / self.of

    def line(self) -> str:
        low, high = wilson(self.hits, self.of)
        return f"| {self.name} | {self.questions} | {self.value:.3f} | {low:.3f} to {high:.3f} |"


def model(data: Sums, one: int, which: int) -> Pair:
    return data.above[one, :, which], data.below[one, :, which]


def single_coverage(sets: int, questions: int, *, resamples: int = 2000, seed: int = 1) -> list[Share]:
    """One model's ratio: clustered t, the card's own interval, percentile and BCa bootstrap."""
    data, true = play(np.random.default_rng(seed), sets, questions, LEVELS[:1]), truth(LEVELS[:1])[0]
    above, below = data.above[:, :, 0].T, data.below[:, :, 0].T
    drawn = ratio_replicates(above, below, resamples=resamples, seed=seed)
    hits = dict.fromkeys(("clustered t", "the card's", "percentile bootstrap", "BCa bootstrap"), 0)
    for one in range(sets):
        estimate = ratio_estimate(above[:, one], below[:, one])
        card = ratio_interval(above[:, one], below[:, one], (0.0, 1.0))
        plain = percentile_interval(drawn[:, one])
        bent = bca_interval(
            above[:, one].sum() / below[:, one].sum(), drawn[:, one], jackknife(above[:, one], below[:, one])
        )
        assert estimate is not None
        assert card is not None
        assert plain is not None
        assert bent is not None
        low, high = estimate.interval()
        hits["clustered t"] += low <= true <= high
        hits["the card's"] += card.low <= true <= card.high
        hits["percentile bootstrap"] += plain.low <= true <= plain.high
        hits["BCa bootstrap"] += bent.low <= true <= bent.high
    return [Share(f"one ratio, {name}", questions, count, sets) for name, count in hits.items()]


def paired_coverage(sets: int, questions: int, *, resamples: int = 2000, seed: int = 2) -> list[Share]:
    """Difference of two models' ratios on the same questions: t and bootstrap."""
    data, values = play(np.random.default_rng(seed), sets, questions, LEVELS), truth(LEVELS)
    true = values[0] - values[1]
    drawn = [
        ratio_replicates(data.above[:, :, which].T, data.below[:, :, which].T, resamples=resamples, seed=seed)
        for which in (0, 1)
    ]
    student = percentile = 0
    for one in range(sets):
        estimate = paired_difference(model(data, one, 0), model(data, one, 1))
        plain = percentile_interval(drawn[0][:, one] - drawn[1][:, one])
        assert estimate is not None
        assert plain is not None
        low, high = estimate.interval()
        student += low <= true <= high
        percentile += plain.low <= true <= plain.high
    return [
        Share("paired difference, clustered t", questions, student, sets),
        Share("paired difference, bootstrap", questions, percentile, sets),
    ]


def binary_coverage(sets: int, questions: int, *, seed: int = 3) -> list[Share]:
    """Wilson for a share, and the product's paired difference of shares; a game won is a success."""
    first, second, true = _binary(sets, questions, (0.3, -0.1), seed)
    hits, ones = [0, 0], np.ones(questions)
    for one, other in zip(first, second, strict=True):
        low, high = wilson(int(one.sum()), questions)
        hits[0] += low <= true[0] <= high
        estimate = paired_difference((one, ones), (other, ones), bounds=(0.0, 1.0))
        assert estimate is not None
        low, high = estimate.interval()
        hits[1] += low <= true[0] - true[1] <= high
    names = ("share, Wilson", "paired difference of shares, t")
    return [Share(name, questions, count, sets) for name, count in zip(names, hits, strict=True)]


def _binary(sets: int, questions: int, levels: tuple[float, float], seed: int) -> tuple[FloatArray, FloatArray, Shares]:
    def won(rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
        shared = rng.normal(0, 1, (rows, columns, 1))
        found: FloatArray = (shared + rng.normal(0, 1, (rows, columns, 2)) + np.array(levels) > 0).astype(np.float64)
        return found

    rng = np.random.default_rng(seed)
    data, many = won(rng, sets, questions), won(rng, 1, 2_000_000)[0]
    return data[:, :, 0], data[:, :, 1], (float(many[:, 0].mean()), float(many[:, 1].mean()))


def false_alarms(sets: int, questions: int, *, flips: int = 999, seed: int = 4) -> list[Share]:
    """How often two equal models are told apart at 5 %."""
    data = play(np.random.default_rng(seed), sets, questions, NULL)
    student = swapped = 0
    for one in range(sets):
        first, second = model(data, one, 0), model(data, one, 1)
        estimate = paired_difference(first, second)
        assert estimate is not None
        student += estimate.p_two_sided() <= 0.05
        swapped += swap_test(first, second, flips=flips, seed=one) <= 0.05
    wins, others, _ = _binary(sets, questions, (0.2, 0.2), seed)
    ones = np.ones(questions)
    exact = sum(swap_test((one, ones), (other, ones)) <= 0.05 for one, other in zip(wins, others, strict=True))
    counts = {
        "paired t": student,
        "permutation": swapped,
        "permutation of right or wrong answers (McNemar's exact test)": exact,
    }
    return [Share(name, questions, count, sets) for name, count in counts.items()]


def margin_errors(sets: int, questions: int, *, seed: int = 5) -> list[Share]:
    """A true drop of just the margin: how often it passes as safe, and how often it is called worse (5 % each)."""
    levels = (-0.2, 0.0)
    data, values = play(np.random.default_rng(seed), sets, questions, levels), truth(levels)
    margin = float(values[1] - values[0])
    answers = []
    for one in range(sets):
        estimate = paired_difference(model(data, one, 0), model(data, one, 1))
        assert estimate is not None
        answers.append(non_inferiority(estimate, margin).answer)
    return [
        Share("true drop = margin, called safe", questions, answers.count("safe"), sets),
        Share("true drop = margin, called worse", questions, answers.count("worse"), sets),
    ]


def look_errors(sets: int, questions: int, *, seed: int = 6) -> list[Share]:
    """True drop = margin, looked at after 40 questions and each 20 more: how often a look calls it safe."""
    data, values = play(np.random.default_rng(seed), sets, questions, LEVELS), truth(LEVELS)
    sums = [np.cumsum(part, axis=1) for part in (data.above, data.below)]
    true, counts = float(values[0] - values[1]), looks(questions)
    shares = tuple(count / questions for count in counts)
    bounds = boundaries(shares, ALPHA)
    sequential = fixed = last = 0
    for number in range(sets):
        errors = [(value - true) / se for value, se in (_running(data, sums, number, count) for count in counts)]
        pairs = list(zip(errors, bounds, counts, strict=True))
        sequential += any(error > student_bound(bound, count - 1) for error, bound, count in pairs)
        fixed += any(error > t_quantile(1 - ALPHA, count - 1) for error, _, count in pairs)
        last += errors[-1] > t_quantile(1 - ALPHA, questions - 1)
    return [
        Share("group-sequential test, any look", questions, sequential, sets),
        Share("test of fixed size, at the end", questions, last, sets),
        Share("test of fixed size, repeated at each look", questions, fixed, sets),
    ]


def _running(data: Sums, sums: list[FloatArray], one: int, n: int) -> tuple[float, float]:
    above, below = sums[0][one, n - 1], sums[1][one, n - 1]
    rates = above / below
    apart = (data.above[one, :n] - rates * data.below[one, :n]) / (below / n)
    centred = apart[:, 0] - apart[:, 1]
    return float(rates[0] - rates[1]), float(np.sqrt(n / (n - 1) * (centred @ centred)) / n)


def rank_coverage(sets: int, questions: int, *, resamples: int = 500, seed: int = 7) -> list[Share]:
    """Ten models, some nearly alike: how often each model's rank interval holds its true rank."""
    levels = (0.6, 0.3, 0.28, 0.1, 0.0, -0.02, -0.2, -0.3, -0.5, -0.8)
    data = play(np.random.default_rng(seed), sets, questions, levels)
    hits = 0
    for one in range(sets):
        above, below = data.above[one], data.below[one]
        drawn = ratio_replicates(above, below, resamples=resamples, seed=one)
        least = least_errors(list(zip(above.T, below.T, strict=True)), (0.0, 1.0))
        ranges = rank_intervals(above.sum(axis=0) / below.sum(axis=0), drawn, df=questions - 1, least=least)
        hits += sum(rank.best <= place <= rank.worst for place, rank in enumerate(ranges, start=1))
    return [Share("rank interval", questions, hits, sets * len(levels))]


Study = Callable[[int, int], list[Share]]
COVERAGE: tuple[Study, ...] = (single_coverage, paired_coverage, binary_coverage)
