"""Put models on the scale of people's votes, by the votes themselves or by a judge's verdicts. Pure.

>>> import numpy as np
>>> certain, right = np.ones(30), np.repeat([1.0, 0.0], [24, 6])
>>> round(fit_slope(certain, right), 3)  # ln(24 / 6): people agree with a verdict in 24 of 30 votes
1.386

Three steps, each by maximum likelihood:

1. People: a Bradley-Terry model of the votes, strength h of each voted model, mean 0 over them.
2. The judge: a Bradley-Terry model of its verdicts, strength g of each judged model.
3. The temperature: people's log-odds are `slope` times the judge's, P(a vote for i over j) = 1 / (1 + exp(-slope *
   (g_i - g_j))). A judge that decides more sharply than people has a slope below 1.

A model without votes is placed at offset + slope * g; the offset makes both scales agree on average over the voted
models. Strengths are natural logarithms; Elo = 400 / ln 10 * strength + 1000, as on LMArena's boards.

How wrong such a place can be has two parts: the sampling of questions, which are drawn again with all their votes and
verdicts (bootstrap), and the judge's taste, which misplaces even a model that it saw infinitely often. The second is
estimated from the voted models' residuals h - placed, as the error of a new point of a regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .agreement import Measure, mean_measure, share_measure
from .bradley_terry import ELO_ORIGIN, ELO_PER_LOGIT, Battles, IntArray, counted, fit_strengths
from .intervals import FloatArray, Interval, percentile_interval, resampling_weights
from .paired import t_quantile

BoolArray = NDArray[np.bool_]

FEWEST_ROWS = 30
"""Votes, or verdicts, of a model below which it is left out: the logit of a win rate from fewer is skewed, and a
resample in which it wins or loses everything is no longer rare (0.9**30 = 4 %)."""
FEWEST_MODELS = 4
"""Models with votes and verdicts below which no other model is placed: two numbers (slope, offset) and their error
must come from them."""
ROUNDS = 500
"""Bootstrap rounds: the ends of a 95 % interval then vary by about 3 % of its width."""
FOLDS = 10
STEPS = 100
TOLERANCE = 1e-10
LONGEST_STEP = 2.0
"""Largest change of the slope in one Newton step."""
MOST_LOST = 0.05
"""Share of bootstrap rounds that may lack an estimate, as when a model lost everything; with more it has no interval"""
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of the predicted probabilities of the favourite, for the calibration."""


@dataclass(frozen=True)
class Contests:
    """Votes or verdicts, one row per comparison of two models. All arrays have shape (rows,)."""

    names: tuple[str, ...]
    first: IntArray
    """Index into `names`."""
    second: IntArray
    points: FloatArray
    """Of the first: 1 it won, 0.5 a tie, 0 it lost; anything between for a judge that gives probabilities."""
    clusters: IntArray
    """Number of the question, 0 and up, the same in votes and verdicts. Its rows are resampled together."""

    def __len__(self) -> int:
        return len(self.points)

    def of(self, rows: BoolArray | IntArray) -> Contests:
        """Return some of the rows."""
        return replace(
            self,
            first=self.first[rows],
            second=self.second[rows],
            points=self.points[rows],
            clusters=self.clusters[rows],
        )

    def among(self, models: BoolArray) -> Contests:
        """Return the rows between two of these models. `models` has shape (names,)."""
        return self.of(models[self.first] & models[self.second])

    def games(self) -> IntArray:
        """Return the number of rows of each model, shape (names,)."""
        both = np.concatenate((self.first, self.second))
        return np.bincount(both, minlength=len(self.names)).astype(np.int64)

    def table(self, weights: FloatArray | None = None) -> FloatArray:
        """Return the points [i, j] that i took from j, as `bradley_terry.counted`, shape (names, names)."""
        weight = np.ones(len(self)) if weights is None else weights
        won = Battles(self.names, self.first, self.second, np.full(len(self), 2))
        return counted(won, weight * self.points) + counted(replace(won, result=0 * won.result), weight * self.lost)

    @property
    def lost(self) -> FloatArray:
        return 1.0 - self.points


