"""Where a card stands among those of its protocol: against another card, and the ranks it could have. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from .questions import QuestionSums, common
from .records import Record, Score, ScoreCard
from .stats.intervals import FloatArray


class Against(Record):
    """One card's headline minus another's."""

    difference: float
    ci_low: float
    ci_high: float
    """95 %."""
    p: float
    """Two-sided, of no difference."""
    paired: bool
    """Question by question; False: from the two standard errors alone, as if independent, which is wider."""

    @property
    def significant(self) -> bool:
        return self.p < 0.05


class RankRange(Record):
    low: int
    high: int


def against(card: ScoreCard, other: ScoreCard, questions: Mapping[str, QuestionSums]) -> Against | None:
    """`card` minus `other` on the headline; None where a value or standard error is missing.

    `questions`: run id -> terms of the headline, or of the raw rate behind it (AlpacaEval's length-controlled rate is
    no ratio over questions: its two standard errors are joined by the raw preferences' correlation).
    """
    mine, theirs = card.scores[card.headline], other.scores[other.headline]
    sums = [questions.get(str(one.provenance.get("run_id", ""))) for one in (card, other)]
    if mine.value is None or theirs.value is None:
        return None
    if sums[0] is None or sums[1] is None:
        return _from_errors(mine, theirs, 0.0, None)
    ours, others = common([sums[0], sums[1]])
    if len(ours.ids) < max(2, 0.9 * max(len(sums[0].ids), len(sums[1].ids))):  # not the same questions
        return _from_errors(mine, theirs, 0.0, None)
    first, second = influence(ours), influence(others)
    count = len(ours.ids)
    if ours.metric != card.headline:
        return _from_errors(mine, theirs, _correlation(first, second), count)
    se = math.sqrt(count / (count - 1) * float(np.sum((first - second) ** 2)))
    return _difference(mine.value - theirs.value, se, count)


def influence(sums: QuestionSums) -> FloatArray:
    """What each question adds to the ratio's error, to first order; shape (questions,), in the metric's unit.

    u_i = scale * (S_i - r C_i) / sum(C): linearisation of a ratio of sums (arXiv 2411.00640, appendix A).
    """
    total = float(sums.below.sum())
    ratio = float(sums.above.sum()) / total
    found: FloatArray = sums.scale * (sums.above - ratio * sums.below) / total
    return found


def _correlation(first: FloatArray, second: FloatArray) -> float:
    below = math.sqrt(float(np.sum(first**2) * np.sum(second**2)))
    return float(np.sum(first * second)) / below if below else 0.0


def _from_errors(mine: Score, theirs: Score, correlation: float, count: int | None) -> Against | None:
    """se^2 = se_a^2 + se_b^2 - 2 rho se_a se_b; `count` questions where paired, None where not."""
    if mine.value is None or theirs.value is None or mine.se is None or theirs.se is None:
        return None
    variance = mine.se**2 + theirs.se**2 - 2 * correlation * mine.se * theirs.se
    return _difference(mine.value - theirs.value, math.sqrt(max(variance, 0.0)), count)


def _difference(value: float, se: float, count: int | None) -> Against:
    """Student's t over `count` questions; the normal without."""
    quantile = ndtri(0.975) if count is None else stdtrit(count - 1, 0.975)
    half = float(quantile) * se
    z = -abs(value) / se if se else 0.0
    tail = ndtr(z) if count is None else stdtr(count - 1, z)
    p = 2 * float(tail) if se else float(value == 0)
    return Against(difference=value, ci_low=value - half, ci_high=value + half, p=p, paired=count is not None)


def rank_ranges(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums]) -> list[RankRange | None]:
    """Ranks that the 95 % comparisons with every other row leave open, Holm's correction over a row's comparisons.

    1 + the rows significantly better, to all but the rows significantly worse; None where a comparison cannot be made.
    """
    found: list[RankRange | None] = []
    for card in cards:
        steps = [against(card, other, questions) for other in cards if other is not card]
        known = [step for step in steps if step is not None]
        if len(known) < len(steps) or not known:
            found.append(None)
            continue
        sure = _holm(known)
        better, worse = sum(step.difference < 0 for step in sure), sum(step.difference > 0 for step in sure)
        found.append(RankRange(low=1 + better, high=len(cards) - worse))
    return found


def _holm(steps: Sequence[Against], level: float = 0.05) -> list[Against]:
    """Those that stay significant when all are asked at once."""
    ordered = sorted(steps, key=lambda step: step.p)
    for place, step in enumerate(ordered):
        if step.p > level / (len(ordered) - place):
            return ordered[:place]
    return ordered
