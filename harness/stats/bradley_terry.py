"""Fit Bradley-Terry strengths of models to battles: converged, in closed form, and by the reference's bootstrap.

>>> import numpy as np
>>> won = Battles(("baseline", "model"), first=np.zeros(4, int), second=np.ones(4, int), result=np.array([0, 0, 0, 2]))
>>> [round(strength, 2) for strength in fit_strengths(counted(won)).tolist()]  # ln(3 / 1): three games won, one lost
[0.0, 1.1]

The model: log-odds that the first of two wins = strength(first) - strength(second), natural logarithms. If all
battles share one opponent, the fit is the logit of each model's win rate. Elo = 400 / ln 10 * strength + 1000
(arena-hard-auto show_result.py, compute_mle_elo: SCALE 400, BASE 10, INIT_RATING 1000).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval

IntArray = NDArray[np.int64]

ELO_PER_LOGIT = 400.0 / np.log(10.0)
ELO_ORIGIN = 1000.0
ROUNDS = 100  # show_result.py --num-rounds
SEED = 42  # show_result.py: np.random.seed(42)
PERCENTILES = (2.5, 97.5)
V2_PERCENTILES = (5.0, 95.0)  # show_result.py of v2.0: a 90 % interval
CERTAIN = 1e-6
"""A win rate of 0 or 1 is moved inward by this, so the strength is finite and still prints as 0.00 or 100.00."""
STEPS = 100
TOLERANCE = 1e-10
LONGEST_STEP = 5.0
"""Largest change of a strength in one Newton step, in logits."""


@dataclass(frozen=True)
class Battles:
    """Battles in the file's order. All arrays have shape (battles,)."""

    names: tuple[str, ...]
    first: IntArray
    """Index into `names` of model_a."""
    second: IntArray
    """Index into `names` of model_b."""
    result: IntArray
    """0: the second won, 1: a tie, 2: the first won."""

    def __len__(self) -> int:
        return len(self.result)


def counted(battles: Battles, weights: FloatArray | None = None) -> FloatArray:
    """Return the points [i, j] that i took from j, half each for a tie, shape (models, models), diagonal 0."""
    models = len(battles.names)
    points = battles.result / 2.0
    weight = np.ones(len(battles)) if weights is None else weights
    forward = np.bincount(battles.first * models + battles.second, weight * points, models**2).astype(np.float64)
    back = np.bincount(battles.second * models + battles.first, weight * (1.0 - points), models**2)
    table: FloatArray = (forward + back).reshape(models, models)
    np.fill_diagonal(table, 0.0)  # a battle of a model against itself carries no information
    return table


def fit_strengths(points: FloatArray, anchor: int = 0) -> FloatArray:
    """Return the maximum-likelihood strengths in logits, zero at `anchor`, shape (models,), from the `counted` points.

    NaN for a model that no chain of won and lost points connects with the anchor: its strength is unbounded or unknown.
    """
    inside = np.flatnonzero(_tied_to(points, anchor))
    strengths = np.full(len(points), np.nan)
    strengths[anchor] = 0.0
    if len(inside) == 1:
        return strengths
    table = points[np.ix_(inside, inside)]
    games, won = table + table.T, table.sum(axis=1)
    strength = np.zeros(len(inside))
    for _ in range(STEPS):
        expected = games / (1.0 + np.exp(strength[None, :] - strength[:, None]))
        slope = won - expected.sum(axis=1)
        bend = expected * expected.T / np.where(games > 0, games, 1.0)
        hessian = np.diag(bend.sum(axis=1)) - bend
        # the likelihood is flat along (1, ..., 1): adding that direction makes the step unique, with mean zero
        step = np.linalg.solve(hessian + np.mean(np.diag(hessian)) / len(inside), slope)
        strength += np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        if np.max(np.abs(step), initial=0.0) < TOLERANCE:
            break
    strengths[inside] = strength - strength[np.flatnonzero(inside == anchor)[0]]
    return strengths


def _tied_to(points: FloatArray, anchor: int) -> NDArray[np.bool_]:
    """Return which models take points from the anchor and lose points to it, over chains of others, shape (models,)."""
    reach = (points > 0) | np.eye(len(points), dtype=np.bool_)
    for _ in range(len(points).bit_length()):
        reach = (reach.astype(np.float64) @ reach) > 0
    tied: NDArray[np.bool_] = reach[anchor] & reach[:, anchor]
    return tied


def star_strengths(points: FloatArray, centre: int) -> FloatArray:
    """Return `fit_strengths` for battles that are all against `centre`: the logit of each win rate.

    `points` has shape (..., models, 2): won and lost against the centre. NaN without a battle; `CERTAIN` clips a sweep.
    """
    won, lost = points[..., 0], points[..., 1]
    with np.errstate(invalid="ignore"):
        rate = np.clip(won / (won + lost), CERTAIN, 1.0 - CERTAIN)
    strength: FloatArray = np.log(rate / (1.0 - rate))
    strength[..., centre] = 0.0
    return strength


def hub(battles: Battles) -> int | None:
    """Return the one model that takes part in every battle between two, or None if there is no such model."""
    apart = battles.first != battles.second
    first, second = battles.first[apart], battles.second[apart]
    if not len(first):
        return None
    for model in (int(first[0]), int(second[0])):
        if np.all((first == model) | (second == model)):
            return model
    return None


