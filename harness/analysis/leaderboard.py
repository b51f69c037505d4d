"""Rank score cards in tables, one per protocol. Nothing is written; `read_board.py` reads a results folder.

>>> told_apart([("ckpt", "3f2a"), ("base", "90bc"), ("ckpt", "77de")])
['ckpt (3f2a)', 'base', 'ckpt (77de)']

Two cards share a table only if suite, version and every protocol field are equal. An incomplete card is listed below
the ranked ones, never among them.

Rank ranges are paired by question if the rows exist: easy and hard questions then cancel. A headline that is fitted to
all questions at once is not a ratio over questions. There the raw preferences' terms give the correlation of two
models, and the cards' own standard errors the scale.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, JsonValue

from ..records import LARGEST, Record, Score, ScoreCard
from ..records.asking import is_empty
from ..records.errors import ConfigError, did_you_mean, first_names
from ..records.facts import facts_of, higher_is_better
from ..stats.intervals import FloatArray, resampling_weights
from ..stats.paired import ClusteredEstimate, clustered_se, correlation, rank_intervals, terms
from ..store import read_card
from ..store.checkpoint import Fusion
from ..suites.scoring import QuestionSums, common, is_complete, least_errors_of, sums_difference
from .differences import ALPHA

# -------------------------------------------------------------------------------------------- models that have one name
# One label may stand for different weights, or for several runs of one model.


def told_apart(names_and_ids: Sequence[tuple[str, str]]) -> list[str]:
    """Return the names, each with its id if it occurs more than once."""
    counts = Counter(name for name, _ in names_and_ids)
    return [f"{name} ({ident})" if counts[name] > 1 else name for name, ident in names_and_ids]


def weights_of(card: ScoreCard) -> str | None:
    """Return the digest of the weights that a card's model had, or None if it is unknown, as for an endpoint."""
    identity = card.provenance.get("model")
    weights = identity.get("weights") if isinstance(identity, dict) else None
    return weights if isinstance(weights, str) else None


def row_names(cards: Sequence[ScoreCard]) -> list[str]:
    """Return the models' names for a table. Cards of one name but another origin say which weights or host."""
    origins: defaultdict[str, set[str]] = defaultdict(set)
    for card in cards:
        origins[card.model].add(_origin(card))
    return [f"{card.model} ({_origin(card)})" if len(origins[card.model]) > 1 else card.model for card in cards]


def _origin(card: ScoreCard) -> str:
    weights, identity = weights_of(card), card.provenance.get("model")
    if weights is not None:
        return f"weights {weights[:8]}"
    host = identity.get("host") if isinstance(identity, dict) else None
    return f"at {host}" if isinstance(host, str) else "weights unknown"


# --------------------------------------------------------------------------------------------------------------- tables


RESAMPLES = 2000
"""Resamples of the rank intervals; the 95 % quantile of their largest difference then varies by about 1.5 %."""
MIN_SHARED = 0.9
"""Share of questions that two runs must have in common to be paired."""
HEADLINE = "headline"
"""Key in `Table.differs` if cards of one protocol rank by different metrics."""
NO_QUESTIONS: Mapping[str, QuestionSums] = {}
NO_FUSION: Mapping[str, Fusion] = {}


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
        """Return whether p, not corrected for the number of rows, and the interval both show a difference."""
        return self.p <= ALPHA and self.is_apart

    @property
    def is_apart(self) -> bool:
        """Return whether the interval leaves out 0."""
        return not self.ci_low <= 0 <= self.ci_high


PairDifference = Callable[[ScoreCard, ScoreCard], HeadlineDifference | None]
"""`(card, other)` -> card minus other."""


class RankRange(Record):
    low: int
    high: int


