"""Where a card stands among those of its protocol: against another card, and the ranks it could have. Pure.

Paired where the question-level terms of both are given: what two models share, an easy or a hard question, cancels.
AlpacaEval's length-controlled rate is no ratio over questions: there the raw preferences' terms say how two models move
together, and the card's own standard error how far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..questions import QuestionSums, common
from ..records import Record, ScoreCard
from ..stats.intervals import FloatArray, resampling_weights
from ..stats.paired import ClusteredEstimate, clustered_se, correlation, paired_difference, terms
from ..stats.ranks import rank_intervals

RESAMPLES = 2000
"""Of the rank intervals: their 95 % quantile of a largest difference then moves by about 1.5 %."""
MIN_SHARED = 0.9
"""Share of the questions that two runs must have in common to be paired."""


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

    `questions`: run id -> terms of the headline, or of the raw rate behind it.
    """
    mine, theirs = card.scores[card.headline], other.scores[other.headline]
    if mine.value is None or theirs.value is None:
        return None
    difference, sums = mine.value - theirs.value, _shared([card, other], questions)
    if sums is not None and sums[0].metric == card.headline:
        estimate = paired_difference(
            (sums[0].above, sums[0].below), (sums[1].above, sums[1].below), scale=sums[0].scale
        )
        return None if estimate is None else _said(estimate, difference, paired=True)
    if mine.se is None or theirs.se is None:
        return None
    together = correlation(terms(sums[0].above, sums[0].below), terms(sums[1].above, sums[1].below)) if sums else None
    variance = mine.se**2 + theirs.se**2 - 2 * (together or 0.0) * mine.se * theirs.se
    count = len(sums[0].ids) if sums else 0
    return _said(
        ClusteredEstimate(difference, math.sqrt(max(variance, 0.0)), count - 1, count), difference, paired=bool(sums)
    )


def _said(estimate: ClusteredEstimate, difference: float, *, paired: bool) -> Against:
    """The cards' own difference: questions that only one has move the value of the shared ones a little."""
    centred = ClusteredEstimate(difference, estimate.se, estimate.df, estimate.n)
    low, high = centred.interval()
    return Against(difference=difference, ci_low=low, ci_high=high, p=centred.p_two_sided(), paired=paired)


def _shared(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums]) -> list[QuestionSums] | None:
    """The cards' terms over the questions they share; None where one has none, or they share too few."""
    sums = [questions.get(str(card.provenance.get("run_id", ""))) for card in cards]
    given = [one for one in sums if one is not None]
    if len(given) < len(cards):
        return None
    found = common(given)
    few = len(found[0].ids) < max(2, MIN_SHARED * max(len(one.ids) for one in given))
    return None if few else found


def rank_ranges(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums]) -> list[RankRange | None]:
    """The ranks each card may have, 95 % (`stats.ranks`); all None where a value or standard error is missing."""
    scores = [card.scores[card.headline] for card in cards]
    values = np.array([score.value for score in scores if score.value is not None])
    errors = np.array([score.se for score in scores if score.se is not None])
    if len(values) < len(cards) or len(errors) < len(cards) or not cards:
        return [None] * len(cards)
    drawn = values + _draws(cards, questions, errors)
    return [RankRange(low=one.best, high=one.worst) for one in rank_intervals(values, drawn)]


def _draws(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums], errors: FloatArray) -> FloatArray:
    """Errors of the values, shape (resamples, cards): questions drawn anew for all cards at once where they share them,
    by the linearised terms; else independent normal ones."""
    rng = np.random.default_rng(0)
    sums = _shared(cards, questions)
    if sums is None:
        independent: FloatArray = rng.standard_normal((RESAMPLES, len(cards))) * errors
        return independent
    columns = [_column(one, card, se) for one, card, se in zip(sums, cards, errors.tolist(), strict=True)]
    table = np.stack(columns, axis=1)
    blocks = [weights @ table for weights in resampling_weights(len(table), RESAMPLES, rng)]
    found: FloatArray = np.concatenate(blocks) / len(table)
    return found


def _column(sums: QuestionSums, card: ScoreCard, se: float) -> FloatArray:
    """A card's terms in the headline's unit; of another metric scaled to the headline's own standard error."""
    own = terms(sums.above, sums.below)
    if sums.metric == card.headline:
        return sums.scale * own
    spread = clustered_se(own)[0]
    return own * (se / spread) if spread else own
