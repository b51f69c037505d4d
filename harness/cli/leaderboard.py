"""`harness leaderboard`: the cards of a results folder as tables."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import ConfigError, IncompleteError
from ..leaderboard import ReportedTable, Table, rank, reported_beside
from ..records import ScoreCard
from ..report.reported import csv_lines, json_value, markdown_reported, rich_reported
from ..report.tables import csv_text, markdown, rich_tables
from ..reported import load_reported
from ..store import find_cards, read_card, write_atomic


def leaderboard(
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    output_format: Annotated[str, typer.Option("--format", help="table, md, csv or json.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write to FILE instead of printing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    reported: Annotated[
        bool, typer.Option(help="Show what papers and boards report for the suites on the board, apart, never ranked.")
    ] = True,
) -> None:
    """Rank the score cards: one table a protocol, incomplete cards apart, reported figures below.

    Example: harness leaderboard --format md --out results/LEADERBOARD.md
    """
    known = ("table", "md", "csv", "json")
    if output_format not in known:
        raise ConfigError(f"no format {output_format!r}; known: {', '.join(known)}")
    output_format = "json" if as_json else output_format
    paths = find_cards(results)
    if not paths:
        raise ConfigError(f"no score cards under {results / 'runs'}; `harness run --model DIR` makes them")
    cards, broken = readable(paths)
    beside = reported_beside(cards, load_reported()) if reported else []
    show(rank(cards), beside, output_format, out)
    if broken:
        raise IncompleteError(f"{len(broken)} of {len(paths)} cards could not be read and are left out: {broken[0]}")


def readable(paths: list[Path]) -> tuple[list[ScoreCard], list[str]]:
    """The cards, and a sentence for each file that is none."""
    cards, broken = [], []
    for path in paths:
        try:
            cards.append(read_card(path))
        except ConfigError as error:
            broken.append(str(error))
    return cards, broken


def show(tables: list[Table], beside: list[ReportedTable], output_format: str, out: Path | None) -> None:
    if output_format == "table" and out is None:
        console = Console(width=None if os.isatty(1) else 140)
        for table in [*rich_tables(tables), *rich_reported(beside)]:
            console.print(table)
        return
    if output_format == "csv":
        text = csv_text(tables, csv_lines(beside))
    elif output_format == "json":
        found = {"tables": [table.model_dump(mode="json") for table in tables], "reported": json_value(beside)}
        text = json.dumps(found, indent=2) + "\n"
    else:
        text = markdown(tables) + markdown_reported(beside)
    if out is None:
        print(text, end="")
    else:
        write_atomic(out, text)
        print(f"wrote {out}")