class BoardRow(Record):
    """One card in a table."""

    rank: int | None
    """1 is best; None: not ranked (incomplete, too many empty answers, or a headline of unknown direction)."""
    rank_range: RankRange | None = None
    """None: not ranked, or one of the cards has no standard error."""
    model: str
    run_id: str
    score: Score
    """The headline."""
    above: HeadlineDifference | None = None
    """Compared with the row above, or with `Table.baseline`; None for the first, the baseline and the unranked."""
    others: dict[str, Score]
    categories: dict[str, Score] = {}
    """`Table.category_metric` by category."""
    truncated: int
    empty: int = Field(default=0, exclude_if=is_empty)
    """Answers that show the reader nothing."""
    cut_in_reasoning: int = Field(default=0, exclude_if=is_empty)
    """Those of `empty` that the token limit cut before the reasoning ended."""
    answers: int
    length: float | None = None
    """Mean answer length, in `Table.length_unit`."""
    generated: float | None = Field(default=None, exclude_if=lambda tokens: tokens is None)
    """Tokens that the model generated per answer, reasoning included: what an answer costs to make."""
    cost: float | None = None
    """US dollars paid for judging."""
    tokens_per_second: float | None = None
    """Of answering."""
    date: str | None = None
    """Day the run ended, UTC, YYYY-MM-DD."""
    fusion: Fusion | None = None
    """How the model was made, if its makers stated it."""
    notes: tuple[str, ...] = ()


class Table(Record):
    """Comparable cards, best first, unranked ones last."""

    suite: str
    suite_version: str
    protocol_sha: str
    headline: str
    higher_is_better: bool | None = Field(default=True, exclude_if=bool)
    """Of the headline. False: less is better, so rows ascend. None: unknown, so no row is ranked."""
    judge: str
    jury_rule: str = Field(default="", exclude_if=is_empty)
    """How a jury's verdicts became one, unless by their mean."""
    differs: dict[str, JsonValue] = {}
    """Protocol fields that differ between this table and others of the same suite and version."""
    category_metric: str = ""
    """Metric of `BoardRow.categories`: the headline, or the first metric that a category has."""
    length_unit: Literal["characters", "tokens"] = "tokens"
    joint_ranks: bool = Field(default=False, exclude_if=is_empty)
    """Whether the rows' rank ranges hold all at once; otherwise each holds by itself."""
    baseline: str = Field(default="", exclude_if=is_empty)
    """The model that `BoardRow.above` compares with; empty: the row above."""
    rows: tuple[BoardRow, ...]

    @property
    def title(self) -> str:
        jointly = ", joint rank ranges" if self.joint_ranks else ""
        judge = f"{self.judge} ({self.jury_rule})" if self.jury_rule else self.judge
        return f"{self.suite} ({self.suite_version}), judge {judge}, protocol {self.protocol_sha}{jointly}"

    @property
    def column(self) -> str:
        """Return the headline's name with its direction, if more is not better."""
        return self.headline + {True: "", False: ", less is better", None: ", unranked"}[self.higher_is_better]

    @property
    def anchor(self) -> str:
        """Return an id that is unique among tables, for page fragments and file names."""
        metric = f"-{_safe(self.headline)}" if HEADLINE in self.differs else ""
        return f"{_safe(self.suite)}-{self.protocol_sha}{metric}"

    def without_ranges(self) -> Self:
        """Return the table without the range of each rank."""
        return self.model_copy(update={"rows": tuple(row.model_copy(update={"rank_range": None}) for row in self.rows)})


def _safe(text: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in text)


@dataclass(frozen=True)
class RankOptions:
    """How cards are ranked and compared."""

    rank_incomplete: bool = False
    """Also rank cards with more than MAX_EMPTY empty answers."""
    joint_ranks: bool = False
    """The rank ranges of a table hold all at once."""
    baseline: str = ""
    """The model that each row is compared with; empty: the row above."""
    compared: int | None = None
    """Only the first rows of a table have a difference; None: all."""
    difference: PairDifference | None = None
    """Compares a card with another; None: `against`, by the questions' terms."""


DEFAULT_RANKING = RankOptions()


def readable(paths: Iterable[Path]) -> tuple[list[tuple[Path, ScoreCard]], list[str]]:
    """Return the readable cards with their files, and one sentence per unreadable file."""
    readable_cards, broken = [], []
    for path in paths:
        try:
            readable_cards.append((path, read_card(path)))
        except ConfigError as error:
            broken.append(str(error))
    return readable_cards, broken