def enough(contests: Contests, fewest: int = FEWEST_ROWS) -> BoolArray:
    """Return which models have enough rows against others with enough, shape (names,)."""
    candidates = np.ones(len(contests.names), dtype=np.bool_)
    # leaving out one model takes rows from its opponents, so this may need several rounds
    while True:
        remaining = candidates & (contests.among(candidates).games() >= fewest)
        if np.array_equal(remaining, candidates):
            return candidates
        candidates = remaining


def rateable(votes: Contests, fewest: int = FEWEST_ROWS) -> BoolArray:
    """Return which models have enough votes and are connected by won and lost ones, at least two or none."""
    voted = enough(votes, fewest)
    voted &= np.isfinite(strengths_of(votes.among(voted).table()))
    return voted if voted.sum() > 1 else np.zeros(len(voted), dtype=np.bool_)


def strengths_of(table: FloatArray) -> FloatArray:
    """Return Bradley-Terry strengths in logits, shape (models,), 0 for the model with the most points at stake.

    NaN for models that no chain of won and lost points connects with it.
    """
    anchor = int(np.argmax((table + table.T).sum(axis=1)))
    return fit_strengths(table, anchor)


def fit_slope(x: FloatArray, points: FloatArray, weights: FloatArray | None = None) -> float:
    """Return the s that makes 1 / (1 + exp(-s x)) the likeliest probabilities of `points` (0..1), shapes (rows,).

    NaN if every point is on the side of x (or against it), because then no s is the best, or if no x differs from 0.
    """
    weight = np.ones(len(x)) if weights is None else weights
    stakes = weight * np.abs(x)
    agreeing = float((stakes * _side(x, points)).sum())
    if not 0 < agreeing < float(stakes.sum()):
        return float("nan")
    slope = 0.0
    for _ in range(STEPS):
        expected = _logistic(slope * x)
        gradient = float((weight * x * (points - expected)).sum())
        curvature = float((weight * x**2 * expected * (1.0 - expected)).sum())
        step = float(np.clip(gradient / max(curvature, TOLERANCE), -LONGEST_STEP, LONGEST_STEP))
        slope += step
        if abs(step) < TOLERANCE:
            break
    return slope


def _side(x: FloatArray, points: FloatArray) -> FloatArray:
    """Return the points on the side of x."""
    return np.where(x > 0, points, 1.0 - points)


def _logistic(x: FloatArray) -> FloatArray:
    probability: FloatArray = np.exp(-np.logaddexp(0.0, -x))
    return probability


@dataclass(frozen=True)
class Strengths:
    """One fit. All arrays have shape (models,), in logits."""

    people: FloatArray
    """By the votes, mean 0 over the voted models; NaN for the others."""
    judge: FloatArray
    """By the verdicts, in the judge's log-odds; NaN without verdicts."""
    slope: float
    """People's log-odds per log-odds of the judge; NaN if unknown."""
    placed: FloatArray
    """By the judge, on people's scale; NaN without verdicts or slope."""

    @property
    def both(self) -> BoolArray:
        """Which models have votes and verdicts."""
        is_known: BoolArray = np.isfinite(self.people) & np.isfinite(self.judge)
        return is_known


def fit_scale(votes: FloatArray, verdicts: FloatArray, voted: BoolArray) -> Strengths:
    """Return the fit to tables of points [i, j], shape (models, models). `voted`: the models to place by votes."""
    people = strengths_of(np.where(np.outer(voted, voted), votes, 0.0))
    people = np.where(voted, people, np.nan)
    people = people - people[voted].mean()  # NaN for all if one of them is not connected: no common zero
    judge = strengths_of(verdicts) if verdicts.any() else np.full(len(people), np.nan)
    slope, placed = _placed(people, judge, votes)
    return Strengths(people, judge, slope, placed)