def reference_rounds(
    battles: Battles, *, rounds: int = ROUNDS, seed: int = SEED, baseline: str | None = None
) -> FloatArray:
    """Return the Elo of each model in each of the reference's bootstrap rounds, shape (rounds, models).

    A round draws as many rows as there are, of all models together, exactly as `numpy.random.seed(seed)` and pandas'
    `sample(frac=1, replace=True)` do. `baseline` None: rounds have mean 1000 instead of a model at 1000, as the
    reference's v0.1 does with a custom baseline (whose name never reaches the bootstrap). NaN for a model without
    rows in a round.
    """
    centre = hub(battles)
    if centre is not None and len(battles.names) == 2:
        strengths = _two_models(battles, rounds, seed, centre)
    else:
        strengths = np.array(list(_rounds(battles, rounds, seed, centre)))
    if baseline is not None:
        strengths = strengths - strengths[:, [battles.names.index(baseline)]]
    else:
        strengths = strengths - np.nanmean(strengths, axis=1, keepdims=True)
    elo: FloatArray = ELO_ORIGIN + ELO_PER_LOGIT * strengths
    return elo


def _rounds(battles: Battles, rounds: int, seed: int, centre: int | None) -> Iterator[FloatArray]:
    """Yield each round's strengths. Rows with equal models and result are equal, so a round is a vector of counts."""
    models = len(battles.names)
    kinds, row_kind = np.unique((battles.first * models + battles.second) * 3 + battles.result, return_inverse=True)
    row_kind = row_kind.astype(np.int32)  # half the memory traffic of the gather below
    one_each = Battles(battles.names, kinds // 3 // models, kinds // 3 % models, kinds % 3)
    rng = np.random.RandomState(seed)  # the legacy stream is the one that pandas draws from
    for _ in range(rounds):
        drawn = np.bincount(row_kind[rng.randint(0, len(battles), len(battles))], minlength=len(kinds))
        points = counted(one_each, drawn.astype(np.float64))
        if centre is None:
            yield fit_strengths(points)
        else:
            yield star_strengths(np.stack((points[:, centre], points[centre]), axis=-1), centre)


def _two_models(battles: Battles, rounds: int, seed: int, centre: int) -> FloatArray:
    """Return `_rounds` for one model and its baseline, where a round is the sum of the points drawn."""
    model = 1 - centre
    points = np.where(battles.first == model, battles.result, 2 - battles.result)  # in half points
    apart = battles.first != battles.second
    won = drawn_sums(np.where(apart, points, 0), rounds, seed) / 2.0
    games = float(len(battles)) if apart.all() else drawn_sums(apart.astype(np.int64), rounds, seed)
    table = np.zeros((rounds, 2, 2))
    table[:, model, 0], table[:, model, 1] = won, games - won
    return star_strengths(table, centre)


def drawn_sums(values: IntArray, rounds: int, seed: int) -> FloatArray:
    """Return the sum of `len(values)` values (0..127) drawn with replacement, once per round, shape (rounds,).

    The draws are those of `RandomState(seed).randint(0, n, n)` in a third of its time: 32-bit words cut to the bits of
    n - 1, words of n and above left out (numpy's legacy masked rejection).
    """
    n, bits = len(values), (len(values) - 1).bit_length()
    rng, drawn = np.random.RandomState(seed), np.zeros(0, dtype=np.uint32)
    while len(drawn) < rounds * n:
        missing = int((rounds * n - len(drawn)) * (1 << bits) / n * 1.02) + 64
        words = np.frombuffer(rng.bytes(4 * missing), dtype="<u4") & np.uint32((1 << bits) - 1)
        drawn = np.concatenate((drawn, words[np.flatnonzero(words < n)]))  # a third of the time of words[words < n]
    drawn_values = values.astype(np.int8).take(drawn[: rounds * n])
    sums: FloatArray = drawn_values.reshape(rounds, n).sum(axis=1, dtype=np.int32).astype(np.float64)
    return sums


def win_rate(elo: FloatArray, baseline_elo: FloatArray | float = ELO_ORIGIN) -> FloatArray:
    """Return the probability, in percent, of beating a baseline of that Elo."""
    rate: FloatArray = 100.0 / (1.0 + 10.0 ** ((baseline_elo - elo) / 400.0))
    return rate


def reference_interval(rounds: FloatArray) -> FloatArray:
    """Return the win rates in percent at the 2.5 and 97.5 percentiles of anchored rounds, shape (2, models).

    A model missing from one round has no percentile, which the reference prints as 50; here it is NaN.
    """
    return win_rate(np.percentile(rounds, PERCENTILES, axis=0))


@dataclass(frozen=True)
class RowInterval(Interval):
    """An interval in percent. v2.0 prints `middle` as the score."""

    middle: float
    """Mean of the resamples."""


def _rows(values: Sequence[float], weights: Sequence[float]) -> FloatArray:
    return np.repeat(np.array(values, dtype=np.float64), np.array(weights, dtype=np.int64))


def row_interval(values: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """Return v0.1's interval, in percent, of one model alone against its baseline, or None without rows."""
    rows = _rows(values, weights)
    if not len(rows):
        return None
    unit = np.ones(len(rows), dtype=np.int64)
    battles = Battles(("baseline", "model"), 0 * unit, unit, np.rint(2.0 - 2.0 * rows).astype(np.int64))
    rounds = reference_rounds(battles, baseline="baseline")
    low, high = reference_interval(rounds)[:, 1]
    return Interval(float(low), float(high), float(np.std(win_rate(rounds[:, 1]), ddof=1)))


def v2_row_interval(values: Sequence[float], weights: Sequence[float]) -> RowInterval | None:
    """Return v2.0's mean and 90 % interval, in percent, of 100 resamples of rows, with seed 42 (upstream sets none)."""
    rows = _rows(values, weights)
    if not len(rows):
        return None
    means = drawn_sums(np.rint(2.0 * rows).astype(np.int64), ROUNDS, SEED) / len(rows) * 50.0
    low, high = np.percentile(means, V2_PERCENTILES)
    return RowInterval(float(low), float(high), float(means.std(ddof=1)), float(means.mean()))
