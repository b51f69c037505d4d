"""Measure agreement: of two judges, of a judge's two orders and repeats, of two rankings, of a judge with people. Pure.

>>> both = agreement(["win", "loss", "win", "tie"], ["win", "loss", "loss", "tie"])
>>> both.raw.value, round(both.kappa.value, 2)
(0.75, 0.64)

A verdict is any hashable label ("first", "tie", 0.5, …). Only equality matters, except for alpha's interval metric.
Intervals are 95 %, with a row's cluster (its question) as the unit. `rogan_gladen` and `prediction_powered` estimate
people's verdicts from a judge's and a sample judged by both; they assume that the judge errs on new answers as it did
on that sample, which the data cannot show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from .intervals import FloatArray, Interval, percentile_interval, resampling_weights
from .paired import CONFIDENCE, Bounds, clustered_interval, t_quantile

BoolArray = NDArray[np.bool_]
FEWEST_LABELS = 50
"""Rows judged by people below which a judge is not corrected: with fewer, intervals are too narrow, or nearly as wide
as the range (`make bench-stats`)."""
RESAMPLES = 2000
"""Enough for a correlation's interval, whose ends then vary by about 0.04 standard errors."""


@dataclass(frozen=True)
class Measure:
    """An estimate with its interval. `value` is None if the rows do not define it."""

    value: float | None
    interval: Interval | None
    n: int
    """Number of rows."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges' verdicts on the same items."""

    raw: Measure
    """Share of equal verdicts, 0..1."""
    kappa: Measure
    """Cohen's kappa, -1..1: 0 is chance given both judges' frequencies. None if both always give the same verdict."""


def agreement(
    first: Sequence[Hashable], second: Sequence[Hashable], clusters: Sequence[Hashable] | None = None
) -> Agreement:
    """Return raw agreement and Cohen's kappa of paired verdicts. Without `clusters`, every row is its own cluster."""
    units = range(len(first)) if clusters is None else clusters
    same = np.array([left == right for left, right in zip(first, second, strict=True)], dtype=np.float64)
    return Agreement(raw=share_measure(same, units), kappa=_kappa(first, second, units))


def mean_measure(values: FloatArray, clusters: Sequence[Hashable]) -> Measure:
    """Return the mean of `values`, shape (rows,), with its clustered interval."""
    n = len(values)
    if not n:
        return Measure(None, None, 0)
    mean = float(values.mean())
    return Measure(mean, clustered_interval(mean, (values - mean) / n, clusters), n)


def share_measure(values: FloatArray, clusters: Sequence[Hashable]) -> Measure:
    """Return the mean of `values` within 0..1, shape (rows,), with an interval that stays there.

    Wilson's interval of the effective number of rows p(1 - p)/SE^2 (Korn and Graubard 1998 do so for
    Clopper-Pearson's), with the clustered SE and Student's t for z. If all rows are equal, a cluster counts as one row.
    """
    mean = mean_measure(values, clusters)
    if mean.value is None or mean.interval is None:
        return mean
    p, se, groups = mean.value, mean.interval.se, len(set(clusters))
    rows = p * (1 - p) / se**2 if se > 0 else groups
    t2 = t_quantile(0.5 + CONFIDENCE / 2, groups - 1) ** 2
    centre = (p + t2 / (2 * rows)) / (1 + t2 / rows)
    half = float(np.sqrt(t2 * (p * (1 - p) + t2 / (4 * rows)) / rows)) / (1 + t2 / rows)
    # Wilson's centre is pulled to 1/2: with few rows the estimate itself may be outside
    low, high = max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
    return Measure(p, Interval(low=low, high=high, se=se), mean.n)


def _kappa(first: Sequence[Hashable], second: Sequence[Hashable], clusters: Sequence[Hashable]) -> Measure:
    """Return Cohen's kappa = (po - pe) / (1 - pe).

    The interval is that of the rows and four pseudo-rows: the two most common labels, in each combination. Few rows, or
    one dominant label, show too few disagreements to tell how much kappa varies: without the pseudo-rows, the interval
    of 20 to 60 rows of which 93 % have one label contains the truth in 43 to 82 %, and 11 equal rows would give [1, 1].
    """
    n = len(first)
    if not n:
        return Measure(None, None, 0)
    labels = [label for label, _ in (Counter(first) + Counter(second)).most_common(2)]
    if len(labels) < 2:  # both judges always give the same verdict: no agreement beyond chance is possible
        return Measure(None, None, n)
    value = _kappa_terms(first, second)[0]
    if len(set(clusters)) < 2:
        return Measure(value, None, n)
    pseudo = list(product(labels, labels))
    middle, influence = _kappa_terms(
        [*first, *(left for left, _ in pseudo)], [*second, *(right for _, right in pseudo)]
    )
    return Measure(
        value, _containing(value, clustered_interval(middle, influence, [*clusters, *_singletons(pseudo)]), -1.0), n
    )


