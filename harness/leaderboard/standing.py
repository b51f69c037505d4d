"""Compare a card with others of its protocol: differences between cards, and the ranks each could have. Pure.

Comparisons are paired if the question-level terms of both cards are known: easy and hard questions then cancel.
AlpacaEval's length-controlled rate is not a ratio over questions. There the raw preferences' terms give the correlation
of two models, and the cards' own standard errors the scale.
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
"""Resamples of the rank intervals; the 95 % quantile of their largest difference then varies by about 1.5 %."""
MIN_SHARED = 0.9
"""Share of questions that two runs must have in common to be paired."""


class HeadlineDifference(Record):
    """One card's headline minus another's."""

    difference: float
    ci_low: float
    ci_high: float
    """95 %."""
    p: float
    """Two-sided, for the hypothesis of no difference."""
    paired: bool
    """Question by question; False: from the two standard errors alone, as if independent, which is wider."""

    @property
    def significant(self) -> bool:
        return self.p < 0.05


class RankRange(Record):
    low: int
    high: int


def against(card: ScoreCard, above: ScoreCard, questions: Mapping[str, QuestionSums]) -> HeadlineDifference | None:
    """Return `card` minus `above` on the headline; None if a value or standard error is missing.

    `questions`: run id -> terms of the headline, or of the raw rate behind it.
    """
    card_score, above_score = card.scores[card.headline], above.scores[above.headline]
    if card_score.value is None or above_score.value is None:
        return None
    difference, sums = card_score.value - above_score.value, _shared([card, above], questions)
    if sums is not None and sums[0].metric == card.headline:
        estimate = paired_difference(
            (sums[0].above, sums[0].below), (sums[1].above, sums[1].below), scale=sums[0].scale
        )
        return None if estimate is None else _centred(estimate, difference, paired=True)
    if card_score.se is None or above_score.se is None:
        return None
    together = correlation(terms(sums[0].above, sums[0].below), terms(sums[1].above, sums[1].below)) if sums else None
    variance = card_score.se**2 + above_score.se**2 - 2 * (together or 0.0) * card_score.se * above_score.se
    count = len(sums[0].ids) if sums else 0
    return _centred(
        ClusteredEstimate(difference, math.sqrt(max(variance, 0.0)), count - 1, count), difference, paired=bool(sums)
    )


def _centred(estimate: ClusteredEstimate, difference: float, *, paired: bool) -> HeadlineDifference:
    """Return the cards' own difference with its error: questions of only one card shift the value of the shared
    ones."""
    centred = ClusteredEstimate(difference, estimate.se, estimate.df, estimate.n)
    low, high = centred.interval()
    return HeadlineDifference(difference=difference, ci_low=low, ci_high=high, p=centred.p_two_sided(), paired=paired)


def _shared(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums]) -> list[QuestionSums] | None:
    """Return the cards' terms over their shared questions; None if a card has no terms or they share too few."""
    sums = [questions.get(str(card.provenance.get("run_id", ""))) for card in cards]
    known = [card_sums for card_sums in sums if card_sums is not None]
    if len(known) < len(cards):
        return None
    shared_sums = common(known)
    few = len(shared_sums[0].ids) < max(2, MIN_SHARED * max(len(card_sums.ids) for card_sums in known))
    return None if few else shared_sums


def rank_ranges(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums]) -> list[RankRange | None]:
    """Return the ranks each card may have at 95 % (`stats.ranks`); all None if a value or standard error is missing."""
    scores = [card.scores[card.headline] for card in cards]
    values = np.array([score.value for score in scores if score.value is not None])
    errors = np.array([score.se for score in scores if score.se is not None])
    if len(values) < len(cards) or len(errors) < len(cards) or not cards:
        return [None] * len(cards)
    drawn = values + _draws(cards, questions, errors)
    return [RankRange(low=ranks.best, high=ranks.worst) for ranks in rank_intervals(values, drawn)]


def _draws(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums], errors: FloatArray) -> FloatArray:
    """Return errors of the values, shape (resamples, cards).

    If the cards share questions, these are resampled for all cards at once by the linearised terms; else the errors are
    independent and normal."""
    rng = np.random.default_rng(0)
    sums = _shared(cards, questions)
    if sums is None:
        independent: FloatArray = rng.standard_normal((RESAMPLES, len(cards))) * errors
        return independent
    columns = [_column(card_sums, card, se) for card_sums, card, se in zip(sums, cards, errors.tolist(), strict=True)]
    table = np.stack(columns, axis=1)
    blocks = [weights @ table for weights in resampling_weights(len(table), RESAMPLES, rng)]
    draws: FloatArray = np.concatenate(blocks) / len(table)
    return draws


def _column(sums: QuestionSums, card: ScoreCard, se: float) -> FloatArray:
    """Return a card's terms in the headline's unit; terms of another metric are scaled to the headline's standard
    error."""
    card_terms = terms(sums.above, sums.below)
    if sums.metric == card.headline:
        return sums.scale * card_terms
    spread = clustered_se(card_terms)[0]
    return card_terms * (se / spread) if spread else card_terms
