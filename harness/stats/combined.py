"""Sharpen estimates: pool benchmarks, adjust for questions that were not judged, or let a better judge audit some.

>>> from harness.stats.paired import ClusteredEstimate
>>> one, two = ClusteredEstimate(-2.0, 2.0, 0, 805), ClusteredEstimate(-1.8, 3.6, 0, 500)
>>> both = pooled([one, two], [1.0, 1.8])
>>> both.value, round(both.se, 3), both.n
(-1.5, 1.414, 1305)

>>> import numpy as np
>>> cheap, every = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]), np.ones(6)
>>> part = np.array([0, 1, 2, 3])  # audited; there the expensive judge agrees with the cheap one
>>> audited = audited_ratio((cheap, every), (cheap[part], every[part]), part)
>>> audited.slope, float(audited.terms.mean())
(1.0, 0.5)

**Pooled.** Two benchmarks that measure the same thing move together: d_i / slope_i estimates one number for each of
them, and the mean weighted by the inverse variances is the sharpest one (the fixed-effect meta-analysis; Cochran 1954,
Biometrics 10:101). Different questions are drawn independently, so there is no covariance between the benchmarks.

**Adjusted.** One model was judged on n of N questions, drawn at random; the other one and further models on all N. The
model's score of a question is predicted from theirs, and the questions that were judged correct the prediction:

    estimate = mean over all N of the prediction + mean over the n of (score - prediction) - the other model's mean

(the regression estimator: Cochran 1977, chapter 7; cross-fitted as in Wager et al. 2016, PNAS 113:12673). If neither
was judged on all N, the further models predict both, and the estimate is the difference of two such means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval
from .paired import CONFIDENCE, ClusteredEstimate, ratio_estimate, t_quantile, terms

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
    """A difference in the score's unit, of models of which at least one was judged on `n` of `of` questions."""

    value: float
    reference: float
    """The mean over all `of` questions of the model that is subtracted, known or estimated."""
    se_set: float
    """Of the difference on just these `of` questions: what judging the rest would show."""
    se: float
    """Of the difference over questions of the kind: `se_set` and the spread of `of` questions."""
    df: int
    n: int
    """Of the model that has fewer."""
    of: int

    def estimate(self) -> ClusteredEstimate:
        return ClusteredEstimate(self.value, self.se, self.df, self.n)

    def interval_set(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval of the difference on just these questions."""
        half = t_quantile(0.5 + level / 2, self.df) * self.se_set
        return self.value - half, self.value + half


def adjusted_difference(
    judged: FloatArray,
    positions: Sequence[int] | NDArray[np.int64],
    reference: FloatArray,
    models: FloatArray | None = None,
    *,
    widest: float = 0.0,
    seed: int = 0,
) -> AdjustedDifference | None:
    """Return judged model minus reference, adjusted for the questions that were not judged.

    judged (n,): the model's scores of the questions at `positions` (n,) of N; reference (N,); models (N, k): scores of
    other models, whose mean is the second predictor. `widest`: the range of a score, which bounds the error from below
    (`_least_variance`); 0: unknown. None with fewer than `FEWEST_JUDGED` questions.
    """
    count, total = len(positions), len(reference)
    if count < FEWEST_JUDGED or count >= total:
        return None
    index = np.asarray(positions)
    columns = [reference] if models is None or not models.shape[1] else [reference, models.mean(axis=1)]
    folds = np.random.default_rng(seed).permutation(count) % FOLDS
    prediction = _predicted(judged, index, _standardised(np.column_stack(columns)), folds, widest)
    se_set = math.sqrt(prediction.variance * (1 / count - 1 / total))
    spread = max(float((judged - reference[index]).var(ddof=1)), _least_variance(count, widest))
    return AdjustedDifference(
        value=prediction.mean - float(reference.mean()),
        reference=float(reference.mean()),
        se_set=se_set,
        se=math.sqrt(se_set**2 + spread / total),
        df=count - 1 - len(columns),
        n=count,
        of=total,
    )


@dataclass(frozen=True)
class JudgedPart:
    """A model's scores (n,) of the questions at `positions` (n,) of N, which were drawn at random."""

    scores: FloatArray
    positions: NDArray[np.int64]


def difference_of_parts(
    judged: JudgedPart, reference: JudgedPart, models: FloatArray, *, widest: float = 0.0, seed: int = 0
) -> AdjustedDifference | None:
    """Return judged model minus reference if neither was judged on all N questions, but other models were.

    models (N, k): their mean predicts both. The parts may be the same, overlap or be disjoint: with m questions in
    both, n and n' in the parts and residuals of covariance c, the two means covary by c (m / (n n') - 1 / N). Fewer
    than `FEWEST_JUDGED` common questions do not show c; it is then taken as 0, because m is close to n n' / N.
    `widest` is as in `adjusted_difference`. None if a part has fewer than `FEWEST_JUDGED` questions.
    """
    total, counts = len(models), (len(judged.positions), len(reference.positions))
    if min(counts) < FEWEST_JUDGED or min(counts) >= total:
        return None
    predictors = _standardised(models.mean(axis=1)[:, None])
    # a question is in the same fold for both models, so that equal parts are adjusted as their difference would be
    folds = np.random.default_rng(seed).permutation(total) % FOLDS
    first, second = (
        _predicted(sample.scores, sample.positions, predictors, folds[sample.positions], widest)
        for sample in (reference, judged)
    )
    common, at_first, at_second = np.intersect1d(reference.positions, judged.positions, return_indices=True)
    variances = first.variance + second.variance
    covariance = 0.0
    spread = float((second.predictions - first.predictions).var()) + variances
    if len(common) >= FEWEST_JUDGED:
        residuals = first.residuals[at_first], second.residuals[at_second]
        covariance = float(np.cov(*residuals)[0, 1] * (len(common) - 1) / (len(common) - 2))
        spread = float((judged.scores[at_second] - reference.scores[at_first]).var(ddof=1))
    spread = max(spread, _least_variance(min(counts), widest))
    variance = first.variance * (1 / counts[1] - 1 / total) + second.variance * (1 / counts[0] - 1 / total)
    variance -= 2 * covariance * (len(common) / (counts[0] * counts[1]) - 1 / total)
    return AdjustedDifference(
        value=second.mean - first.mean,
        reference=first.mean,
        se_set=math.sqrt(max(0.0, variance)),
        se=math.sqrt(max(0.0, variance) + spread / total),
        df=min(counts) - 2,
        n=min(counts),
        of=total,
    )


@dataclass(frozen=True)
class _Predicted:
    """What a regression on the predictors of all N questions makes of the n scores that are known."""

    mean: float
    """Of all N: that of the predictions, corrected by the residuals."""
    predictions: FloatArray
    """Shape (N,)."""
    residuals: FloatArray
    """Score minus a prediction that did not see it, shape (n,)."""
    variance: float
    """Of a residual."""


def _predicted(
    scores: FloatArray, positions: NDArray[np.int64], predictors: FloatArray, folds: NDArray[np.int64], widest: float
) -> _Predicted:
    residuals, predictions = np.empty(len(positions)), np.zeros(len(predictors))
    for number in range(FOLDS):
        held_out = folds == number
        weights = _ridge(predictors[positions[~held_out]], scores[~held_out])
        residuals[held_out] = scores[held_out] - predictors[positions[held_out]] @ weights
        predictions += held_out.mean() * (predictors @ weights)
    mean = float(predictions.mean() + residuals.mean())
    variance, spread = float(residuals.var(ddof=predictors.shape[1])), float(scores.var(ddof=1))
    unexplained = min(1.0, variance / spread) if spread > 0 else 1.0
    return _Predicted(
        mean, predictions, residuals, max(variance, unexplained * _least_variance(len(positions), widest))
    )


def _least_variance(questions: int, widest: float) -> float:
    """Return the least variance of a score over questions: of equal scores, one lost entirely and one won besides.

    As `least_se` of a paired difference. A model that wins three questions in a hundred has none among thirty, or one:
    their spread, and that of any residual, then says nothing. A regression explains as much of these two as of the
    others.
    """
    return 2 * widest**2 * questions / ((questions + 1) * (questions + 2))


def _standardised(columns: FloatArray) -> FloatArray:
    """Return a column of ones and the columns with mean 0 and spread 1. A column without spread becomes 0."""
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


# -------------------------------------------------------------------------------------------------------------- audited
# A score on an expensive judge's scale, from a cheap judge's verdicts on all questions and an audit of some. Pure.
#
# With u the expensive judge's linearised terms over the n audited questions (their ratio is R), v the cheap judge's
# over all N, centred there, and b the slope of u on v in the audit, the estimate is
#
#     R - b * mean of v over the audit,    SE^2 = sum over questions of (b * v / N + [audited] * e / n)^2
#
# with e the residuals of the regression. This is the regression estimator of two-phase sampling (Cochran 1977, section
# 12.6), which Angelopoulos et al. call prediction-powered with a tuned lambda (PPI++, arXiv 2311.01453). Its target is
# other questions of the kind, as every interval's here: the N questions are themselves a sample, so b^2 * var(v) / N
# remains, and no finite-population factor applies. (For these very N questions the variance would be (1 - n/N) *
# var(e) / n.) A useless cheap judge has a slope near 0 and does no harm; a harsh or generous one does none either,
# because only differences between questions count.
#
# Each question's part of the sum, scaled, is a *term*: their mean is the estimate and their spread its error, so that
# two runs with the same audit are compared by the paired differences of their terms like any two runs.


Ratio = tuple[FloatArray, FloatArray]
"""Above and below of each question; the score is sum(above) / sum(below)."""


@dataclass(frozen=True)
class AuditedRatio:
    """The estimate as terms per question, and what the cheap judge was good for."""

    terms: FloatArray
    """Shape (questions,); the mean is the estimate. A single term says nothing of its question."""
    slope: float
    """Weight of the cheap judge, b."""
    correlation: float
    """Of the two judges' terms over the audit, -1..1."""
    residuals: FloatArray
    """Of the audited questions, shape (audited,)."""
    predicted: FloatArray
    """The cheap judge's part of each question, b * v; shape (questions,)."""
    positions: NDArray[np.int64]
    """Positions of the audited questions."""
    effective: float
    """Questions that the expensive judge alone would need for the same standard error, at most all there are."""

    def interval(self, lowest: float, highest: float) -> Interval:
        """Return the 95 % interval of a score within lowest..highest.

        A t interval after adding two audited questions, one at each end of the scale, as Agresti and Coull 1998 do for
        a share: fifty questions of a model that wins three in a hundred say too little of their own spread. The cheap
        judge is taken to explain as much of these two as of the others: sqrt(1 - correlation^2) of their distance is
        left.
        """
        value, count = float(self.terms.mean()), len(self.positions) + 2
        ends = (np.array([lowest, highest]) - value) * np.sqrt(max(0.0, 1 - self.correlation**2))
        shift = float(ends.sum()) / count
        parts = self.predicted / len(self.terms)
        parts[self.positions] += (self.residuals - shift) / count
        squares = float(parts @ parts) + float(np.sum(((ends - shift) / count) ** 2))
        se = float(np.sqrt(squares * count / (count - 1)))
        half = t_quantile(0.5 + CONFIDENCE / 2, count - 1) * se
        low, high = max(lowest, value + shift - half), min(highest, value + shift + half)
        return Interval(low=min(low, value), high=max(high, value), se=se)


def audited_ratio(cheap: Ratio, expensive: Ratio, positions: NDArray[np.int64]) -> AuditedRatio | None:
    """Return the expensive judge's ratio over questions like these, or None with fewer than three audited questions.

    `cheap`: over all questions; `expensive`: over the audited ones, whose positions among all are `positions`.
    """
    audited, questions = len(positions), len(cheap[0])
    if audited < 3:
        return None
    v = terms(*cheap)
    u, seen = terms(*expensive), v[positions] - v[positions].mean()
    squares = float(seen @ seen)
    slope = float(u @ seen) / squares if squares > 0 else 0.0
    residuals = u - slope * seen
    # each residual as it would be without its question in the fit (HC3: MacKinnon and White 1985), because the plain
    # ones are too small by the two fitted parameters
    leverage = 1 / audited + (seen**2 / squares if squares > 0 else 0.0)
    alone = residuals / np.maximum(1 - leverage, 1 / audited)
    # whoever compares terms counts N - 1 degrees of freedom, while most of the error is the audit's
    alone *= t_quantile(0.5 + CONFIDENCE / 2, audited - 2) / t_quantile(0.5 + CONFIDENCE / 2, questions - 1)
    value = float(expensive[0].sum() / expensive[1].sum()) - slope * float(v[positions].mean())
    parts = value + slope * v
    parts[positions] += questions / audited * (alone - alone.mean())
    estimate = ratio_estimate(parts, np.ones(questions))
    assert estimate is not None, "there are three questions at least"
    spread = float(u.std(ddof=1))
    both = float(np.sqrt(u @ u * squares))
    return AuditedRatio(
        terms=parts,
        residuals=residuals,
        predicted=slope * v,
        positions=positions,
        slope=slope,
        correlation=float(u @ seen) / both if both > 0 else 0.0,
        effective=min(float(questions), (spread / estimate.se) ** 2) if estimate.se > 0 else float(questions),
    )
