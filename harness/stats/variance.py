"""Split the variance of verdicts by its source: questions, answers drawn, judges and orders, repeats. Pure.

The model is nested and random: a verdict is a mean plus one independent, zero-centred effect per level,
y = mu + a_question + b_draw + ... + e. Components come from the analysis of variance by the method of moments,
which is unbiased for any numbers of draws and verdicts (Searle, Casella, McCulloch 1992, Variance Components, 3.5): a
level's sum of squares has an expectation that is linear in the components of that level and those below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray

IntArray = NDArray[np.int64]

ROUNDING = 1e-12
"""Share of the total sum of squares below which a level's share, a difference of such sums, is rounding error."""


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
    """Return the components of `levels`, top (questions) first; the last level is the single value.

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
    squares[np.abs(squares) <= ROUNDING * float(np.sum(values**2))] = 0.0
    freedom = np.diff(sizes).astype(np.float64)
    lost = np.array([*removed, *([0] * (depth - len(removed)))], dtype=np.float64)
    if np.any(freedom <= lost):
        return None
    raw = np.zeros(depth)
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
