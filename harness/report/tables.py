"""Leaderboard tables and cards as text, Markdown, CSV and rich tables. Pure: records in, text out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from rich.table import Table as RichTable
from rich.text import Text

from ..leaderboard import Row, Table
from ..records import Score, ScoreCard

SHOWN = {
    "mt_bench": ("turn_1", "turn_2"),
    "alpaca_eval": ("win_rate", "avg_length"),
    "arena_hard": ("avg_tokens",),
}
"""Secondary metrics that fit a narrow table; CSV and JSON hold all."""
CSV_HEAD = (
    *("suite", "suite_version", "protocol", "judge", "rank", "model", "run", "metric"),
    *("value", "ci_low", "ci_high", "se", "n", "unscored"),
    # "measured", or "reported: " and where; then what a measured run of a reported model differs by
    *("source", "compared_run", "difference", "difference_low", "difference_high"),
)
Cell = str | int | float


def number(score: Score | None, name: str) -> str:
    """`7.36`, whole for counts and average lengths, or a dash where there is no value."""
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.0f}" if name.startswith(("n_", "avg_")) else f"{score.value:.2f}"


def interval(score: Score, name: str) -> str:
    """`7.36 [7.10, 7.61]`; without an interval the value alone."""
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return number(score, name)
    return f"{score.value:.2f} [{score.ci_low:.2f}, {score.ci_high:.2f}]"


def columns(table: Table) -> list[str]:
    shown = [name for name in SHOWN.get(table.suite, ()) if any(name in row.others for row in table.rows)]
    return ["rank", "model", f"{table.headline} [95 %]", *shown, "n", "unscored", "truncated", "run"]


def cells(table: Table, row: Row) -> list[str]:
    """The row's texts under `columns(table)`."""
    shown = [name for name in SHOWN.get(table.suite, ()) if any(name in other.others for other in table.rows)]
    rank = "-" if row.rank is None else str(row.rank)
    values = [number(row.others.get(name), name) for name in shown]
    counts = [str(row.score.n), str(row.score.unscored), str(row.truncated)]
    return [rank, row.model, interval(row.score, table.headline), *values, *counts, row.run_id]


def rich_tables(tables: list[Table]) -> list[RichTable]:
    """For a terminal; untrusted text goes in as Text, never as markup."""
    found = []
    for table in tables:
        rich = RichTable(title=Text(table.title), title_justify="left")
        for name in columns(table):
            rich.add_column(Text(name), justify="left" if name in ("model", "run") else "right", overflow="fold")
        for row in table.rows:
            rich.add_row(*(Text(plain(cell)) for cell in cells(table, row)))
        found.append(rich)
    return found


def markdown(tables: list[Table]) -> str:
    """The leaderboard as GitHub Markdown, one section a protocol."""
    parts = ["# Leaderboard", "", "One table a protocol: numbers of different tables are not comparable.", ""]
    for table in tables:
        parts += [f"## {escape_markdown(table.title)}", ""]
        for name, value in table.differs.items():
            parts.append(f"- {escape_markdown(name)}: {escape_markdown(_short(value))}")
        if table.differs:
            parts.append("")
        parts.append("| " + " | ".join(columns(table)) + " |")
        aligned = ["---" if name in ("model", "run") else "---:" for name in columns(table)]
        parts.append("| " + " | ".join(aligned) + " |")
        parts += ["| " + " | ".join(escape_markdown(cell) for cell in cells(table, row)) + " |" for row in table.rows]
        notes = dict.fromkeys(note for row in table.rows for note in row.notes)
        parts += ["", *(f"- {escape_markdown(note)}" for note in notes), ""]
    return "\n".join(parts).rstrip() + "\n"


def csv_text(tables: list[Table], reported: Iterable[Sequence[Cell]] = ()) -> str:
    """One line a card and metric, full precision; no cell can be a spreadsheet formula. `reported` are lines of
    `report.reported.csv_lines`, put below the measured ones."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in tables:
        for row in table.rows:
            for name, score in {table.headline: row.score, **row.others}.items():
                fixed = [table.suite, table.suite_version, table.protocol_sha, table.judge]
                place = "" if row.rank is None else row.rank
                numbers = [score.value, score.ci_low, score.ci_high, score.se, score.n, score.unscored]
                named = [*map(harmless, fixed), place, harmless(row.model), harmless(row.run_id), name]
                filled: list[Cell] = ["" if value is None else value for value in numbers]
                writer.writerow([*named, *filled, "measured", "", "", "", ""])
    writer.writerows(reported)
    return out.getvalue()


def card_table(cards: list[ScoreCard]) -> RichTable:
    """All scores of some cards, for the end of a run."""
    rich = RichTable(title="Scores (95 % intervals)", title_justify="left")
    for name in ("suite", "model", "judge", "metric"):
        rich.add_column(name, overflow="fold")
    for name in ("value", "n", "unscored"):
        rich.add_column(name, justify="right")
    for card in cards:
        suite = f"{card.suite}@{card.suite_version}"
        for name, score in card.scores.items():
            texts = (suite, card.model, card.judge, name, interval(score, name), str(score.n), str(score.unscored))
            style = "bold" if name == card.headline else ""
            rich.add_row(*(Text(plain(text), style=style) for text in texts))
            suite = ""
    return rich


def plain(text: str) -> str:
    """The text without control characters (ANSI codes, bidirectional overrides), on one line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+", " ", text)


def escape_markdown(text: str) -> str:
    """Literal in a Markdown table: no HTML, links, emphasis or cell breaks."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain(text)).replace("&", "&amp;").replace("<", "&lt;")


def harmless(text: str) -> str:
    """A CSV cell that no spreadsheet runs: a leading = + - @ gets an apostrophe."""
    text = plain(text)
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