def _kappa_terms(first: Sequence[Hashable], second: Sequence[Hashable]) -> tuple[float, FloatArray]:
    """Return kappa and each row's influence on it, shape (rows,).

    It is the derivative of kappa at the row's cell, [d(1 - pe) - (1 - po)(p_.i + p_j.)] / (1 - pe)^2, centred; with one
    row per cluster this gives the large-sample variance of Fleiss, Cohen and Everitt 1969 (eq. 13), except for the
    factor G/(G-1).
    """
    n = len(first)
    first_counts, second_counts = Counter(first), Counter(second)
    same = np.array([left == right for left, right in zip(first, second, strict=True)], dtype=np.float64)
    expected = sum(first_counts[label] * second_counts[label] for label in first_counts) / n**2
    observed = float(same.mean())
    margins = np.array(
        [(second_counts[left] + first_counts[right]) / n for left, right in zip(first, second, strict=True)]
    )
    slope = (same * (1 - expected) - (1 - observed) * margins) / (1 - expected) ** 2
    return (observed - expected) / (1 - expected), (slope - slope.mean()) / n


def _singletons(rows: Sequence[object]) -> list[Hashable]:
    """Return a cluster of its own for each pseudo-row."""
    return [object() for _ in rows]


def _containing(value: float, interval: Interval | None, lowest: float, highest: float = 1.0) -> Interval | None:
    """Return the interval within these limits and with the estimate in it: pseudo-rows move its middle."""
    if interval is None:
        return None
    return Interval(max(lowest, min(value, interval.low)), min(highest, max(value, interval.high)), interval.se)


def krippendorff_alpha(units: Sequence[Sequence[Hashable]], *, interval_metric: bool = False) -> float | None:
    """Return Krippendorff's alpha = 1 - Do/De of any number of raters. A unit lists its verdicts, without missing ones.

    Nominal metric, or squared differences of numbers (`interval_metric`). Units with one verdict are ignored.
    None if fewer than two verdicts can be paired or all are the same. Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability, sections C and D.
    """
    paired = [unit for unit in units if len(unit) > 1]
    values = [value for unit in paired for value in unit]
    expected = _disagreement(Counter(values), interval_metric)
    if not expected:
        return None
    observed = sum(_disagreement(Counter(unit), interval_metric) / (len(unit) - 1) for unit in paired)
    return 1.0 - (len(values) - 1) * observed / expected


def _disagreement(counts: Counter[Hashable], interval_metric: bool) -> float:
    """Return the sum of the metric over ordered pairs of single verdicts."""
    total = 0.0
    for (left, left_count), (right, right_count) in combinations(counts.items(), 2):
        distance = (float(str(left)) - float(str(right))) ** 2 if interval_metric else 1.0
        total += 2 * left_count * right_count * distance
    return total


@dataclass(frozen=True)
class Consistency:
    """One judge's consistency over both orders. Verdicts name the answer, not its position."""

    consistent: Measure
    """Share of pairs of games with the same verdict, 0..1."""
    first_shown: Measure
    """Share of the games' points given to the answer shown first; 0.5 means no position bias."""


def position_consistency(
    candidate_second: FloatArray, candidate_first: FloatArray, clusters: Sequence[Hashable]
) -> Consistency:
    """Compare the candidate's preference (0..1) when shown second and when shown first, both of shape (pairs,).

    Verdicts are the same if they are on the same side of 0.5 (or both at 0.5), so that probabilities compare too.
    """
    same = (np.sign(candidate_second - 0.5) == np.sign(candidate_first - 0.5)).astype(np.float64)
    # of two games, the candidate is shown first in one and its opponent in the other
    shown_first = (candidate_first + 1.0 - candidate_second) / 2
    return Consistency(share_measure(same, clusters), share_measure(shown_first, clusters))


def flip_rate(repeats: Sequence[Sequence[Hashable]], clusters: Sequence[Hashable] | None = None) -> Measure:
    """Return the probability (0..1) that two repeats of one question differ.

    It is the mean over questions of the share of unequal pairs. Questions with fewer than two verdicts are left out;
    `n` counts the others.
    """
    units = list(range(len(repeats)) if clusters is None else clusters)
    repeated = [
        (_unequal_share(verdicts), unit) for verdicts, unit in zip(repeats, units, strict=True) if len(verdicts) > 1
    ]
    return share_measure(np.array([share for share, _ in repeated], dtype=np.float64), [unit for _, unit in repeated])


