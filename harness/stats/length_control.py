"""Compute AlpacaEval's length-controlled win rate: what it would be if both answers were equally long.

>>> import numpy as np
>>> assign_folds(7, order="stable").tolist()
[1, 0, 4, 3, 2, 1, 0]
>>> control_length(LengthRows(np.ones(5), np.arange(5.0), np.zeros(5)), gamed=[]) is None  # too few rows to fit
True

A logistic model of the preference, without intercept, with three features per row (alpaca_eval metrics/glm_winrate.py,
"length_controlled_v1"): tanh of the standardised length difference, the instruction's difficulty, and 1. Rows of two
gamed baselines with small weight and a zero third feature regularise the length coefficient. Cross-validation chooses
the strength of the L1 penalty. The win rate is the model's with the length term set to zero.

Published digits need liblinear's own path, tolerance and random stream, so `newton_l1` fits the headline. The bootstrap
refits with the exact solver here, many weighted replicates at once.

The folds are part of the protocol. GroupKFold distributes equally large groups round-robin, in the reverse order of an
argsort of equal keys. Up to scikit-learn 1.8 that argsort was not stable: the published board was made with numpy's
scalar introsort, whose permutation of equal keys depends on their number alone. From 1.9 on the order is stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval, percentile_interval, resampling_weights
from .newton_l1 import Fits, SoftRows
from .paired import ratio_interval

FoldOrder = Literal["published", "stable"]
SMALL = 15  # numpy npysort SMALL_QUICKSORT is 16: ranges of up to 16 keys are insertion-sorted

STRENGTHS = np.logspace(-4, 4, 10)  # scikit-learn LogisticRegressionCV, Cs=10
GAMED_WEIGHT = 0.1  # glm_winrate.py: regularize_to_baseline_lambda 0.2, halved for two gamed baselines
SEED = 123  # glm_winrate.py: random_state
FOLDS = 5  # glm_winrate.py: n_splits
CLIP = 1e-15  # glm_winrate.py, logloss
REFITS = 400  # an interval's ends then move by about 0.1 standard errors
STEPS = 30
SWEEPS = 60
TOLERANCE = 1e-8
"""Largest change of a coefficient at which all replicates are done."""
SMALLEST_CURVATURE = 1e-12


def assign_folds(rows: int, folds: int = 5, order: FoldOrder = "published") -> NDArray[np.int64]:
    """Return the fold number of each of `rows` rows, shape (rows,), values 0..folds-1."""
    ranks = introsort_of_equal_keys(rows) if order == "published" else np.arange(rows)
    assigned = np.empty(rows, dtype=np.int64)
    assigned[ranks[::-1]] = np.arange(rows) % folds
    return assigned


def introsort_of_equal_keys(rows: int) -> NDArray[np.int64]:
    """Return the permutation numpy's scalar quicksort argsort makes of `rows` equal keys.

    Every comparison is "not less", so each partition step moves the pivot out of the way, swaps position by position
    from both ends until they meet, and puts the pivot back; short ranges are left alone.
    """
    order = list(range(rows))
    pending = [(0, rows - 1)] if rows else []
    while pending:
        low, high = pending.pop()
        if high - low > SMALL:
            meeting = _partition_equal(order, low, high)
            pending += [(low, meeting - 1), (meeting + 1, high)]
    return np.array(order, dtype=np.int64)


def _partition_equal(order: list[int], low: int, high: int) -> int:
    """Do one partition step over order[low..high] and return the pivot's final position."""
    middle = low + (high - low) // 2
    left, right = low, high - 1
    order[middle], order[right] = order[right], order[middle]
    while True:
        left += 1
        right -= 1
        if left >= right:
            break
        order[left], order[right] = order[right], order[left]
    order[left], order[high - 1] = order[high - 1], order[left]
    return left


def sigmoid(values: FloatArray) -> FloatArray:
    """Return 1 / (1 + exp(-x)) without overflow, for any shape."""
    probabilities: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return probabilities


