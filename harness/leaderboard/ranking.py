"""Rank score cards in tables, one per protocol. Pure: cards in, tables out.

Two cards share a table only if suite, version and every protocol field are equal. An incomplete card is listed below
the ranked ones, never among them. Figures that others reported are kept apart (`reported_tables`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import JsonValue

from ..questions import QuestionSums
from ..records import LARGEST, Record, Score, ScoreCard
from ..store.fusion import Fusion
from .standing import HeadlineDifference, RankRange, against, rank_ranges

NO_QUESTIONS: Mapping[str, QuestionSums] = {}
NO_FUSION: Mapping[str, Fusion] = {}


class BoardRow(Record):
    """One card in a table."""

    rank: int | None
    """1 is best; None: not ranked (incomplete)."""
    rank_range: RankRange | None = None
    """None: not ranked, or one of the cards has no standard error."""
    model: str
    run_id: str
    score: Score
    """The headline."""
    above: HeadlineDifference | None = None
    """Compared with the row above; None for the first and the unranked."""
    others: dict[str, Score]
    categories: dict[str, Score] = {}
    """`Table.category_metric` by category."""
    truncated: int
    answers: int
    length: float | None = None
    """Mean answer length, in `Table.length_unit`."""
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
    judge: str
    differs: dict[str, JsonValue] = {}
    """Protocol fields that differ between this table and others of the same suite and version."""
    category_metric: str = ""
    """Metric of `BoardRow.categories`: the headline, or the first metric that a category has."""
    length_unit: Literal["characters", "tokens"] = "tokens"
    rows: tuple[BoardRow, ...]

    @property
    def title(self) -> str:
        return f"{self.suite} ({self.suite_version}), judge {self.judge}, protocol {self.protocol_sha}"

    @property
    def anchor(self) -> str:
        """Return an id that is unique among tables, for page fragments and file names."""
        safe = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in self.suite)
        return f"{safe}-{self.protocol_sha}"


def rank(
    cards: Iterable[ScoreCard],
    questions: Mapping[str, QuestionSums] = NO_QUESTIONS,
    fusion: Mapping[str, Fusion] = NO_FUSION,
) -> list[Table]:
    """Return one table per protocol, ordered by suite, version and protocol digest.

    `questions`: run id -> the headline's terms per question, for paired comparisons. `fusion`: model -> how it was
    made;
    it overrides the card's own statement.
    """
    groups: dict[tuple[str, str, str], list[ScoreCard]] = {}
    for card in cards:
        groups.setdefault((card.suite, card.suite_version, card.protocol_sha), []).append(card)
    return [_table(key, group, groups, questions, fusion) for key, group in sorted(groups.items())]


def _table(
    key: tuple[str, str, str],
    cards: list[ScoreCard],
    groups: Mapping[tuple[str, str, str], list[ScoreCard]],
    questions: Mapping[str, QuestionSums],
    fusion: Mapping[str, Fusion],
) -> Table:
    first = cards[0]
    ordered = sorted(cards, key=lambda card: (not card.complete, -_value(card), card.model, run_id(card)))
    ranked = [card for card in ordered if card.complete]
    ranges = rank_ranges(ranked, questions)
    metric = _category_metric(first)
    rows: list[BoardRow] = []
    for position, card in enumerate(ordered):
        row = _row(card, metric, fusion)
        if card.complete:
            tied = bool(rows) and _value(card) == rows[-1].score.value
            above = against(card, ordered[position - 1], questions) if position else None
            changed = {"rank": rows[-1].rank if tied else position + 1, "rank_range": ranges[position], "above": above}
            row = row.model_copy(update=changed)
        rows.append(row)
    siblings = [
        group[0].protocol for sibling_key, group in groups.items() if sibling_key[:2] == key[:2] and sibling_key != key
    ]
    differs = {
        name: value for name, value in first.protocol.items() if any(sibling.get(name) != value for sibling in siblings)
    }
    return Table(
        suite=first.suite,
        suite_version=first.suite_version,
        protocol_sha=key[2],
        headline=first.headline,
        judge=first.judge,
        differs=differs,
        category_metric=metric,
        length_unit="characters" if "avg_length" in first.scores else "tokens",
        rows=tuple(rows),
    )


def _row(card: ScoreCard, metric: str, fusion: Mapping[str, Fusion]) -> BoardRow:
    return BoardRow(
        rank=None,
        model=card.model,
        run_id=run_id(card),
        score=card.scores[card.headline],
        others={name: score for name, score in card.scores.items() if name != card.headline},
        categories={name: metrics[metric] for name, metrics in card.by_category.items() if metric in metrics},
        truncated=int(_number(card.counts.get("truncated")) or 0),
        answers=int(_number(card.counts.get("answers")) or 0),
        length=_length(card),
        cost=_number(card.usage.get("judgment_cost")),
        tokens_per_second=_number(card.usage.get("tokens_per_second")),
        date=_date(card.usage.get("ended")),
        fusion=fusion.get(card.model) or Fusion.of(card.provenance.get("fusion")),
        notes=card.notes,
    )


def _category_metric(card: ScoreCard) -> str:
    metrics = [name for metrics_of_category in card.by_category.values() for name in metrics_of_category]
    return card.headline if card.headline in metrics or not metrics else metrics[0]


def _length(card: ScoreCard) -> float | None:
    """Return AlpacaEval's characters or Arena-Hard's tokens, else tokens per answer as counted by the server."""
    for name in ("avg_length", "avg_tokens"):
        if name in card.scores:
            return card.scores[name].value
    tokens, answers = _number(card.usage.get("answer_completion_tokens")), _number(card.counts.get("answers"))
    return round(tokens / answers, 1) if tokens and answers else None


def _number(value: JsonValue) -> float | None:
    """Return None for anything but a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else None


def _date(value: JsonValue) -> str | None:
    match = re.match(r"\d{4}-\d{2}-\d{2}", value) if isinstance(value, str) else None
    return match[0] if match else None


def _value(card: ScoreCard) -> float:
    value = card.scores[card.headline].value
    return float("-inf") if value is None else value


def run_id(card: ScoreCard) -> str:
    return str(card.provenance.get("run_id", ""))