def _unequal_share(verdicts: Sequence[Hashable]) -> float:
    n = len(verdicts)
    equal = sum(times * (times - 1) for times in Counter(verdicts).values())
    return 1.0 - equal / (n * (n - 1))


@dataclass(frozen=True)
class RankCorrelation:
    """Both coefficients. Their values are None with fewer than three models, or if a side ranks all models equal."""

    spearman: Measure
    kendall: Measure


def rank_correlation(sums: FloatArray, counts: FloatArray, board: FloatArray, *, seed: int = 0) -> RankCorrelation:
    """Correlate each model's mean over questions with `board`, shape (models,), ignoring the board's own noise.

    `sums` and `counts`, shape (questions, models): a question's contribution to a model's score and its number of
    verdicts. Questions are resampled; a resample that leaves a model without any is skipped.
    """
    models = len(board)
    total = counts.sum(axis=0)
    # two models always correlate by 1 or -1
    if models < 3 or not total.all():
        return RankCorrelation(Measure(None, None, models), Measure(None, None, models))
    drawn = []
    # the board's own models and numbers are taken as fixed: only our questions are a sample
    for weights in resampling_weights(len(sums), RESAMPLES, np.random.default_rng(seed)):
        below = weights @ counts
        whole = below.all(axis=1)
        drawn.append((weights @ sums)[whole] / below[whole])
    point, scores = (sums.sum(axis=0) / total)[None, :], np.concatenate(drawn)
    return RankCorrelation(
        *(
            _measure(coefficient(point, board), coefficient(scores, board), models)
            for coefficient in (_spearman, _kendall)
        )
    )


def _measure(point: FloatArray, resampled: FloatArray, models: int) -> Measure:
    if np.isnan(point[0]):
        return Measure(None, None, models)
    value, interval = float(point[0]), percentile_interval(resampled[~np.isnan(resampled)])
    if interval is not None:  # resampling adds noise, which pulls a correlation to 0, so the estimate may exceed all
        interval = Interval(low=min(interval.low, value), high=max(interval.high, value), se=interval.se)
    return Measure(value, interval, models)


def _spearman(scores: FloatArray, board: FloatArray) -> FloatArray:
    """Return Pearson's correlation of the ranks (mean ranks for ties) for each row, or NaN for a row of ties only."""
    ranks, board_ranks = _ranks(scores), _ranks(board[None, :])[0]
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    board_ranks = board_ranks - board_ranks.mean()
    norm = np.sqrt((ranks**2).sum(axis=1) * (board_ranks**2).sum())
    return _ratio(ranks @ board_ranks, norm)


def _ranks(rows: FloatArray) -> FloatArray:
    """Return the ranks within each row, from 1, with ties at their mean.

    Compared pair by pair, because scipy.stats.rankdata takes a second to import.
    """
    below = (rows[:, :, None] > rows[:, None, :]).sum(axis=2)
    level = (rows[:, :, None] == rows[:, None, :]).sum(axis=2)
    ranks: FloatArray = below + (level + 1) / 2
    return ranks


def _kendall(scores: FloatArray, board: FloatArray) -> FloatArray:
    """Return tau-b = (concordant - discordant) / sqrt(pairs untied in scores * pairs untied in board) for each row."""
    lower, upper = np.triu_indices(len(board), 1)
    signs, board_signs = np.sign(scores[:, lower] - scores[:, upper]), np.sign(board[lower] - board[upper])
    return _ratio(signs @ board_signs, np.sqrt((signs**2).sum(axis=1) * (board_signs**2).sum()))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> FloatArray:
    ratio: FloatArray = np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
    return ratio


@dataclass(frozen=True)
class Corrected:
    """An estimate after correction, with a 95 % interval that includes the calibration's own noise."""

    value: float | None
    """None if the judge is no better than chance, or people judged too few rows."""
    interval: Interval | None


@dataclass(frozen=True)
class JudgedSample:
    """Rows judged by a judge and partly by people. All arrays have shape (rows,)."""

    judge: FloatArray
    """The judge's values, e.g. preferences 0..1."""
    people: FloatArray
    """People's values in the same unit; NaN for rows that they did not judge."""
    clusters: Sequence[Hashable]
    """Question of each row."""