def fit_replicates(
    *,
    varying: FloatArray,
    shared: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    start: FloatArray,
    strength: float,
) -> FloatArray:
    """Return the fitted coefficients, shape (3, replicates), of L1-penalised regressions on weighted rows.

    Each minimises C * sum_i w_i * cross_entropy(p_i, sigmoid(x_i . b)) + |b|_1 by proximal Newton steps. With three
    features, a few dozen coordinate sweeps on arrays of replicates solve the quadratic problem of a step.

    varying (rows, replicates): the first feature, which differs between replicates; shared (rows, 2): the other two;
    target (rows,): probabilities; weight (rows, replicates); start (3,); strength: C.
    """
    rows = _ReplicateRows(varying, shared, target[:, None], weight, strength)
    replicates = varying.shape[1]
    coefficients = np.repeat(start[:, None], replicates, axis=1)
    loss, fitted = rows.loss(coefficients)
    for _ in range(STEPS):
        gradient, curvature = rows.derivatives(fitted)
        step = _solve_quadratic(gradient, curvature, coefficients) - coefficients
        scale = np.ones(replicates)
        for _ in range(20):
            tried = coefficients + scale * step
            tried_loss, fitted = rows.loss(tried)
            worse = tried_loss > loss + 1e-10 * np.abs(loss)
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        moved = np.max(np.abs(tried - coefficients))
        coefficients, loss = tried, tried_loss
        if moved < TOLERANCE:
            break
    return coefficients


