"""Split the variance of verdicts by its source: questions, answers drawn, judges and orders, repeats. Pure.

>>> import numpy as np
>>> verdicts, questions = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1])
>>> variance_split(verdicts, [questions, np.arange(4)]).raw  # between questions, within a question
(0.5, 0.0)

The model is nested and random: a verdict is a mean plus one independent, zero-centred effect per level,
y = mu + a_question + b_draw + ... + e. Components come from the analysis of variance by the method of moments,
which is unbiased for any numbers of draws and verdicts (Searle, Casella, McCulloch 1992, Variance Components, 3.5): a
level's sum of squares has an expectation that is linear in the components of that level and those below.

`shift` tests whether the same answers get other verdicts than before; `crossed_mean` averages a table of questions and
repeats that are both samples; `within_difference` compares two models on fixed questions, by the noise within each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval
from .paired import ClusteredEstimate, clustered_interval, least_se, normal_quantile, t_cdf, t_quantile

IntArray = NDArray[np.int64]

ROUNDING = 1e-12
"""Share of the total sum of squares below which a level's share, a difference of such sums, is rounding error."""

ALPHA = 0.01
"""Chance of a false alarm. Every run makes a check, and 5 % would be one alarm in twenty runs."""
POWER = 0.8


@dataclass(frozen=True)
class Split:
    """Components of variance, the top level first, in the square of the values' unit."""

    raw: tuple[float, ...]
    """Unbiased estimates, which may be below zero by chance if a level adds nothing."""
    weights: tuple[float, ...]
    """Weight of each component in the variance of one question's mean: 1/K for K draws of equal size, and so on."""
    questions: int

    @property
    def components(self) -> tuple[float, ...]:
        """Return the components with negative estimates set to 0."""
        return tuple(max(0.0, value) for value in self.raw)

    @property
    def truncated(self) -> tuple[int, ...]:
        """Return the levels whose estimate is below zero."""
        return tuple(level for level, value in enumerate(self.raw) if value < 0)

    @property
    def parts(self) -> tuple[float, ...]:
        """Return each level's part of the variance of the mean over questions: component * weight / questions."""
        return tuple(
            component * weight / self.questions for component, weight in zip(self.components, self.weights, strict=True)
        )


def variance_split(values: FloatArray, levels: Sequence[IntArray], *, removed: Sequence[int] = ()) -> Split | None:
    """Return the components of `levels`, top (questions) first. The last level is the single value.

    `values`, shape (rows,); each level's labels, shape (rows,), nested in the level above. None if a level does not
    have more groups than the one above, which makes the two indistinguishable. `removed`: degrees of freedom of each
    level that the caller used up by subtracting means of fixed effects (exact if the design is balanced).
    """
    rows = len(values)
    groups = [np.zeros(rows, dtype=np.int64), *(_numbered(level) for level in levels)]
    counts = [np.bincount(group) if rows else np.zeros(0, dtype=np.int64) for group in groups]
    sizes = [len(count) for count in counts]
    if not rows or any(below <= above for above, below in pairwise(sizes)):
        return None
    depth = len(levels)
    table = np.array(
        [[_spread(groups, counts, upper, lower) for lower in range(1, depth + 1)] for upper in range(depth + 1)]
    )
    expected = np.diff(table, axis=0)
    squares = np.diff(
        [float(np.sum(_sums(values, group) ** 2 / count)) for group, count in zip(groups, counts, strict=True)]
    )
    # rounding errors would otherwise show as tiny components
    squares[np.abs(squares) <= ROUNDING * float(np.sum(values**2))] = 0.0
    freedom = np.diff(sizes).astype(np.float64)
    lost = np.array([*removed, *([0] * (depth - len(removed)))], dtype=np.float64)
    if np.any(freedom <= lost):
        return None
    raw = np.zeros(depth)
    # from the lowest level up: a sum of squares also contains the components below its level
    for level in reversed(range(depth)):
        explained = expected[level, level + 1 :] @ raw[level + 1 :]
        raw[level] = (squares[level] * freedom[level] / (freedom[level] - lost[level]) - explained) / expected[
            level, level
        ]
    weights = [_weight(groups[1], counts[1], group, count) for group, count in zip(groups[1:], counts[1:], strict=True)]
    return Split(tuple(float(value) for value in raw), tuple(weights), sizes[1])


