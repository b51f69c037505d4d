"""Fit Bradley-Terry with style: the strengths of models if answer length and markdown were equal.

>>> import numpy as np
>>> style_rate(np.array([0.0, np.log(3.0)]), baseline=0).round().tolist()  # percent of games won against model 0
[50.0, 75.0]

Log-odds that the first answer wins = strength(first) - strength(second) + coefficients . features. Two formulas, both
of arena-hard-auto show_result.py: v0.1 (at the pinned efc012e) and v2.0 (196f6b8). They differ in the features, their
scaling, the penalty and the unit of the strengths. The fit here is Newton's method run to convergence; the reference
stops the v2.0 fit after 50 steps, up to 0.6 points short.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .bradley_terry import IntArray
from .intervals import FloatArray

Formula = Literal["v0.1", "v2.0"]
Elements = Literal["style", "length", "markdown"]
"""The features: all four, length alone, or headers, lists and bold."""
COLUMNS: dict[Elements, tuple[int, ...]] = {"style": (0, 1, 2, 3), "length": (0,), "markdown": (1, 2, 3)}
STEPS = 200
TOLERANCE = 1e-9
HALVINGS = 30
ROUNDING = 1e-10
"""Relative rounding error of a loss, by which it may seem to rise at the minimum."""
RIDGE = 1e-9
"""Added to the curvature, not to the loss, so that steps stay finite for a model that won all or was not drawn."""
PENALTY = 1.0  # v0.1: scikit-learn LogisticRegression's default, C = 1
COPIES = 2.0  # v0.1: battles are concatenated with themselves, so that a tie is a win and a loss
LOG_10 = float(np.log(10.0))  # v0.1: one-hot columns contain ln 10


@dataclass(frozen=True)
class StyledBattles:
    """Battles with the style of both answers. All arrays are over battles, and a battle of weight 3 is listed once."""

    models: int
    first: IntArray
    """Index of the first model; v2.0: the candidate."""
    second: IntArray
    """Index of the second model; v2.0: the baseline."""
    points: FloatArray
    """Points of the first: 0, 0.5 or 1."""
    weight: FloatArray
    """Rows of the battle in the reference: 1, or 3 for a ">>" verdict."""
    first_style: FloatArray
    """Tokens, headers, list items, bold spans of the first's answer; shape (battles, 4)."""
    second_style: FloatArray


@dataclass(frozen=True)
class StyleFit:
    """Converged strengths and coefficients."""

    strengths: FloatArray
    """Logits, shape (models,); only differences mean something."""
    coefficients: FloatArray
    """Logits per standard deviation of each feature used."""
    converged: bool


@dataclass(frozen=True)
class Scaling:
    """Mean and spread used to standardise the features. They come from the pool, so the scores depend on it."""

    mean: FloatArray
    spread: FloatArray


def raw_features(battles: StyledBattles, formula: Formula) -> FloatArray:
    """Return the unscaled features, shape (battles, 4): length, headers, lists, bold of the first against the second.

    v0.1: (a - b) / (a + b + 1). v2.0: (a - b) / (a + b) for length; for the others the same as v0.1 of densities
    d = count / (tokens + 1).
    """
    first, second = battles.first_style, battles.second_style
    if formula == "v0.1":
        return (first - second) / (first + second + 1.0)
    length = (first[:, 0] - second[:, 0]) / np.maximum(first[:, 0] + second[:, 0], 1.0)
    first_density, second_density = first[:, 1:] / (first[:, :1] + 1.0), second[:, 1:] / (second[:, :1] + 1.0)
    density_difference = (first_density - second_density) / (first_density + second_density + 1.0)
    return np.column_stack((length, density_difference))


def scale(features: FloatArray, weight: FloatArray, formula: Formula) -> tuple[FloatArray, Scaling]:
    """Return the features with mean 0 and standard deviation 1 over all rows (v0.1: population, v2.0: sample).

    A feature that never varies becomes 0. The second value is the scaling.
    """
    total = float(weight.sum())
    mean = weight @ features / total
    freedom = total if formula == "v0.1" else total - 1.0
    spread = np.sqrt(weight @ (features - mean) ** 2 / freedom)
    return (features - mean) / np.where(spread > 0, spread, 1.0), Scaling(mean, spread)


def style_features(battles: StyledBattles, formula: Formula, elements: Elements) -> tuple[FloatArray, Scaling]:
    """Return the formula's scaled features, shape (battles, 4, 1 or 3), and their scaling over this pool."""
    columns = list(COLUMNS[elements])
    return scale(raw_features(battles, formula)[:, columns], battles.weight, formula)