def rank(
    cards: Iterable[ScoreCard],
    questions: Mapping[str, QuestionSums] = NO_QUESTIONS,
    fusion: Mapping[str, Fusion] = NO_FUSION,
    options: RankOptions = DEFAULT_RANKING,
) -> list[Table]:
    """Return one table per protocol, ordered by suite, version and protocol digest.

    `questions`: run id -> the headline's terms per question, for paired comparisons. `fusion`: model -> how it was
    made; it overrides the card's own statement. Raise ConfigError if the baseline is not among the cards.
    """
    cards = list(cards)
    if options.baseline and options.baseline not in {card.model for card in cards}:
        models = {card.model for card in cards}
        near = did_you_mean(options.baseline, models)
        raise ConfigError(
            f"no score card of the baseline {options.baseline!r}{near}; models with cards: {first_names(models)}"
        )
    groups: dict[tuple[str, str, str], list[ScoreCard]] = {}
    for card in cards:
        groups.setdefault((card.suite, card.suite_version, card.protocol_sha), []).append(card)
    tables = []
    for key, group in sorted(groups.items()):
        # a page lists only what tells this table from the others of its suite
        siblings = [groups[other_key][0] for other_key in groups if other_key[:2] == key[:2] and other_key != key]
        protocol = group[0].protocol
        differs = {
            name: value
            for name, value in protocol.items()
            if any(sibling.protocol.get(name) != value for sibling in siblings)
        }
        columns = one_metric_each(group)
        mixed = len({card.headline for card in group}) > 1
        for column in columns:
            metric = column[0].headline
            # another metric's terms would pair the wrong numbers
            terms_of_metric = {key: sums for key, sums in questions.items() if not mixed or sums.metric == metric}
            differs |= {HEADLINE: metric} if len(columns) > 1 else {}
            table = _table(column, terms_of_metric, fusion, options)
            tables.append(table.model_copy(update={"differs": dict(differs)}))
    return tables


def one_metric_each(cards: Sequence[ScoreCard]) -> list[list[ScoreCard]]:
    """Return the cards in groups that rank by one metric, by name: the headline that most of the cards have.

    Cards whose own headline is another metric are read with that one; those without it form the next group.
    """
    groups, remaining = [], list(cards)
    while remaining:
        headlines = sorted({card.headline for card in remaining})
        metric = max(headlines, key=lambda name: sum(name in card.scores for card in remaining))  # of equals the first
        column = [card for card in remaining if metric in card.scores]
        groups.append([card if card.headline == metric else _ranked_by(card, metric) for card in column])
        remaining = [card for card in remaining if metric not in card.scores]
    return groups


def _ranked_by(card: ScoreCard, metric: str) -> ScoreCard:
    return card.model_copy(update={"headline": metric, "complete": is_complete(card.scores[metric])})


def _table(
    cards: list[ScoreCard],
    questions: Mapping[str, QuestionSums],
    fusion: Mapping[str, Fusion],
    options: RankOptions,
) -> Table:
    """Return the table of cards of one protocol and headline."""
    first, better = cards[0], _direction(cards)
    ordered = sorted(cards, key=_headline_order(less_is_better=better is False))
    ranked = [card for card in ordered if _is_ranked(card, better, options)]
    unranked = [card for card in ordered if not _is_ranked(card, better, options)]
    ranges = rank_ranges(ranked, questions, less_is_better=better is False, joint=options.joint_ranks)
    baseline = next((card for card in (*ranked, *unranked) if card.model == options.baseline), None)
    references: list[ScoreCard | None] = [baseline if options.baseline else above for above in [None, *ranked]]
    compared = len(ranked) if options.compared is None else options.compared
    references = [reference if at < compared else None for at, reference in enumerate(references[: len(ranked)])]
    # by default pairs are compared by the questions' terms; a board with stored runs states them as `compare` does
    difference = options.difference or (lambda card, other: against(card, other, questions))
    metric = _category_metric(first)
    rows = [
        _row(card, metric, fusion).model_copy(
            update={
                "rank": rank,
                "rank_range": rank_range,
                "above": None if reference is None or reference is card else difference(card, reference),
            }
        )
        for card, rank, rank_range, reference in zip(ranked, _ranks(ranked), ranges, references, strict=True)
    ]
    rows += [_row(card, metric, fusion) for card in unranked]
    names = row_names([*ranked, *unranked])
    length = facts_of(first.suite).length_of(first.scores)
    return Table(
        joint_ranks=options.joint_ranks,
        baseline=options.baseline if baseline is not None else "",
        suite=first.suite,
        suite_version=first.suite_version,
        protocol_sha=first.protocol_sha,
        headline=first.headline,
        higher_is_better=better,
        judge=first.judge,
        jury_rule=_jury_rule(first),
        category_metric=metric,
        length_unit="characters" if length is not None and length.unit == "characters" else "tokens",
        rows=tuple(row.model_copy(update={"model": name}) for row, name in zip(rows, names, strict=True)),
    )