def _numbered(labels: IntArray) -> IntArray:
    numbers: IntArray = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return numbers


def _sums(values: FloatArray, group: IntArray) -> FloatArray:
    return np.bincount(group, weights=values).astype(np.float64)


def _spread(groups: Sequence[IntArray], counts: Sequence[IntArray], upper: int, lower: int) -> float:
    """Return how often a component of `lower` is in the uncorrected sum of squares of `upper`.

    It is the sum, over groups of level `lower`, of n^2 divided by the n of their group of level `upper`.
    """
    inner, outer = (lower, upper) if lower > upper else (upper, upper)
    above = np.zeros(len(counts[inner]), dtype=np.int64)
    above[groups[inner]] = groups[outer]
    return float(np.sum(counts[inner] ** 2 / counts[outer][above]))


def _weight(question: IntArray, questions: IntArray, group: IntArray, count: IntArray) -> float:
    """Return the mean over questions of the sum of squared shares of their groups."""
    above = np.zeros(len(count), dtype=np.int64)
    above[group] = question
    return float(np.sum((count / questions[above]) ** 2) / len(questions))


def centred(values: FloatArray, facets: IntArray) -> FloatArray:
    """Return the values with each facet's mean moved to the overall mean, shape (rows,).

    A harsher judge or the advantage of the first position then adds no variance.
    """
    group = _numbered(facets)
    means = _sums(values, group) / np.bincount(group)
    moved: FloatArray = values - means[group] + values.mean()
    return moved


@dataclass(frozen=True)
class PairedShift:
    """The mean of paired differences, in their own unit."""

    value: float
    interval: Interval | None
    """95 %; None with fewer than two questions."""
    p: float | None
    """Two-sided paired t-test that the mean is 0, questions as the unit; None with fewer than two."""
    detectable: float | None
    """Mean that the test at `ALPHA` detects with a probability of `POWER`; None with fewer than two questions, or if
    all differences are equal and their range is unknown."""


def shift(differences: FloatArray, questions: Sequence[Hashable], *, widest: float = 0.0) -> PairedShift | None:
    """Return the mean of `differences` (now minus before), shape (rows,), over each row's question. None if empty.

    `widest`: the range of a verdict. If all differences are equal, it gives the error behind `detectable`: a few
    verdicts that all stayed as they were would not notice every move.
    """
    n = len(differences)
    if not n:
        return None
    value = float(differences.mean())
    interval = clustered_interval(value, (differences - value) / n, questions)
    if interval is None:
        return PairedShift(value, None, None, None)
    groups, quantiles = len(set(questions)), normal_quantile(1 - ALPHA / 2) + normal_quantile(POWER)
    if interval.se < 1e-12 * max(1.0, abs(value)):  # all equal: the shift is certain, or there is none
        least = quantiles * least_se(groups, value, (0.0, widest))
        return PairedShift(value, interval, 0.0 if value else 1.0, least if widest else None)
    p = 2 * t_cdf(-abs(value) / interval.se, groups - 1)
    return PairedShift(value, interval, p if math.isfinite(p) else None, quantiles * interval.se)


@dataclass(frozen=True)
class CrossedMean(ClusteredEstimate):
    """A mean over `n` questions and over repeats.

    `se` is over both, or over questions alone if there is one repeat. `df` is Satterthwaite's (1946).
    """

    se_questions: float
    """Standard error over questions alone, as if the repeats were fixed."""
    repeats: int

    def interval_questions(self, level: float = 0.95) -> tuple[float, float]:
        """Return the two-sided t interval over questions alone."""
        half = t_quantile(0.5 + level / 2, self.n - 1) * self.se_questions
        return self.value - half, self.value + half

    def detectable(self, power: float = POWER) -> float:
        """Return the smallest true mean that such data distinguish from 0 with this power, at 5 %, two-sided."""
        return (t_quantile(0.975, self.df) + normal_quantile(power)) * self.se