def fit_style(
    battles: StyledBattles,
    features: FloatArray,
    formula: Formula,
    *,
    weight: FloatArray | None = None,
    start: StyleFit | None = None,
) -> StyleFit:
    """Return the minimum of the formula's loss. `weight`: rows per battle of a resample. `start`: initial values.

    v0.1: the log loss of both copies of the battles, plus half the squared norm of its parameters, which are strengths
    / ln 10 and the coefficients. v2.0: the log loss alone, so strengths have mean 0.
    """
    rows = battles.weight if weight is None else weight
    has_rows = rows > 0
    problem = _Problem(
        battles.models,
        battles.first[has_rows],
        battles.second[has_rows],
        battles.points[has_rows],
        features[has_rows],
        rows[has_rows],
        PENALTY / COPIES if formula == "v0.1" else 0.0,
    )
    parameters = np.zeros(battles.models + features.shape[1])
    if start is not None:
        parameters = np.concatenate((start.strengths, start.coefficients))
    converged, loss = False, problem.loss(parameters)
    for _ in range(STEPS):
        slope, bend = problem.derivatives(parameters)
        step = np.linalg.solve(bend, slope)
        if np.max(np.abs(step)) < TOLERANCE:
            converged = True
            break
        # features lie up to 16 standard deviations out, so a full step may overshoot: halve it until the loss falls
        for _ in range(HALVINGS):
            tried = problem.loss(parameters - step)
            if tried <= loss + ROUNDING * abs(loss):
                break
            step = step / 2.0
        parameters, loss = parameters - step, min(tried, loss)
    return StyleFit(parameters[: battles.models], parameters[battles.models :], converged)


@dataclass(frozen=True)
class _Problem:
    """One fit's loss: rows-weighted log loss plus `penalty` / 2 times the squared norm of the parameters."""

    models: int
    first: IntArray
    second: IntArray
    points: FloatArray
    features: FloatArray
    rows: FloatArray
    penalty: float

    def loss(self, parameters: FloatArray) -> float:
        size = self.models
        logit = parameters[self.first] - parameters[self.second] + self.features @ parameters[size:]
        likely = float(self.rows @ (np.logaddexp(0.0, logit) - self.points * logit))
        return likely + 0.5 * self.penalty * float(self._unit(parameters) @ parameters**2)

    def _unit(self, parameters: FloatArray) -> FloatArray:
        """Return the penalised parameters' squared norm per squared logit. Strengths count as strength / ln 10."""
        return np.concatenate((np.full(self.models, LOG_10**-2), np.ones(len(parameters) - self.models)))

    def derivatives(self, parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return gradient and Hessian of the loss at `parameters` (strengths, coefficients).

        The one-hot columns are never built: their part of the Hessian is counted, not multiplied.
        """
        size, first, second = self.models, self.first, self.second
        logit = parameters[first] - parameters[second] + self.features @ parameters[size:]
        chance = 1.0 / (1.0 + np.exp(-logit))
        error, curve = self.rows * (chance - self.points), self.rows * chance * (1.0 - chance)
        slope = np.concatenate((self._spread(error), error @ self.features))
        bend = np.zeros((len(parameters), len(parameters)))
        pairs = np.bincount(first * size + second, curve, size**2).reshape(size, size)
        pairs += pairs.T
        bend[:size, :size] = np.diag(pairs.sum(axis=1)) - pairs
        for column, values in enumerate(self.features.T, start=size):
            bend[:size, column] = bend[column, :size] = self._spread(curve * values)
        bend[size:, size:] = (self.features * curve[:, None]).T @ self.features
        unit = self._unit(parameters)
        slope += self.penalty * unit * parameters
        bend[np.diag_indices_from(bend)] += self.penalty * unit + RIDGE
        if not self.penalty:  # only differences of strengths matter, so fix their mean
            bend[:size, :size] += 1.0
        return slope, bend

    def _spread(self, values: FloatArray) -> FloatArray:
        """Return each model's sum of a quantity per battle, minus as the second, shape (models,)."""
        size = self.models
        minus: FloatArray = np.bincount(self.second, values, size).astype(np.float64)
        return np.bincount(self.first, values, size).astype(np.float64) - minus


def style_rate(strengths: FloatArray, baseline: int) -> FloatArray:
    """Return the style-controlled win rates against the baseline in percent, shape (..., models)."""
    rate: FloatArray = 100.0 / (1.0 + np.exp(strengths[..., [baseline]] - strengths))
    return rate


def row_resamples(battles: StyledBattles, rounds: int, seed: int) -> Iterator[FloatArray]:
    """Yield the rows per battle in each of the reference's resamples.

    The rows of all models are drawn together, and each of a battle's 3 rows separately.
    """
    row_battle = np.repeat(np.arange(len(battles.weight)), battles.weight.astype(np.int64))
    rng = np.random.RandomState(seed)
    for _ in range(rounds):
        drawn = row_battle[rng.randint(0, len(row_battle), len(row_battle))]
        yield np.bincount(drawn, minlength=len(battles.weight)).astype(np.float64)


def refits(
    battles: StyledBattles, features: FloatArray, formula: Formula, fit: StyleFit, weights: Iterable[FloatArray]
) -> FloatArray:
    """Return the strengths refitted to resampled rows, (resamples, models). Features keep the pool's scaling."""
    return np.array([fit_style(battles, features, formula, weight=weight, start=fit).strengths for weight in weights])