def rogan_gladen(rows: JudgedSample, *, fewest: int = FEWEST_LABELS) -> Corrected:
    """Return people's win share (0..1) over all rows that the judge decided.

    theta = (p + q0 - 1) / (q0 + q1 - 1), with p the judge's win share, q1 the share of wins (as people see them) that
    the judge calls wins and q0 that of losses it calls losses (Rogan and Gladen 1978; for judges Lee et al.,
    arXiv 2511.21140). Clipped to 0..1. Values above 0.5 are wins, below it losses; a tie of either side is left out.
    """
    judged = rows.judge != 0.5
    both = judged & ~np.isnan(rows.people) & (rows.people != 0.5)
    won, lost = both & (rows.people > 0.5), both & (rows.people < 0.5)
    if both.sum() < fewest or not (won.any() and lost.any()):
        return Corrected(None, None)
    wins = (rows.judge > 0.5).astype(np.float64)
    p, q1, q0 = float(wins[judged].mean()), float(wins[won].mean()), float(1 - wins[lost].mean())
    power = q0 + q1 - 1
    if power <= 0:
        return Corrected(None, None)
    theta = float(np.clip((p + q0 - 1) / power, 0, 1))
    interval = _lang_reiczigel(wins, (judged, won, lost), rows.clusters)
    return Corrected(theta, _containing(theta, interval, 0.0))


def _lang_reiczigel(wins: FloatArray, masks: tuple[BoolArray, ...], clusters: Sequence[Hashable]) -> Interval | None:
    """Return Lang and Reiczigel's interval (2014, Preventive Veterinary Medicine 113:13) with a clustered error.

    p gets z^2 / 2 pseudo-rows of each outcome, q1 and q0 one each. The error is first-order and clustered, since p and
    the calibration are of the same questions: d theta = [dp + (1 - theta) dq0 - theta dq1] / (q0 + q1 - 1).
    """
    z2 = t_quantile(0.5 + CONFIDENCE / 2, 0) ** 2
    added = z2 / 2, 1.0, 1.0
    n, n1, n0 = (float(mask.sum()) + 2 * extra for mask, extra in zip(masks, added, strict=True))
    shares = [(wins[mask].sum() + extra) / (mask.sum() + 2 * extra) for mask, extra in zip(masks, added, strict=True)]
    p, q1, q0 = shares[0], shares[1], 1 - shares[2]
    power = q0 + q1 - 1
    if power <= 0:
        return None
    theta = (p + q0 - 1) / power
    slopes = 1 / n, -theta / n1, -(1 - theta) / n0
    influence = np.zeros(len(wins))
    pseudo: list[float] = []
    for mask, extra, share, slope in zip(masks, added, shares, slopes, strict=True):
        influence += np.where(mask, slope * (wins - share), 0.0)
        pseudo += [float(slope * np.sqrt(extra) * (outcome - share)) for outcome in (1, 0)]
    shift = 2 * z2 * (theta * q1 * (1 - q1) / n1 - (1 - theta) * q0 * (1 - q0) / n0)
    return clustered_interval(
        float(theta + shift), np.append(influence, pseudo) / power, [*clusters, *_singletons(pseudo)]
    )


def prediction_powered(
    rows: JudgedSample, *, tuned: bool = False, bounds: Bounds | None = None, fewest: int = FEWEST_LABELS
) -> Corrected:
    """Return people's mean over all rows: mean(judge over all) + mean(people - judge over rows with both).

    `tuned` weights the judge by the lambda of least variance, mean(people) + lambda * (mean judge over all - mean judge
    over calibration), so that a useless judge does no harm. Angelopoulos et al. 2023 (arXiv 2301.09633) and 2023b
    (PPI++, arXiv 2311.01453). The interval is clustered: a question contributes to both means, so their
    covariance counts. With the `bounds` of a value it is that of the rows and two more that people judged, one at each.
    """
    both = ~np.isnan(rows.people)
    total, seen = len(rows.judge), int(both.sum())
    if seen < fewest:
        return Corrected(None, None)
    judge, people = rows.judge[both], rows.people[both]
    weight = _best_weight(judge, people) if tuned else 1.0
    value = float(people.mean() + weight * (rows.judge.mean() - judge.mean()))
    corrected = people - weight * (judge - rows.judge.mean())
    pseudo = np.array(bounds or (), dtype=np.float64)
    middle, count = float(np.append(corrected, pseudo).mean()), seen + len(pseudo)
    influence = weight * (rows.judge - rows.judge.mean()) / total
    influence[both] += (corrected - middle) / count
    influence = np.append(influence, (pseudo - middle) / count)
    interval = clustered_interval(middle, influence, [*rows.clusters, *_singletons(pseudo.tolist())])
    return Corrected(value, _containing(value, interval, *(bounds or (-math.inf, math.inf))))


def _best_weight(judge: FloatArray, people: FloatArray) -> float:
    """Return cov(people, judge) / var(judge), clipped to 0..1: PPI++'s lambda if all rows include the calibration's."""
    variance = float(np.var(judge))
    if not variance:
        return 0.0
    covariance = float(np.mean((judge - judge.mean()) * (people - people.mean())))
    return float(np.clip(covariance / variance, 0, 1))
