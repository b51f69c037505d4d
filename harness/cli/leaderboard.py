"""`harness leaderboard`: the cards of a results folder as tables, a page, or figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..analysis.leaderboard import Board, read_board
from ..analysis.trackers import log_scores, tracker_names
from ..pages.reported import csv_lines, markdown_reported, rich_reported
from ..pages.tables import csv_text, markdown, rich_tables
from ..records.errors import ConfigError, IncompleteError, StaleError
from ..store import make_folder, write_atomic, write_bytes
from .console import stdout_console
from .options import ResultsFlags, command

FORMATS = ("table", "md", "csv", "json", "html")


class LeaderboardFlags(ResultsFlags):
    output_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "table"
    out: Annotated[Path | None, typer.Option(help="Write to FILE instead of printing.")] = None
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False
    reported: Annotated[
        bool, typer.Option(help="Show figures of papers and boards for these suites, separately and never ranked.")
    ] = True
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Compare by the cards alone; read no rows.")] = False
    rank_incomplete: Annotated[
        bool, typer.Option("--rank-incomplete", help="Also rank cards with more than 10 % empty answers.")
    ] = False
    joint_ranks: Annotated[
        bool, typer.Option("--joint-ranks", help="Rank ranges that hold for all rows at once, not for each by itself.")
    ] = False
    plots: Annotated[Path | None, typer.Option(help="Write figures here instead: SVG and PNG fit for a paper.")] = None
    log_to: Annotated[str | None, typer.Option(help="Also log scores to wandb, mlflow, trackio (comma list).")] = None
    check: Annotated[Path | None, typer.Option(help="Write nothing; exit 4 if this Markdown is out of date.")] = None

    def repeated(self) -> str:
        """Return the flags that decide the board's content, as words of a command."""
        words = {
            "--unpaired ": self.unpaired,
            "--rank-incomplete ": self.rank_incomplete,
            "--joint-ranks ": self.joint_ranks,
            "--no-reported ": not self.reported,
            f"--results {self.results} ": str(self.results) != "results",
        }
        return "".join(word for word, is_set in words.items() if is_set)


@command
def leaderboard(flags: LeaderboardFlags) -> None:
    """Rank the score cards: one table per protocol, incomplete cards separate, reported figures below.

    Examples: harness leaderboard --format md --out results/LEADERBOARD.md;
    harness leaderboard --format html --out board.html
    """
    if flags.output_format not in FORMATS:
        raise ConfigError(f"no format {flags.output_format!r}; known: {', '.join(FORMATS)}")
    trackers = tracker_names(flags.log_to)
    board = read_board(
        flags.results,
        reported=flags.reported,
        paired=not flags.unpaired,
        rank_incomplete=flags.rank_incomplete,
        joint_ranks=flags.joint_ranks,
    )
    if flags.check is not None:
        check_file(flags.check, render(board, "md"), flags.repeated())
    elif flags.plots is not None:
        write_figures(flags.plots, board)
    else:
        show(board, "json" if flags.as_json else flags.output_format, flags.out)
    if trackers:
        written = log_scores(trackers, board.cards)
        print(f"logged {written} runs to {', '.join(trackers)}", file=sys.stderr)
    if board.broken:
        total = len(board.broken) + len(board.cards)
        raise IncompleteError(
            f"{len(board.broken)} of {total} cards could not be read and are left out: {board.broken[0]}"
        )


def check_file(file: Path, expected: str, flags: str) -> None:
    """Raise ConfigError if the file cannot be read, StaleError if its text differs from `expected`."""
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from None
    if text != expected:
        raise StaleError(f"{file} is stale: harness leaderboard {flags}--format md --out {file} updates it")
    print(f"{file} is up to date")


def write_figures(folder: Path, board: Board) -> None:
    from ..pages.board import figures, png

    files = [(figure.name, figure.drawing.standalone(), png(figure.drawing)) for figure in list(figures(board.tables))]
    make_folder(folder)
    for name, svg, pixels in files:
        write_atomic(folder / f"{name}.svg", svg + "\n")
        write_bytes(folder / f"{name}.png", pixels)
    print(f"wrote {len(files)} figures to {folder}, each as .svg and .png")


def show(board: Board, output_format: str, out: Path | None) -> None:
    if output_format == "table" and out is None:
        console = stdout_console()
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
        content = {
            "tables": [table.model_dump(mode="json") for table in tables],
            "reported": [table.model_dump(mode="json") for table in board.reported],
        }
        return json.dumps(content, indent=2) + "\n"
    if output_format == "html":
        from ..pages.board import page

        return page(tables, board.reported)
    return markdown(tables) + markdown_reported(board.reported)
