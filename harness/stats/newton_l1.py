"""Fit an L1-penalised logistic regression along liblinear's own path, with its tolerances, shrinking and order.

>>> import numpy as np
>>> rows = SoftRows(np.eye(2), target=np.array([0.9, 0.5]), weight=np.array([10.0, 10.0]))
>>> [round(coefficient, 1) for coefficient in Fits(seed=1).fit(rows).tolist()]
[1.4, 0.0]

Published length-controlled win rates are not at the optimum but where liblinear stopped, up to 0.016 points away, and
the C that cross-validation picks depends on it. So this module follows the newGLMNET algorithm (Yuan, Ho and Lin 2012,
"An Improved GLMNET for L1-regularized Logistic Regression", algorithm 2), with constants of liblinear's solve_l1r_lr.

A row with target p stands for two of liblinear's, a win of weight w * p and a loss of weight w * (1 - p); their sums
are computed together. The quadratic problem of a step needs no rows, only the (features, features) curvature: with
three features its coordinate steps are plain floats, which makes it faster than the compiled original.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import mul

import numpy as np

from .intervals import FloatArray

TOLERANCE = 1e-4  # scikit-learn LogisticRegression, tol
NEWTON_STEPS = 100  # the same, max_iter
SWEEPS = 1000  # this and the rest: liblinear linear.cpp, solve_l1r_lr
HALVINGS = 20
RIDGE = 1e-12
SUFFICIENT = 0.01
SMALLEST_STEP, LARGEST_STEP = 1e-12, 10.0
IDLE_STEPS = 10
INT_MAX = 2**31 - 1
WORD = 2**32


@dataclass(frozen=True)
class SoftRows:
    """Rows of one fit."""

    features: FloatArray
    """Shape (rows, features)."""
    target: FloatArray
    """Shape (rows,), 0..1."""
    weight: FloatArray
    """Shape (rows,), including C."""

    @property
    def wins(self) -> int:
        """Return the number of rows with a share of a win. liblinear ignores rows of weight 0."""
        return int(np.count_nonzero(self.weight * self.target))

    @property
    def losses(self) -> int:
        return int(np.count_nonzero(self.weight * (1 - self.target)))


class Draws:
    """Random orders of coordinates: liblinear's bounded integers from a Mersenne twister (scikit-learn, newrand.h)."""

    def __init__(self, seed: int) -> None:
        self._words = self._twister(seed)

    @staticmethod
    def _twister(seed: int) -> Iterator[int]:
        state = np.random.RandomState(seed)
        while True:
            yield from np.frombuffer(state.bytes(256), dtype="<u4").tolist()

    def below(self, bound: int) -> int:
        """Return an integer in 0..bound-1 by Lemire's multiplication."""
        product = next(self._words) * bound
        while product % WORD < (WORD - bound) % bound:
            product = next(self._words) * bound
        return product // WORD

    def shuffle(self, order: list[int], size: int) -> None:
        """Shuffle the first `size` entries in place."""
        for position in range(size):
            partner = position + self.below(size - position)
            order[position], order[partner] = order[partner], order[position]


class Fits:
    """Fits that share one random stream, as the Cs of one cross-validation fold do."""

    def __init__(self, seed: int) -> None:
        self._stream = np.random.RandomState(seed)

    def fit(self, rows: SoftRows) -> FloatArray:
        """Return the coefficients, shape (features,), at which liblinear stops."""
        return np.array(_Path(rows, Draws(int(self._stream.randint(INT_MAX)))).run())