@dataclass(frozen=True)
class _ReplicateRows:
    """The rows of all replicates. `target` has shape (rows, 1), and `strength` is C."""

    varying: FloatArray
    shared: FloatArray
    target: FloatArray
    weight: FloatArray
    strength: float

    def loss(self, coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each replicate's penalised loss, (replicates,), and the fitted probabilities, (rows, replicates)."""
        logits = self.varying * coefficients[0] + self.shared @ coefficients[1:]
        small = np.exp(-np.abs(logits))  # of the less likely outcome: its odds
        # cross entropy of a soft label: log(1 + exp(z)) - p z
        entropy = np.maximum(logits, 0) + np.log1p(small) - self.target * logits
        penalty = np.abs(coefficients).sum(axis=0)
        loss: FloatArray = self.strength * np.einsum("ij,ij->j", self.weight, entropy) + penalty
        fitted: FloatArray = np.where(logits < 0, small, 1.0) / (1.0 + small)
        return loss, fitted

    def derivatives(self, fitted: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return gradient (3, replicates) and Hessian (3, 3, replicates) of the loss without the penalty."""
        varying, shared = self.varying, self.shared
        heavy = self.strength * self.weight
        residual = heavy * (fitted - self.target)
        bend = heavy * fitted * (1 - fitted)
        bent = varying * bend
        gradient = np.concatenate([np.einsum("ij,ij->j", varying, residual)[None], shared.T @ residual])
        hessian = np.empty((3, 3, varying.shape[1]))
        hessian[0, 0] = np.einsum("ij,ij->j", varying, bent)
        hessian[0, 1:] = hessian[1:, 0] = shared.T @ bent
        for feature in range(2):
            hessian[1 + feature, 1:] = (shared * shared[:, feature : feature + 1]).T @ bend
        return gradient, hessian


def _solve_quadratic(gradient: FloatArray, hessian: FloatArray, start: FloatArray) -> FloatArray:
    """Return each replicate's b that minimises g.d + d' H d / 2 + |b|_1, d = b - start, by coordinate descent."""
    solution = start.copy()
    for _ in range(SWEEPS):
        before = solution.copy()
        for k in range(3):
            slope = gradient[k] + np.einsum("ij,ij->j", hessian[k], solution - start)
            bend = np.maximum(hessian[k, k], SMALLEST_CURVATURE)
            free = solution[k] - slope / bend
            solution[k] = np.sign(free) * np.maximum(np.abs(free) - 1.0 / bend, 0.0)
        if np.max(np.abs(solution - before)) < TOLERANCE / 10:
            break
    return solution


@dataclass(frozen=True)
class LengthRows:
    """One model's rows in the baseline's order. All arrays have shape (rows,)."""

    preference: FloatArray
    """Probability that the model wins, 0..1; NaN if there is no verdict. `control_length` also accepts values
    outside 0..1, as the reference does."""
    length_difference: FloatArray
    """Characters of the baseline's answer minus characters of the model's."""
    difficulty: FloatArray
    """Instruction difficulty, logit scale."""


@dataclass(frozen=True)
class LengthControl:
    """The fit: win rate in percent, its reference standard error, and the fitted parameters."""

    win_rate: float
    reference_se: float
    """100 * standard error over instructions of the mean fitted probability, as the reference prints it. It measures
    the spread of difficulty, not the uncertainty of the fit."""
    coefficients: tuple[float, float, float]
    """Coefficients of length, difficulty and model."""
    strength: float
    """The C that cross-validation chose."""


def control_length(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]], *, order: FoldOrder = "published"
) -> LengthControl | None:
    """Return the length-controlled win rate, or None if it cannot be fitted (under ten verdicts, or no spread of
    lengths).

    `gamed` lists (preference, standardised length difference, difficulty).
    """
    design = _design(rows, gamed)
    if design is None:
        return None
    features, preference, weight = design
    strength = _choose_strength(features, preference, weight, order)
    coefficients = Fits(SEED).fit(_soft(features, preference, weight * strength))
    fitted = sigmoid(rows.difficulty * coefficients[1] + coefficients[2])
    return LengthControl(
        win_rate=100 * float(np.mean(fitted)),
        reference_se=100 * float(np.std(fitted, ddof=1) / np.sqrt(len(fitted))),
        coefficients=(float(coefficients[0]), float(coefficients[1]), float(coefficients[2])),
        strength=strength,
    )


def control_length_interval(
    rows: LengthRows,
    gamed: Sequence[tuple[float, float, float]],
    fit: LengthControl,
    *,
    refits: int = REFITS,
    seed: int = 0,
) -> Interval | None:
    """Return the interval of the length-controlled win rate, in percent.

    For each resample of instructions, lengths are standardised and the model is refitted, with the headline's C. Few
    resampled instructions may be nearly alike: if they spread less than equal scores and two pseudo-instructions do,
    one at 0 and one at 100, the interval contains that of these, too (`paired.ratio_interval`).
    """
    replicates = control_length_replicates(rows, gamed, fit, refits=refits, seed=seed)
    interval = None if replicates is None else percentile_interval(replicates)
    scores = np.full(int((~np.isnan(rows.preference)).sum()), fit.win_rate)
    least = ratio_interval(scores, np.ones(len(scores)), (0.0, 100.0))
    if interval is None or least is None or least.se <= interval.se:
        return interval
    return Interval(min(interval.low, least.low), max(interval.high, least.high), least.se)


def control_length_replicates(
    rows: LengthRows,
    gamed: Sequence[tuple[float, float, float]],
    fit: LengthControl,
    *,
    refits: int = REFITS,
    seed: int = 0,
) -> FloatArray | None:
    """Return the win rates of the refits, in percent, shape (refits,), or None with fewer than two rows.

    The same number of rows and the same seed draw the same instructions, so that two models' replicates are paired.
    """
    if len(rows.preference) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(list(resampling_weights(len(rows.preference), refits, rng)))
    estimates = [weighted_win_rates(rows, gamed, fit, batch) for batch in np.array_split(drawn, max(1, refits // 100))]
    return np.concatenate(estimates)


def _design(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]]
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """Return features (rows, 3), preference and weight (rows,): gamed rows first, no rows without a verdict."""
    valid = ~np.isnan(rows.preference)
    if valid.sum() < 2 * FOLDS:
        return None
    spread = float(np.std(rows.length_difference, ddof=1))
    if not spread > 0:
        return None
    length = np.tanh(rows.length_difference / spread)
    model_rows = np.column_stack([length, rows.difficulty, np.ones_like(length)])[valid]
    fixed = np.array(gamed, dtype=np.float64).reshape(-1, 3)
    regular = np.column_stack([np.tanh(fixed[:, 1]), fixed[:, 2], np.zeros(len(fixed))])
    features = np.concatenate([regular, model_rows])
    preference = np.concatenate([fixed[:, 0], rows.preference[valid]])
    weight = np.concatenate([np.full(len(fixed), GAMED_WEIGHT), np.ones(len(model_rows))])
    return features, preference, weight


def _soft(features: FloatArray, preference: FloatArray, weight: FloatArray) -> SoftRows:
    """Return the rows as liblinear sees them: each stands for a win of weight p and a loss of weight 1 - p.

    liblinear drops rows without a positive weight, so p below 0 is only a loss, of weight 1 - p, and p above 1 only a
    win, of weight p.
    """
    heavier = np.maximum(1.0, np.maximum(preference, 1.0 - preference))
    return SoftRows(features, np.clip(preference, 0.0, 1.0), weight * heavier)


def _choose_strength(features: FloatArray, preference: FloatArray, weight: FloatArray, order: FoldOrder) -> float:
    """Return the C with the best mean log-likelihood over folds, or the first one if several are equal."""
    fold = assign_folds(len(preference), FOLDS, order)
    scores = np.empty((FOLDS, len(STRENGTHS)))
    for number in range(FOLDS):
        held_out = fold == number
        training, true = _soft(features[~held_out], preference[~held_out], weight[~held_out]), preference[held_out]
        fits = Fits(SEED)  # one stream for all Cs of a fold: it changes published digits
        for column, strength in enumerate(STRENGTHS):
            coefficients = fits.fit(replace(training, weight=training.weight * strength))
            fitted = np.clip(sigmoid(features[held_out] @ coefficients), CLIP, 1 - CLIP)
            likelihood = weight[held_out] * (true * np.log(fitted) + (1 - true) * np.log(1 - fitted))
            scores[number, column] = np.mean(likelihood)
    return float(STRENGTHS[int(np.argmax(np.mean(scores, axis=0)))])


def weighted_win_rates(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]], fit: LengthControl, drawn: FloatArray
) -> FloatArray:
    """Return the win rates in percent, shape (replicates,), of samples with row counts `drawn` (replicates, rows).

    Counts need not be integers. The fit starts at `fit` and has its C.
    """
    counts = drawn.T
    total = counts.sum(axis=0)
    mean = rows.length_difference @ counts / total
    spread = np.sqrt((rows.length_difference**2 @ counts - total * mean**2) / (total - 1))
    fixed = np.array(gamed, dtype=np.float64).reshape(-1, 3)
    valid = ~np.isnan(rows.preference)
    length = np.tanh(rows.length_difference[valid, None] / np.where(spread > 0, spread, 1.0))
    gamed_length = np.broadcast_to(np.tanh(fixed[:, 1])[:, None], (len(fixed), counts.shape[1]))
    coefficients = fit_replicates(
        varying=np.concatenate([gamed_length, length]),
        shared=np.column_stack(
            [
                np.concatenate([fixed[:, 2], rows.difficulty[valid]]),
                np.concatenate([np.zeros(len(fixed)), np.ones(int(valid.sum()))]),
            ]
        ),
        target=np.concatenate([fixed[:, 0], rows.preference[valid]]),
        weight=np.concatenate([np.full(gamed_length.shape, GAMED_WEIGHT), counts[valid]]),
        start=np.array(fit.coefficients),
        strength=fit.strength,
    )
    fitted = sigmoid(rows.difficulty[:, None] * coefficients[1] + coefficients[2])
    estimates: FloatArray = 100 * (fitted * counts).sum(axis=0) / total
    return estimates