def crossed_mean(values: FloatArray) -> CrossedMean | None:
    """Return the mean of a table of shape (questions, repeats), or None with fewer than two questions.

    Both questions and repeats (e.g. training seeds) are samples: an interval over questions alone ignores that another
    seed trains another model. With the mean squares of a two-way layout without replication,

        Var(mean) = V_q + V_r - V_qr,   V_q = MS_q / (Q R),   V_r = MS_r / (Q R),   V_qr = MS_qr / (Q R)

    which is unbiased under additive random effects (Searle, Casella and McCulloch 1992, chapter 4); here it is at least
    V_q and V_r. `make bench-stats` measures the coverage: near 95 % with three repeats, less with two
    if they are nearly all of the variance (docs/statistics.md).
    """
    questions, repeats = values.shape
    if questions < 2 or repeats < 1:
        return None
    mean = float(values.mean())
    rows, columns = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    by_question = float(rows @ rows) / (questions - 1) / questions
    if repeats == 1:
        se = math.sqrt(by_question)
        return CrossedMean(mean, se, questions - 1, questions, se, repeats)
    by_repeat = float(columns @ columns) / (repeats - 1) / repeats
    residuals = values - mean - rows[:, None] - columns[None, :]
    both = float((residuals**2).sum()) / ((questions - 1) * (repeats - 1)) / (questions * repeats)
    # by chance the unbiased sum may be below one of its parts, which the mean cannot vary less than
    variance = max(by_question + by_repeat - both, by_question, by_repeat)
    spread = by_question**2 / (questions - 1) + by_repeat**2 / (repeats - 1)
    df = variance**2 / spread if spread else questions - 1
    return CrossedMean(mean, math.sqrt(variance), df, questions, math.sqrt(by_question), repeats)


@dataclass(frozen=True)
class Parts:
    """One run's results on fixed questions, by draw (an answer of several) or by repeat (a judgment of several)."""

    above: FloatArray
    below: FloatArray
    """Both of shape (questions, parts), the terms of sum(above) / sum(below); NaN where a part has no verdict."""
    added: bool
    """Whether a question's terms are the sum of its parts (draws) or their mean (repeats)."""

    @property
    def value(self) -> float:
        """Return the ratio over all questions."""
        above, below = (self._question(cells).sum() for cells in (self.above, self.below))
        return float(above / below)

    def _question(self, cells: FloatArray) -> FloatArray:
        counts = np.maximum(1, np.isfinite(cells).sum(axis=1))
        sums: FloatArray = np.nansum(cells, axis=1)
        return sums if self.added else sums / counts

    def variances(self) -> tuple[FloatArray, FloatArray] | None:
        """Return each question's part of the ratio's variance on these questions, and its degrees of freedom.

        A question with one part is given the variance pooled over the others, which share its weight by their degrees
        of freedom. None if no question has two parts.
        """
        # on fixed questions only the deviation from the question's own mean is noise, so it needs no centring
        errors = self.above - self.value * self.below
        counts = np.isfinite(errors).sum(axis=1)
        several = counts >= 2
        if not several.any():
            return None
        freedom = (counts[several] - 1).astype(np.float64)
        variance = np.nanvar(errors[several], axis=1, ddof=1)
        weights = (counts if self.added else 1 / np.maximum(1, counts)) / self._question(self.below).sum() ** 2
        shared = weights[~several].sum() * freedom / freedom.sum()
        return (weights[several] + shared) * variance, freedom


def within_difference(first: Parts, second: Parts, *, scale: float = 1.0) -> ClusteredEstimate | None:
    """Return the ratio of `first` minus that of `second` on these very questions.

    None if a run has no question twice.

    Only answers and verdicts are a sample, the questions are fixed. With K draws per question of variance s^2,

        se^2 = sum over questions of (s_A^2 / K_A + s_B^2 / K_B) / n^2   (means; for ratios of the linearised terms)

    (Miller 2024, arXiv 2411.00640, section 3: what is left without the variance between questions). A question's own
    s^2 from two or three draws is poor, but their sum is not. Degrees of freedom: (sum v)^2 / sum(v^2 / (f + 2)) - 2
    over terms v with f degrees each, which is n (K_A + K_B - 2) if all variances are equal. It is Satterthwaite's
    formula (1946) with unbiased estimates of the squares: his own counts n terms of one degree as n / 3.
    """
    noise, second_noise = first.variances(), second.variances()
    if noise is None or second_noise is None:
        return None
    variances, freedom = np.concatenate([noise[0], second_noise[0]]), np.concatenate([noise[1], second_noise[1]])
    total, squares = float(variances.sum()), float((variances**2 / (freedom + 2)).sum())
    df = max(1.0, total**2 / squares - 2) if squares else float(freedom.sum())
    value = first.value - second.value
    return ClusteredEstimate(scale * value, scale * math.sqrt(total), df, len(first.above))