def _is_ranked(card: ScoreCard, better: bool | None, options: RankOptions) -> bool:
    has_value = card.scores[card.headline].value is not None and better is not None
    return card.complete and has_value and (options.rank_incomplete or card.is_mostly_text)


def _headline_order(*, less_is_better: bool) -> Callable[[ScoreCard], tuple[float, str, str]]:
    """Return a sort key for the headline, best first. Cards without a value come last."""

    def key(card: ScoreCard) -> tuple[float, str, str]:
        value = card.scores[card.headline].value
        signed = math.inf if value is None else value if less_is_better else -value
        return signed, card.model, run_id(card)

    return key


def _ranks(ordered: Sequence[ScoreCard]) -> list[int]:
    """Return the rank of each card. Equal values share one, and the next rank skips theirs: 1, 2, 2, 4."""
    values = [card.scores[card.headline].value for card in ordered]
    return [values.index(value) + 1 for value in values]


def _row(card: ScoreCard, metric: str, fusion: Mapping[str, Fusion]) -> BoardRow:
    return BoardRow(
        rank=None,
        model=card.model,
        run_id=run_id(card),
        score=card.scores[card.headline],
        others={name: score for name, score in card.scores.items() if name != card.headline},
        categories={name: metrics[metric] for name, metrics in card.by_category.items() if metric in metrics},
        truncated=int(_number(card.counts.get("truncated")) or 0),
        empty=int(_number(card.counts.get("empty")) or 0),
        cut_in_reasoning=int(_number(card.counts.get("cut_in_reasoning")) or 0),
        answers=int(_number(card.counts.get("answers")) or 0),
        length=_length(card),
        generated=_generated(card),
        cost=_number(card.usage.get("judgment_cost")),
        tokens_per_second=_number(card.usage.get("tokens_per_second")),
        date=_date(card.usage.get("ended")),
        fusion=fusion.get(card.model) or Fusion.of(card.provenance.get("fusion")),
        notes=card.notes,
    )


def _jury_rule(card: ScoreCard) -> str:
    match card.protocol.get("judge"):
        case {"kind": "jury", "rule": str(rule)} if rule != "mean":
            return rule
    return ""


def _category_metric(card: ScoreCard) -> str:
    metrics = [name for metrics_of_category in card.by_category.values() for name in metrics_of_category]
    return card.headline if card.headline in metrics or not metrics else metrics[0]


def _length(card: ScoreCard) -> float | None:
    """Return the suite's own mean length of an answer, else tokens per answer as counted by the server.

    Reasoning is not counted.
    """
    length = facts_of(card.suite).length_of(card.scores)
    if length is not None:
        return card.scores[length.name].value
    tokens, answers = _number(card.usage.get("answer_completion_tokens")), _number(card.counts.get("answers"))
    reasoning = _number(card.usage.get("answer_reasoning_tokens", 0))
    return round((tokens - reasoning) / answers, 1) if tokens and answers and reasoning is not None else None


def _generated(card: ScoreCard) -> float | None:
    tokens, answers = _number(card.usage.get("answer_completion_tokens")), _number(card.counts.get("answers"))
    return round(tokens / answers, 1) if tokens and answers else None


def _number(value: JsonValue) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def _date(value: JsonValue) -> str | None:
    match = re.match(r"\d{4}-\d{2}-\d{2}", value) if isinstance(value, str) else None
    return match[0] if match else None


def _direction(cards: Sequence[ScoreCard]) -> bool | None:
    """Return whether more of the headline is better by the cards that state it, or None if they disagree."""
    stated = {higher_is_better(card, card.headline) for card in cards} - {None}
    return stated.pop() if len(stated) == 1 else None


def run_id(card: ScoreCard) -> str:
    return str(card.provenance.get("run_id", ""))


