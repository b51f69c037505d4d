"""Score cards -> ranked tables, one a protocol. Pure: cards in, tables out.

Two cards stand in one table only when suite, version and every protocol field are equal; an incomplete card is listed
below the ranked ones, never among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from .records import Record, Score, ScoreCard


class Row(Record):
    """One card in a table."""

    rank: int | None
    """1 is best; None: not ranked (incomplete)."""
    model: str
    run_id: str
    score: Score
    """The headline."""
    others: dict[str, Score]
    truncated: int
    answers: int
    notes: tuple[str, ...] = ()


class Table(Record):
    """Cards that can be compared, best first, the unranked last."""

    suite: str
    suite_version: str
    protocol_sha: str
    headline: str
    judge: str
    differs: dict[str, JsonValue] = {}
    """Protocol fields in which this table is unlike the others of the same suite and version."""
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        return f"{self.suite} ({self.suite_version}), judge {self.judge}, protocol {self.protocol_sha}"


def rank(cards: Iterable[ScoreCard]) -> list[Table]:
    """One table a protocol, ordered by suite, version and protocol digest."""
    groups: dict[tuple[str, str, str], list[ScoreCard]] = {}
    for card in cards:
        groups.setdefault((card.suite, card.suite_version, card.protocol_sha), []).append(card)
    return [_table(key, group, groups) for key, group in sorted(groups.items())]


def _table(
    key: tuple[str, str, str], cards: list[ScoreCard], groups: Mapping[tuple[str, str, str], list[ScoreCard]]
) -> Table:
    first = cards[0]
    ordered = sorted(cards, key=lambda card: (not card.complete, -_value(card), card.model, _run_id(card)))
    rows: list[Row] = []
    for place, card in enumerate(ordered, start=1):
        tied = bool(rows) and rows[-1].rank is not None and _value(card) == rows[-1].score.value
        rows.append(_row(card, (rows[-1].rank if tied else place) if card.complete else None))
    siblings = [group[0].protocol for other, group in groups.items() if other[:2] == key[:2] and other != key]
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
        rows=tuple(rows),
    )


def _row(card: ScoreCard, place: int | None) -> Row:
    answers, truncated = card.counts.get("answers"), card.counts.get("truncated")
    return Row(
        rank=place,
        model=card.model,
        run_id=_run_id(card),
        score=card.scores[card.headline],
        others={name: score for name, score in card.scores.items() if name != card.headline},
        truncated=truncated if isinstance(truncated, int) else 0,
        answers=answers if isinstance(answers, int) else 0,
        notes=card.notes,
    )


def _value(card: ScoreCard) -> float:
    value = card.scores[card.headline].value
    return float("-inf") if value is None else value


def _run_id(card: ScoreCard) -> str:
    return str(card.provenance.get("run_id", ""))