def _placed(people: FloatArray, judge: FloatArray, votes: FloatArray) -> tuple[float, FloatArray]:
    """Return the slope, from the votes between models that have verdicts, and each model's place by the judge."""
    both = np.flatnonzero(np.isfinite(people) & np.isfinite(judge))
    slope = float("nan")
    if len(both) > 1:
        apart = judge[both][:, None] - judge[both][None, :]
        table = votes[np.ix_(both, both)]
        # a row [i, j] and its mirror say the same, so each point is one vote for its row
        slope = fit_slope(apart.ravel(), np.ones(apart.size), table.ravel())
    offset = float(np.mean(people[both] - slope * judge[both])) if len(both) else float("nan")
    placed: FloatArray = offset + slope * judge
    return slope, placed


@dataclass(frozen=True)
class HumanScale:
    """Every model's Elo with 95 % intervals, and how the judge's scale relates to people's."""

    names: tuple[str, ...]
    people: tuple[Measure, ...]
    """Elo by the votes; no value for a model without enough of them."""
    placed: tuple[Measure, ...]
    """Elo by the judge for models without votes; its interval includes the judge's taste. For a voted model: the Elo
    that it would get if its votes were unknown, without an interval."""
    slope: Measure
    """People's log-odds per log-odds of the judge."""
    misplaced: float | None
    """Standard deviation, in Elo, by which the judge misplaces a voted model, beyond the noise of sampling."""
    range_by_judge: tuple[float, float] | None
    """Lowest and highest Elo by the judge of the voted models; a model outside is extrapolated."""


