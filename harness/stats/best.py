"""Compare several models with the best of the others, all at once: which are not shown to be worse than the best?

>>> import numpy as np
>>> covariance = np.diag([0.5, 0.5, 0.5])
>>> [bounds.may_be_best for bounds in compare_with_best(np.array([70.0, 69.0, 60.0]), covariance, df=500)]
[True, True, False]

Hsu's constrained multiple comparisons with the best (Hsu 1984, Annals of Statistics 12:1136; Hsu 1996, Multiple
Comparisons, chapter 4), with any covariance: models that answered the same questions have correlated errors, so that a
paired difference is narrower than two separate errors suggest. With s_ij the error of value_i - value_j,

    d_i = the quantile of max over j != i of (error_j - error_i) / s_ij      (Student's t, one-sided)
    high_i = max(0, min over j != i of value_i - value_j + d_i s_ij),        candidates = models with high_i > 0
    low_i = min(0, min over other candidates j of value_i - value_j - d_j s_ij), 0 if i is the only candidate

With a probability of at least `level`, every interval contains mu_i - max over j != i of mu_j. So a model with high 0
is worse than the best, and the set of all others contains the best, however many models are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .intervals import FloatArray
from .paired import CANCELLED, CONFIDENCE, t_quantile

DRAWS = 20_000
"""Of the joint errors. The 95 % quantile of their largest then varies by about 0.5 %."""


@dataclass(frozen=True)
class BestBounds:
    """Simultaneous bounds of a model's true value minus that of the best other model, in the unit of the values.

    One of them is 0 if the sign is decided; both are infinite if a model cannot be distinguished from any other.
    """

    low: float
    high: float

    @property
    def may_be_best(self) -> bool:
        """Return whether the model is not shown to be worse than the best."""
        return self.high > 0


def compare_with_best(
    values: FloatArray,
    covariance: FloatArray,
    df: float,
    *,
    least: FloatArray | None = None,
    level: float = CONFIDENCE,
    seed: int = 0,
) -> list[BestBounds]:
    """Return each model's bounds, from values (models,), of which more is better, and their covariance.

    `df`: degrees of freedom of the covariance; 0: normal. `least`, shape (models, models): the error of a difference is
    never below. Two models whose difference has no error are never distinguished. Raise ValueError for one model.
    """
    count = len(values)
    if count < 2:
        raise ValueError("the best of one model is that model")
    spreads = _spreads(covariance)
    bars = _bars(covariance, spreads, df, level, seed)
    if least is not None:
        spreads = np.where(np.isfinite(spreads), np.maximum(spreads, least), np.where(least > 0, least, np.inf))
    reach = bars[:, None] * spreads  # row: the model that is taken as the best
    others = ~np.eye(count, dtype=bool)
    apart = values[:, None] - values
    highs = np.array([max(0.0, float((apart[row] + reach[row])[others[row]].min())) for row in range(count)])
    candidates = highs > 0
    bounds = []
    for row in range(count):
        rivals = candidates & others[row]
        low = float((apart[row] - reach[:, row])[rivals].min()) if rivals.any() else 0.0
        bounds.append(BestBounds(min(0.0, low), float(highs[row])))
    return bounds


def _spreads(covariance: FloatArray) -> FloatArray:
    """Return the standard error of each difference, shape (models, models), or infinite if it is 0 but for rounding."""
    variances = np.diag(covariance)
    both = variances[:, None] + variances
    squares = both - 2 * covariance
    spreads: FloatArray = np.sqrt(np.maximum(squares, 0.0))
    spreads[squares <= CANCELLED**2 * both] = np.inf
    return spreads


def _bars(covariance: FloatArray, spreads: FloatArray, df: float, level: float, seed: int) -> FloatArray:
    """Return d_i of each model, shape (models,)."""
    roots, directions = np.linalg.eigh(covariance)
    normals, factors = _draws(len(covariance), df, seed)
    # models in rows, so that a maximum over them runs along the draws
    errors = (directions * np.sqrt(np.maximum(roots, 0.0))) @ normals * factors
    # a model without an error against any other keeps the quantile of a single comparison
    bars = np.full(len(covariance), t_quantile(level, df))
    for row, spread in enumerate(spreads):
        is_finite = np.isfinite(spread)
        if is_finite.any():
            apart = (errors[is_finite] - errors[row]) / spread[is_finite, None]
            bars[row] = np.quantile(apart.max(axis=0), level)
    return bars


@lru_cache(maxsize=4)
def _draws(count: int, df: float, seed: int) -> tuple[FloatArray, FloatArray]:
    """Return standard normals (models, draws) and the factors (draws,) that make them Student's."""
    rng = np.random.default_rng(seed)
    normals = np.ascontiguousarray(rng.standard_normal((DRAWS, count)).T)
    # one common factor, as all errors are estimated from the same questions
    factors = np.ones(DRAWS) if df <= 0 else 1 / np.sqrt(rng.chisquare(df, size=DRAWS) / df)
    return normals, factors