class _Path:
    def __init__(self, rows: SoftRows, draws: Draws) -> None:
        self._rows = rows
        self._draws = draws
        self._columns = np.ascontiguousarray(rows.features.T)
        self._size = self._columns.shape[0]
        self._lost = rows.weight * (1 - rows.target)
        self._lost_sum = self._columns @ self._lost
        self._count = rows.wins + rows.losses
        self._tolerance = TOLERANCE * max(min(rows.wins, rows.losses), 1) / max(self._count, 1)
        self._current = [0.0] * self._size
        self._next = [0.0] * self._size
        self._order = list(range(self._size))
        self._inner_tolerance = 1.0
        self._idle = 0  # Newton steps in a row in which no coordinate moved

    def run(self) -> list[float]:
        odds = np.ones(len(self._rows.weight))
        first, largest = 0.0, float("inf")
        for step in range(NEWTON_STEPS):
            share = 1.0 / (1.0 + odds)
            loss = self._rows.weight * share
            gradient = (self._lost_sum - self._columns @ loss).tolist()
            curvature = ((self._columns * (loss * odds * share)) @ self._columns.T).tolist()
            active, total, largest = self._shrink(gradient, largest / max(self._count, 1))
            first = total if step == 0 else first
            if total <= self._tolerance * first or self._idle >= IDLE_STEPS:
                break
            self._idle += 1
            moved, sweeps = self._solve(gradient, curvature, active, first)
            odds = self._search(odds, gradient, moved)
            # the quadratic problem was solved in one sweep, so it may be solved more exactly
            if sweeps == 1:
                self._inner_tolerance *= 0.25
        return self._current

    def _shrink(self, gradient: list[float], margin: float) -> tuple[int, float, float]:
        """Move surely-zero coordinates to the end. Return the number left, and sum and maximum of their violations."""
        active, total, largest, position = self._size, 0.0, 0.0, 0
        while position < active:
            coordinate = self._order[position]
            violation = _violation(self._current[coordinate], gradient[coordinate], margin)
            if violation is None:
                active -= 1
                self._order[position], self._order[active] = self._order[active], self._order[position]
                continue
            largest, total, position = max(largest, violation), total + violation, position + 1
        return active, total, largest

    def _solve(
        self, gradient: list[float], curvature: list[list[float]], active: int, first: float
    ) -> tuple[list[float], int]:
        """Sweep over the coordinates of the quadratic model. Return each coordinate's move and the number of sweeps."""
        moved = [0.0] * self._size
        left, largest = active, float("inf")
        for sweep in range(1, SWEEPS + 1):
            self._draws.shuffle(self._order, left)
            margin, largest, total, position = largest / max(self._count, 1), 0.0, 0.0, 0
            while position < left:
                coordinate = self._order[position]
                slope = gradient[coordinate] + (self._next[coordinate] - self._current[coordinate]) * RIDGE
                slope += sum(map(mul, curvature[coordinate], moved))
                violation = _violation(self._next[coordinate], slope, margin)
                if violation is None:
                    left -= 1
                    self._order[position], self._order[left] = self._order[left], self._order[position]
                    continue
                position += 1
                change = _minimum(self._next[coordinate], slope, curvature[coordinate][coordinate] + RIDGE)
                if abs(change) < SMALLEST_STEP:
                    continue
                change = min(max(change, -LARGEST_STEP), LARGEST_STEP)
                self._idle = 0
                largest, total = max(largest, violation), total + violation
                self._next[coordinate] += change
                moved[coordinate] += change
            if total <= self._inner_tolerance * first:
                if left == active:
                    return moved, sweep
                # solved without the coordinates that were shrunk away meanwhile: check those, too
                left, largest = active, float("inf")
        return moved, SWEEPS

    def _search(self, odds: FloatArray, gradient: list[float], moved: list[float]) -> FloatArray:
        """Halve the step until the objective falls enough. Return the odds exp(x . b), or the old ones."""
        weight = self._rows.weight
        norm = sum(map(abs, self._current))
        norm_next = sum(map(abs, self._next))
        ways = [
            (after - before) * slope for after, before, slope in zip(self._next, self._current, gradient, strict=True)
        ]
        decrease = sum(ways) + norm_next - norm
        along = np.array(moved) @ self._columns
        lost = float(self._lost @ along)
        for _ in range(HALVINGS):
            growth = np.exp(along)
            grown: FloatArray = odds * growth
            gain = float(weight @ np.log((1.0 + grown) / (growth + grown)))
            if norm_next - norm + lost - SUFFICIENT * decrease + gain <= 0:
                self._current = list(self._next)
                return grown
            self._next = [(current + after) * 0.5 for current, after in zip(self._current, self._next, strict=True)]
            norm_next = sum(map(abs, self._next))
            decrease, lost, along = decrease * 0.5, lost * 0.5, along * 0.5
        return odds


def _violation(value: float, slope: float, margin: float) -> float | None:
    """Return how far a coordinate is from its optimality condition, or None if it is zero and surely stays so."""
    if value > 0:
        return abs(slope + 1)
    if value < 0:
        return abs(slope - 1)
    if slope < -1:
        return -slope - 1
    if slope > 1:
        return slope - 1
    return None if slope + 1 > margin and slope - 1 < -margin else 0.0


def _minimum(value: float, slope: float, bend: float) -> float:
    """Return the step to the minimum of slope * z + bend * z^2 / 2 + |value + z|."""
    if slope + 1 < bend * value:
        return -(slope + 1) / bend
    if slope - 1 > bend * value:
        return -(slope - 1) / bend
    return -value