def human_scale(
    votes: Contests,
    verdicts: Contests,
    *,
    fewest: int = FEWEST_ROWS,
    anchor: tuple[str, float] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> HumanScale:
    """Return the Elo of all models with at least `fewest` votes, or else verdicts. Two of them must be `rateable`.

    anchor: a voted model and its Elo; None: the voted models' mean is 1000. Both contests have the same names.
    """
    voted = rateable(votes, fewest)
    votes = votes.among(voted)
    verdicts = verdicts.among(voted | (verdicts.games() >= fewest))
    point = fit_scale(votes.table(), verdicts.table(), voted)
    drawn = _resampled(votes, verdicts, voted, rounds, seed)
    scale = _Scale(None, ELO_ORIGIN) if anchor is None else _Scale(votes.names.index(anchor[0]), anchor[1])
    games, judged = votes.games(), verdicts.games()
    people_elo, placed_elo = (scale.elo(strengths, point.people) for strengths in (point.people, point.placed))
    people_rounds, placed_rounds = (scale.elo(strengths, drawn.people) for strengths in (drawn.people, drawn.placed))
    both = point.both
    enough_models = int(both.sum()) >= FEWEST_MODELS and np.isfinite(point.slope)
    people = [_measure(people_elo[i], people_rounds[:, i], int(games[i])) for i in range(len(voted))]
    if not enough_models:
        none = tuple(Measure(None, None, int(judged[i])) for i in range(len(voted)))
        return HumanScale(votes.names, tuple(people), none, Measure(None, None, len(votes)), None, None)
    misplaced = _misplaced(people_elo - placed_elo, people_rounds - placed_rounds, both)
    placed = []
    for i in range(len(voted)):
        if voted[i]:
            unseen = float(scale.elo(_without_votes_of(i, votes, point), point.people)[i])
            placed.append(Measure(None if np.isnan(unseen) else unseen, None, int(judged[i])))
        else:
            taste = misplaced * _leverage(point.judge[i], point.judge[both])
            placed.append(_with_taste(placed_elo[i], placed_rounds[:, i], taste, int(both.sum()) - 2, int(judged[i])))
    slope = _measure(point.slope, drawn.slope, len(votes.among(both)))
    seen = placed_elo[both]
    return HumanScale(
        votes.names, tuple(people), tuple(placed), slope, misplaced, (float(seen.min()), float(seen.max()))
    )


@dataclass(frozen=True)
class _Scale:
    """Where Elo has its zero: at a model's strength, or at the mean of the voted models."""

    anchor: int | None
    origin: float

    def elo(self, strengths: FloatArray, people: FloatArray) -> FloatArray:
        """Return the Elo of `strengths`, shape (..., models), by the votes' strengths of the same fits."""
        zero = 0.0 if self.anchor is None else people[..., [self.anchor]]
        scaled: FloatArray = self.origin + ELO_PER_LOGIT * (strengths - zero)
        return scaled


@dataclass(frozen=True)
class _Rounds:
    """Bootstrap fits: arrays of shape (rounds, models), and (rounds,) for the slope."""

    people: FloatArray
    placed: FloatArray
    slope: FloatArray


def _resampled(votes: Contests, verdicts: Contests, voted: BoolArray, rounds: int, seed: int) -> _Rounds:
    clusters = 1 + int(max(votes.clusters.max(initial=0), verdicts.clusters.max(initial=0)))
    fits = [
        fit_scale(votes.table(drawn[votes.clusters]), verdicts.table(drawn[verdicts.clusters]), voted)
        for block in resampling_weights(clusters, rounds, np.random.default_rng(seed))
        for drawn in block
    ]
    return _Rounds(
        np.array([fit.people for fit in fits]),
        np.array([fit.placed for fit in fits]),
        np.array([fit.slope for fit in fits]),
    )


def _measure(value: float, rounds: FloatArray, n: int) -> Measure:
    """Return the estimate with its percentiles, or without an interval if too many rounds lack it."""
    if not np.isfinite(value):
        return Measure(None, None, n)
    finite = rounds[np.isfinite(rounds)]
    if len(finite) < (1.0 - MOST_LOST) * len(rounds):
        return Measure(float(value), None, n)
    return Measure(float(value), percentile_interval(finite), n)


def _misplaced(residuals: FloatArray, rounds: FloatArray, both: BoolArray) -> float:
    """Return the spread of the residuals, shape (models,), beyond that of their bootstrap, in their unit."""
    noise = float(np.nanvar(rounds[:, both], axis=0).sum())
    freedom = int(both.sum()) - 2  # slope and offset are fitted to them
    return float(np.sqrt(max(0.0, (float((residuals[both] ** 2).sum()) - noise) / freedom)))


def _leverage(judge: float, seen: FloatArray) -> float:
    """Return the error of a new point of a regression on `seen`, in units of a point's own error (1 and more)."""
    spread = float(((seen - seen.mean()) ** 2).sum())
    return float(np.sqrt(1.0 + 1.0 / len(seen) + (judge - seen.mean()) ** 2 / spread)) if spread else float("inf")


def _with_taste(value: float, rounds: FloatArray, taste: float, freedom: int, n: int) -> Measure:
    """Return the estimate +- t * SE of both errors. t has the degrees of freedom of the judge's error, the larger."""
    sampled = _measure(value, rounds, n)
    if sampled.value is None or sampled.interval is None:
        return sampled
    se = float(np.hypot(sampled.interval.se, taste))
    half = t_quantile(0.975, freedom) * se
    return Measure(sampled.value, Interval(sampled.value - half, sampled.value + half, se), n)


def _without_votes_of(model: int, votes: Contests, point: Strengths) -> FloatArray:
    """Return where the judge places all models if one model's votes do not count for slope and offset."""
    has_elo = np.isfinite(point.people)
    has_elo[model] = False
    return _placed(np.where(has_elo, point.people, np.nan), point.judge, votes.table())[1]


# ----------------------------------------------------------------------------------------------------- held-out votes


@dataclass(frozen=True)
class Bin:
    """Votes whose favourite was predicted to win with a probability in [low, high)."""

    low: float
    high: float
    predicted: float
    """Mean predicted probability of the favourite."""
    observed: float
    """Points that the favourite got per vote; a tie is half a point."""
    n: int


@dataclass(frozen=True)
class Prediction:
    """How well held-out votes are predicted. A tie is half a vote for each side."""

    accuracy: Measure
    """Share of the votes that are no ties, 0..1, of the favourite; half for a prediction without one."""
    log_loss: Measure
    """Mean of -ln(predicted probability of the vote), in nats; 0.693 is a coin's."""
    slope: float | None
    """Logistic regression of the votes on the predicted log-odds: below 1, predictions are too sure."""
    error: float | None
    """Mean distance of predicted and observed over the bins, weighted by votes: the expected calibration error."""
    bins: tuple[Bin, ...]


COIN, PEOPLE, STRENGTHS = "coin", "people_elo", "judge_elo"


def predictions(
    votes: Contests, verdicts: Contests, signals: Mapping[str, FloatArray], *, seed: int = 0
) -> dict[str, Prediction]:
    """Return predictor -> how well it predicts the votes of questions that it was not fitted to, over `FOLDS` parts.

    signals: further predictors' log-odds of each vote up to a factor, which is fitted, shape (votes,); NaN if unknown.
    `coin` is 0.5 for every vote; `people_elo` and `judge_elo` are the difference of the two models' strengths, by the
    other questions' votes and by all verdicts.
    """
    fold = _folds(votes.clusters, seed)
    judge = strengths_of(verdicts.table()) if len(verdicts) else np.full(len(votes.names), np.nan)
    columns = {
        PEOPLE: _people_signal(votes, fold),
        STRENGTHS: judge[votes.first] - judge[votes.second],
        **signals,
    }
    coin = _prediction(votes, np.zeros(len(votes)))
    results = {COIN: replace(coin, accuracy=replace(coin.accuracy, interval=None))}  # 0.5 by definition
    for name, column in columns.items():
        odds = _held_out(column, votes.points, fold)
        if np.isfinite(odds).any():
            results[name] = _prediction(votes.of(np.isfinite(odds)), odds[np.isfinite(odds)])
    return results


def _folds(clusters: IntArray, seed: int) -> IntArray:
    """Return each row's part, 0 to FOLDS - 1: whole questions, drawn by seed."""
    units, row_unit = np.unique(clusters, return_inverse=True)
    fold_of_unit = np.random.default_rng(seed).permutation(len(units)) % FOLDS
    # whole questions: votes on one answer pair would tell the fit about each other
    return fold_of_unit[row_unit].astype(np.int64)


def _people_signal(votes: Contests, fold: IntArray) -> FloatArray:
    signal = np.full(len(votes), np.nan)
    for number in range(FOLDS):
        strengths = strengths_of(votes.of(fold != number).table())
        held = fold == number
        signal[held] = strengths[votes.first[held]] - strengths[votes.second[held]]
    return signal


def _held_out(signal: FloatArray, points: FloatArray, fold: IntArray) -> FloatArray:
    """Return each row's log-odds with the slope that the rows of other parts have, or NaN without signal or slope."""
    odds = np.full(len(signal), np.nan)
    has_signal = np.isfinite(signal)
    for number in range(FOLDS):
        fitted, held = has_signal & (fold != number), has_signal & (fold == number)
        odds[held] = fit_slope(signal[fitted], points[fitted]) * signal[held]
    return odds


def _prediction(votes: Contests, odds: FloatArray) -> Prediction:
    points, clusters = votes.points, votes.clusters.tolist()
    loss = points * np.logaddexp(0.0, -odds) + votes.lost * np.logaddexp(0.0, odds)
    decided = points != 0.5
    right = np.where(odds == 0.0, 0.5, _side(odds, points))[decided]
    slope = fit_slope(odds, points)
    bins = _bins(np.abs(odds), _side(odds, points), odds != 0.0)
    counts = sum(row.n for row in bins)
    return Prediction(
        accuracy=share_measure(right, votes.clusters[decided].tolist()),
        log_loss=mean_measure(loss, clusters),
        slope=None if np.isnan(slope) else slope,
        error=sum(row.n * abs(row.predicted - row.observed) for row in bins) / counts if counts else None,
        bins=bins,
    )


def _bins(odds: FloatArray, points: FloatArray, favoured: BoolArray) -> tuple[Bin, ...]:
    """Return the filled bins. `points` are the favourite's, and rows without a favourite are left out."""
    probability = _logistic(odds)[favoured]
    observed = points[favoured]
    bin_numbers = np.clip(np.searchsorted(BINS, probability, side="right") - 1, 0, len(BINS) - 2)
    return tuple(
        Bin(
            BINS[k],
            BINS[k + 1],
            float(probability[bin_numbers == k].mean()),
            float(observed[bin_numbers == k].mean()),
            int(count),
        )
        for k, count in enumerate(np.bincount(bin_numbers, minlength=len(BINS) - 1))
        if count
    )
