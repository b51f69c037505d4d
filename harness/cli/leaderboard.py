"""`harness leaderboard`: the cards of a results folder as tables, a page, or figures."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..analysis.leaderboard import Board, read_board
from ..analysis.trackers import log_scores, tracker_names
from ..pages.reported import csv_lines, markdown_reported, rich_reported
from ..pages.tables import csv_text, markdown, rich_tables
from ..records.errors import ConfigError, IncompleteError, StaleError
from ..store import make_folder, write_atomic, write_bytes

FORMATS = ("table", "md", "csv", "json", "html")


def leaderboard(
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    output_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "table",
    out: Annotated[Path | None, typer.Option(help="Write to FILE instead of printing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    reported: Annotated[
        bool, typer.Option(help="Show what papers and boards report for the suites on the board, apart, never ranked.")
    ] = True,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Compare by the cards alone: no answers or judgments are read.")
    ] = False,
    plots: Annotated[
        Path | None, typer.Option(help="Write the figures to this folder instead, as SVG and PNG fit for a paper.")
    ] = None,
    log_to: Annotated[
        str | None, typer.Option(help="Also hand the scores to trackers: wandb, mlflow, trackio (comma list).")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(help="Write nothing; exit 4 when this Markdown file is not what would be written.")
    ] = None,
) -> None:
    """Rank the score cards: one table a protocol, incomplete cards apart, reported figures below.

    Examples: harness leaderboard --format md --out results/LEADERBOARD.md;
    harness leaderboard --format html --out board.html
    """
    if output_format not in FORMATS:
        raise ConfigError(f"no format {output_format!r}; known: {', '.join(FORMATS)}")
    trackers = tracker_names(log_to)
    board = read_board(results, reported=reported, paired=not unpaired)
    if check is not None:
        flags = {
            "--unpaired ": unpaired,
            "--no-reported ": not reported,
            f"--results {results} ": str(results) != "results",
        }
        compare_with(check, render(board, "md"), "".join(flag for flag, given in flags.items() if given))
    elif plots is not None:
        write_figures(plots, board)
    else:
        show(board, "json" if as_json else output_format, out)
    if trackers:
        written = log_scores(trackers, board.cards)
        print(f"logged {written} runs to {', '.join(trackers)}", file=sys.stderr)
    if board.broken:
        total = len(board.broken) + len(board.cards)
        raise IncompleteError(
            f"{len(board.broken)} of {total} cards could not be read and are left out: {board.broken[0]}"
        )


def compare_with(file: Path, wanted: str, flags: str) -> None:
    """Raises ConfigError for a file that cannot be read, StaleError for one that says something else."""
    try:
        there = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None
    if there != wanted:
        raise StaleError(f"{file} is stale: harness leaderboard {flags}--format md --out {file} makes it anew")
    print(f"{file} is what would be written")


def write_figures(folder: Path, board: Board) -> None:
    from ..pages.board import figures, png

    found = list(figures(board.tables))
    files = [(figure.name, figure.drawing.standalone(), png(figure.drawing)) for figure in found]
    make_folder(folder)
    for name, drawn, pixels in files:
        write_atomic(folder / f"{name}.svg", drawn + "\n")
        write_bytes(folder / f"{name}.png", pixels)
    print(f"wrote {len(files)} figures to {folder}, each as .svg and .png")


def show(board: Board, output_format: str, out: Path | None) -> None:
    if output_format == "table" and out is None:
        console = Console(width=None if os.isatty(1) else 160)
        for table in [*rich_tables(list(board.tables)), *rich_reported(board.reported)]:
            console.print(table)
        return
    text = render(board, output_format)
    if out is None:
        print(text, end="")
    else:
        write_atomic(out, text)
        print(f"wrote {out}")


def render(board: Board, output_format: str) -> str:
    tables = list(board.tables)
    if output_format == "csv":
        return csv_text(tables, csv_lines(board.reported))
    if output_format == "json":
        found = {
            "tables": [table.model_dump(mode="json") for table in tables],
            "reported": [table.model_dump(mode="json") for table in board.reported],
        }
        return json.dumps(found, indent=2) + "\n"
    if output_format == "html":
        from ..pages.board import page

        return page(tables, board.reported)
    return markdown(tables) + markdown_reported(board.reported)
