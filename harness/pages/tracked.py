"""Give experiment trackers more than numbers: a table of scores, the differences from a baseline, the cards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..analysis.leaderboard import Table, run_id
from ..analysis.read_board import PairedRuns
from ..analysis.trackers import TrackedFiles
from ..records import ScoreCard
from ..records.errors import ConfigError
from ..records.facts import facts_of
from ..store import dump_json, find_cards, read_card
from . import charts
from .text import interval

HEAD = ("suite", "metric", "score [95 %]", "n", "unscored", "judge")


def tracked_files(tables: Sequence[Table], results: Path) -> Callable[[Sequence[ScoreCard]], TrackedFiles]:
    """Return a function from one model's cards to its table, figures and files.

    A figure shows, per table of the board that has one of the cards, every model's difference from the table's
    baseline, or from its best model.
    """
    by_id = dict(_runs(results))
    pairs = PairedRuns({name: folder for name, (_, folder) in by_id.items()})
    drawn: dict[str, str | None] = {}

    def figure(table: Table) -> str | None:
        if table.anchor not in drawn:
            listed = [row for row in table.rows if row.run_id in by_id]
            first = next((row for row in listed if row.model == table.baseline), next(iter(listed), None))
            bars = []
            for row in listed:
                if first is None or row.run_id == first.run_id:
                    continue
                step = pairs.difference(by_id[row.run_id][0], by_id[first.run_id][0])
                if step is not None:
                    bars.append(charts.ChartPoint(row.model, step.difference, 0.0, step.ci_low, step.ci_high))
            drawing = charts.differences(bars, table.headline, first.model) if first else None
            drawn[table.anchor] = drawing.standalone() if drawing else None
        return drawn[table.anchor]

    def files(cards: Sequence[ScoreCard]) -> TrackedFiles:
        ids = {run_id(card) for card in cards}
        own_tables = [table for table in tables if any(row.run_id in ids for row in table.rows)]
        figures = {_file_name(f"{table.suite}-difference"): svg for table in own_tables if (svg := figure(table))}
        rows = [row for card in cards for row in _rows(card)]
        names = [_file_name(f"card-{card.suite}.json") for card in cards]
        texts = [dump_json(card.model_dump(mode="json")) for card in cards]
        return TrackedFiles(HEAD, rows, figures, dict(zip(names, texts, strict=True)))

    return files


def _runs(results: Path) -> Iterator[tuple[str, tuple[ScoreCard, Path]]]:
    for path in find_cards(results):
        with suppress(ConfigError):  # the board names a card that cannot be read
            card = read_card(path)
            yield run_id(card), (card, path.parent)


def _rows(card: ScoreCard) -> Iterator[tuple[str, ...]]:
    for name, score in card.scores.items():
        text = interval(score, facts_of(card.suite).metric(name).decimals)
        yield card.suite, name, text, str(score.n), str(score.unscored), card.judge


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)
