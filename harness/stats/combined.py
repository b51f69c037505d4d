"""Sharper estimates of a difference: pooled over benchmarks, or adjusted for the questions that were not judged.

>>> from harness.stats.paired import ClusteredEstimate
>>> one, two = ClusteredEstimate(-2.0, 2.0, 0, 805), ClusteredEstimate(-1.8, 3.6, 0, 500)
>>> both = pooled([one, two], [1.0, 1.8])
>>> both.value, round(both.se, 3), both.n
(-1.5, 1.414, 1305)

**Pooled.** Two benchmarks that measure the same thing move together: d_i / slope_i estimates one number for each of
them, and the mean weighted by the inverse variances is the sharpest one (the fixed-effect meta-analysis; Cochran 1954,
Biometrics 10:101). Different questions are drawn independently, so there is no covariance between the benchmarks.

**Adjusted.** One model was judged on n of N questions, drawn at random; the other one and further models on all N. The
model's score of a question is predicted from theirs, and the questions that were judged correct the prediction:

    estimate = mean over all N of the prediction + mean over the n of (score - prediction) - the other model's mean

(the regression estimator: Cochran 1977, chapter 7; cross-fitted as in Wager et al. 2016, PNAS 113:12673).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray
from .paired import ClusteredEstimate, t_quantile

FOLDS = 5
RIDGE = 1.0
"""Penalty on standardised predictors, in questions: negligible beside 40, but collinear models stay solvable."""
FEWEST_JUDGED = 30
"""With fewer questions a regression on two predictors gains little, and its error is underestimated."""


def pooled(estimates: Sequence[ClusteredEstimate], slopes: Sequence[float]) -> ClusteredEstimate:
    """Return the inverse-variance mean of differences, in the unit of the metric whose slope is 1.

    slopes: points of each metric per point of that unit. The degrees of freedom are Satterthwaite's. Raise ValueError
    if a difference does not vary, because its weight would be infinite.
    """
    if not all(estimate.varies for estimate in estimates):
        raise ValueError("a difference without spread cannot be weighted")
    values = np.array([estimate.value / slope for estimate, slope in zip(estimates, slopes, strict=True)])
    variances = np.array([(estimate.se / slope) ** 2 for estimate, slope in zip(estimates, slopes, strict=True)])
    shares = (1 / variances) / (1 / variances).sum()
    # 0 degrees of freedom stand for a normal distribution: no uncertainty of that variance
    doubts = sum(share**2 / estimate.df for share, estimate in zip(shares, estimates, strict=True) if estimate.df > 0)
    df = 1 / doubts if doubts else 0.0
    total = float((1 / variances).sum())
    return ClusteredEstimate(float(shares @ values), total**-0.5, df, sum(estimate.n for estimate in estimates))


def disagreement(estimates: Sequence[ClusteredEstimate], slopes: Sequence[float]) -> float:
    """Return the p of "all differences are the same in one unit": Cochran's Q, chi-squared."""
    from scipy import special

    mean = pooled(estimates, slopes).value
    pairs = zip(estimates, slopes, strict=True)
    q = sum(((estimate.value / slope - mean) / (estimate.se / slope)) ** 2 for estimate, slope in pairs)
    return float(special.chdtrc(len(estimates) - 1, q))


@dataclass(frozen=True)
class AdjustedDifference:
    """A difference in the score's unit, of a model judged on `n` of `of` questions."""

    value: float
    se_set: float
    """Of the difference on just these `of` questions: what judging the rest would show."""
    se: float
    """Of the difference over questions of the kind: `se_set` and the spread of `of` questions."""
    plain_se: float
    """Of the plain difference over the `n` judged questions, about the same as `se`."""
    df: int
    n: int
    of: int

    def estimate(self) -> ClusteredEstimate:
        return ClusteredEstimate(self.value, self.se, self.df, self.n)

    def interval_set(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the difference on just these questions."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se_set
        return self.value - half, self.value + half


def adjusted_difference(
    judged: FloatArray,
    at: Sequence[int] | NDArray[np.int64],
    reference: FloatArray,
    models: FloatArray | None = None,
    *,
    seed: int = 0,
) -> AdjustedDifference | None:
    """Return judged model minus reference, adjusted for the questions that were not judged.

    judged (n,): the model's scores of the questions number `at` (n,) of N; reference (N,); models (N, k): scores of
    other models, whose mean is the second predictor. None with fewer than `FEWEST_JUDGED` questions.
    """
    count, total = len(at), len(reference)
    if count < FEWEST_JUDGED or count >= total:
        return None
    index = np.asarray(at)
    columns = [reference] if models is None or not models.shape[1] else [reference, models.mean(axis=1)]
    predictors = _standardised(np.column_stack(columns))
    fold = np.random.default_rng(seed).permutation(count) % FOLDS
    residual, prediction = np.empty(count), 0.0
    everything = predictors.mean(axis=0)
    for number in range(FOLDS):
        held_out = fold == number
        weights = _ridge(predictors[index[~held_out]], judged[~held_out])
        residual[held_out] = judged[held_out] - predictors[index[held_out]] @ weights
        prediction += held_out.mean() * float(everything @ weights)
    df = count - 1 - len(columns)
    apart = judged - reference[index]
    unseen = 1 - count / total
    se_set = float(residual.std(ddof=1 + len(columns))) * (unseen / count) ** 0.5
    spread = float(apart.std(ddof=1))
    return AdjustedDifference(
        value=prediction + float(residual.mean() - reference.mean()),
        se_set=se_set,
        se=(se_set**2 + spread**2 / total) ** 0.5,
        plain_se=spread / count**0.5,
        df=df,
        n=count,
        of=total,
    )


def _standardised(columns: FloatArray) -> FloatArray:
    """Return a column of ones and the columns with mean 0 and spread 1; one without spread becomes 0."""
    spread = columns.std(axis=0)
    scaled: FloatArray = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return np.column_stack([np.ones(len(columns)), scaled])


def _ridge(predictors: FloatArray, values: FloatArray) -> FloatArray:
    penalty = RIDGE * np.eye(predictors.shape[1])
    penalty[0, 0] = 0.0  # the constant is not shrunk
    solved = np.linalg.solve(predictors.T @ predictors + penalty, predictors.T @ values)
    return np.asarray(solved, dtype=np.float64)


def slope_between(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """Return the points of `second` per point of `first` over models, and their correlation on the logit scale.

    Both in percent, shape (models,). The slope is the ratio of the standard deviations (reduced major axis), because
    both boards are measured with error and either may be the unit; Ricker 1973, J. Fish. Res. Board Can. 30:409.
    """
    return float(second.std() / first.std()), float(np.corrcoef(_logits(first), _logits(second))[0, 1])


def _logits(percent: FloatArray) -> FloatArray:
    share = np.clip(percent, 0.1, 99.9) / 100
    logits: FloatArray = np.log(share / (1 - share))
    return logits