def against(card: ScoreCard, above: ScoreCard, questions: Mapping[str, QuestionSums]) -> HeadlineDifference | None:
    """Return `card` minus `above` on the headline, or None if a value or standard error is missing, or nothing varies.

    `questions`: run id -> terms of the headline, or of the raw rate behind it.
    """
    card_score, above_score = card.scores[card.headline], above.scores[above.headline]
    if card_score.value is None or above_score.value is None:
        return None
    difference, sums = card_score.value - above_score.value, _shared([card, above], questions)
    # a sum over questions is compared directly; a fitted headline only borrows the correlation of the raw rate
    if sums is not None and sums[0].metric == card.headline:
        estimate = sums_difference(sums[0], sums[1])
        return None if estimate is None or not estimate.varies else _centred(estimate, difference, paired=True)
    if card_score.se is None or above_score.se is None:
        return None
    together = correlation(terms(sums[0].above, sums[0].below), terms(sums[1].above, sums[1].below)) if sums else None
    variance = card_score.se**2 + above_score.se**2 - 2 * (together or 0.0) * card_score.se * above_score.se
    count = len(sums[0].ids) if sums else 0
    return _centred(
        ClusteredEstimate(difference, math.sqrt(max(variance, 0.0)), count - 1, count), difference, paired=bool(sums)
    )


def _centred(estimate: ClusteredEstimate, difference: float, *, paired: bool) -> HeadlineDifference:
    """Return the cards' own difference with the error of the shared questions, whose own value may be another."""
    centred = ClusteredEstimate(difference, estimate.se, estimate.df, estimate.n)
    low, high = centred.interval()
    return HeadlineDifference(difference=difference, ci_low=low, ci_high=high, p=centred.p_two_sided(), paired=paired)


def rank_ranges(
    cards: Sequence[ScoreCard],
    questions: Mapping[str, QuestionSums],
    *,
    less_is_better: bool = False,
    joint: bool = False,
) -> list[RankRange | None]:
    """Return the ranks each card may have at 95 %, for each card by itself or for all at once (`joint`).

    All None if a value is missing, or a standard error of cards that do not share their questions.
    """
    scores = [card.scores[card.headline] for card in cards]
    values = np.array([score.value for score in scores if score.value is not None])
    shared = _shared(cards, questions) if cards else None
    paired = shared is not None and all(sums.metric == card.headline for sums, card in zip(shared, cards, strict=True))
    errors = np.array([score.se or 0.0 for score in scores if score.se is not None or paired])
    if len(values) < len(cards) or len(errors) < len(cards) or not cards:
        return [None] * len(cards)
    drawn = values + _draws(cards, shared, errors)
    sign = -1.0 if less_is_better else 1.0
    df, least = (0, None) if shared is None else (len(shared[0].ids) - 1, least_errors_of(shared))
    intervals = rank_intervals(sign * values, sign * drawn, joint=joint, df=df, least=least)
    return [RankRange(low=ranks.best, high=ranks.worst) for ranks in intervals]


def _draws(cards: Sequence[ScoreCard], sums: Sequence[QuestionSums] | None, errors: FloatArray) -> FloatArray:
    """Return errors of the values, shape (resamples, cards).

    If the cards share questions (`sums`), these are resampled for all cards at once by the linearised terms; else the
    errors are independent and normal."""
    rng = np.random.default_rng(0)  # fixed, so that a leaderboard is the same each time it is printed
    if sums is None:
        independent: FloatArray = rng.standard_normal((RESAMPLES, len(cards))) * errors
        return independent
    columns = [_column(card_sums, card, se) for card_sums, card, se in zip(sums, cards, errors.tolist(), strict=True)]
    table = np.stack(columns, axis=1)
    blocks = [weights @ table for weights in resampling_weights(len(table), RESAMPLES, rng)]
    draws: FloatArray = np.concatenate(blocks) / len(table)
    return draws


def _column(sums: QuestionSums, card: ScoreCard, se: float) -> FloatArray:
    """Return a card's terms in the headline's unit. Another metric's terms are scaled to the headline's error."""
    card_terms = terms(sums.above, sums.below)
    if sums.metric == card.headline:
        return sums.scale * card_terms
    spread = clustered_se(card_terms)[0]
    return card_terms * (se / spread) if spread else card_terms


def _shared(cards: Sequence[ScoreCard], questions: Mapping[str, QuestionSums]) -> list[QuestionSums] | None:
    """Return the cards' terms over their shared questions, or None if a card has no terms or they share too few."""
    sums = [questions.get(str(card.provenance.get("run_id", ""))) for card in cards]
    complete = [card_sums for card_sums in sums if card_sums is not None]
    if len(complete) < len(cards):
        return None
    shared_sums = common(complete)
    # a handful of shared questions would decide the ranks of all cards
    few = len(shared_sums[0].ids) < max(2, MIN_SHARED * max(len(card_sums.ids) for card_sums in complete))
    return None if few else shared_sums
