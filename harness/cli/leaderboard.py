"""`harness leaderboard`: rank the cards of a results folder in tables, on a page, or in figures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer
from rich.text import Text

from ..analysis.leaderboard import BoardRow, Table
from ..analysis.read_board import Board, BoardOptions, read_board
from ..analysis.reported import ReportedTable
from ..analysis.trackers import log_scores, tracker_names
from ..pages.board import PageFacts
from ..pages.summary import Summary, summary, summary_lines, summary_markdown, summary_records, summary_table
from ..pages.tables import (
    count_line,
    csv_lines,
    csv_text,
    difference_line,
    markdown,
    markdown_reported,
    of_measured,
    rich_reported,
    rich_tables,
)
from ..pages.text import escape_markdown, hidden_line, plain
from ..records.errors import ConfigError, IncompleteError, StaleError, did_you_mean
from ..records.facts import facts_of
from ..store import make_folder, write_atomic, write_bytes
from .console import stdout_console, write_or_print
from .options import ResultsFlags, comma_list, command

FORMATS = ("table", "md", "csv", "json", "html")

content = partial(typer.Option, rich_help_panel="What is on the board")
look = partial(typer.Option, rich_help_panel="How it is shown")


class LeaderboardFlags(ResultsFlags):
    suite: Annotated[str | None, content(help="Only these suites (comma list).")] = None
    matching: Annotated[
        str | None, content("--filter", help="Only models with this text in their name; also as a pattern: 'llama*'.")
    ] = None
    baseline: Annotated[str | None, content(help="Compare each row with this model, not with the row above.")] = None
    reported: Annotated[
        bool | None,
        content(
            help="Show figures of papers and boards for these suites, separately and never ranked; default: those of "
            "models measured here, on the HTML page all."
        ),
    ] = None
    unpaired: Annotated[bool, content("--unpaired", help="Compare by the cards alone; read no rows.")] = False
    rank_incomplete: Annotated[
        bool, content("--rank-incomplete", help="Also rank cards with more than 10 % empty answers.")
    ] = False
    joint_ranks: Annotated[
        bool, content("--joint-ranks", help="Rank ranges that hold for all rows at once, not for each by itself.")
    ] = False
    summary: Annotated[bool, look("--summary", help="One table over all suites, a row per model.")] = False
    top: Annotated[int | None, look(min=1, help="Only the first N rows of each table.")] = None
    sort: Annotated[
        str | None, look(help="Order rows by model, n, length, cost, date or a metric, best or largest first.")
    ] = None
    columns: Annotated[
        str | None, look(help="Show these columns of the terminal's table (comma list) besides rank, model and score.")
    ] = None
    title: Annotated[str | None, look(help="A heading above the tables.")] = None
    wide: Annotated[bool, look("--wide", help="Show all columns, however wide the terminal is.")] = False
    output_format: Annotated[str, look("--format", help=f"{', '.join(FORMATS)}.")] = "table"
    out: Annotated[Path | None, look(help="Write to FILE instead of printing.")] = None
    as_json: Annotated[bool, look("--json", help="Same as --format json.")] = False
    figures: Annotated[
        Path | None, look("--figures", "--plots", help="Write figures here instead: SVG and PNG fit for a paper.")
    ] = None
    viewer: Annotated[
        str, look(help="URL of a `harness view`, or of its exported pages, to which the HTML page links.")
    ] = ""
    log_to: Annotated[str | None, look(help="Also log scores to wandb, mlflow, trackio (comma list).")] = None
    check: Annotated[Path | None, look(help="Write nothing; exit 4 if this Markdown is out of date.")] = None

    @property
    def chosen_format(self) -> str:
        return "json" if self.as_json else self.output_format

    @property
    def board(self) -> BoardOptions:
        return BoardOptions(
            reported=self.reported is not False,
            paired=not self.unpaired and not self.summary,  # a summary shows no difference
            pairs=self.chosen_format == "html" or self.figures is not None,
            suites=comma_list(self.suite),
            matching=self.matching or "",
            baseline=self.baseline,
            rank_incomplete=self.rank_incomplete,
            joint_ranks=self.joint_ranks,
            compared=self.top if self.sort is None else None,
        )

    def repeated(self) -> str:
        """Return the flags that decide the board's content, as words of a command."""
        words = {
            f"--suite {self.suite} ": self.suite,
            f"--filter {quote(self.matching or '')} ": self.matching,
            f"--baseline {quote(self.baseline or '')} ": self.baseline,
            f"--top {self.top} ": self.top,
            f"--sort {self.sort} ": self.sort,
            f"--title {quote(self.title or '')} ": self.title,
            "--summary ": self.summary,
            "--unpaired ": self.unpaired,
            "--rank-incomplete ": self.rank_incomplete,
            "--joint-ranks ": self.joint_ranks,
            "--reported ": self.reported is True,
            "--no-reported ": self.reported is False,
            f"--results {self.results} ": str(self.results) != "results",
        }
        return "".join(word for word, is_set in words.items() if is_set)


@command
def leaderboard(flags: LeaderboardFlags) -> None:
    """Rank the score cards: one table per protocol, incomplete cards separate.

    Examples: harness leaderboard --summary; harness leaderboard --suite mt_bench --filter 'llama*' --baseline my-base;
    harness leaderboard --format md --out results/LEADERBOARD.md; harness leaderboard --format html --out board.html
    """
    if flags.output_format not in FORMATS:
        raise ConfigError(f"no format {flags.output_format!r}; known: {', '.join(FORMATS)}")
    if flags.summary and flags.chosen_format == "html":
        raise ConfigError("--summary has no page: --format html shows all suites; drop one of the two")
    if flags.viewer and not flags.viewer.startswith(("http://", "https://")):
        raise ConfigError(f"--viewer {flags.viewer!r} is not an address that begins with http:// or https://")
    trackers = tracker_names(flags.log_to)
    check_names(flags)
    board = read_board(flags.results, flags.board)
    tables = [cut(table, flags.sort, None if flags.summary else flags.top) for table in board.tables]
    board = dataclasses.replace(board, tables=tuple(tables))
    if flags.check is not None:
        check_file(flags.check, render(board, flags, "md"), flags.repeated())
    elif flags.figures is not None:
        write_figures(flags.figures, board)
    elif flags.chosen_format == "table" and flags.out is None:
        show(board, flags)
    else:
        write_or_print(render(board, flags, flags.chosen_format), flags.out)
    if trackers:
        from ..pages.tracked import tracked_files

        written = log_scores(trackers, board.cards, tracked_files(board.tables, flags.results))
        print(f"logged {written} runs to {', '.join(trackers)}", file=sys.stderr)
    if board.broken:
        total = len(board.broken) + len(board.cards)
        raise IncompleteError(
            f"{len(board.broken)} of {total} cards could not be read and are left out: {board.broken[0]}"
        )


def check_names(flags: LeaderboardFlags) -> None:
    """Raise ConfigError for an unknown order or column, by the cards alone: comparing many models takes seconds."""
    is_terminal = flags.chosen_format == "table" and flags.out is None and not flags.summary
    chosen = comma_list(flags.columns) if is_terminal else ()
    if flags.sort is None and not chosen:
        return
    cards_only = dataclasses.replace(flags.board, paired=False, pairs=False, reported=False)
    tables = read_board(flags.results, cards_only).tables
    if flags.sort is not None:
        for table in tables:
            sort_key(table, flags.sort)
    if chosen:
        check_columns(tables, chosen)


def cut(table: Table, sort: str | None, top: int | None) -> Table:
    """Return the table in another order, with the first rows only. Raise ConfigError for an unknown order.

    Ranks stay those of the headline. A row that is no longer below its neighbour has no difference, except from a
    baseline.
    """
    rows = list(table.rows)
    if sort is not None:
        rows.sort(key=sort_key(table, sort))
        # `above` is the difference from the row above, which another order makes another row
        if not table.baseline and rows != list(table.rows):
            rows = [row.model_copy(update={"above": None}) for row in rows]
    return table.model_copy(update={"rows": tuple(rows[:top])})


def sort_key(table: Table, name: str) -> Callable[[BoardRow], tuple[bool, float | str]]:
    """Return the sort key: names ascend, figures descend unless less is better, and rows without a figure come last."""
    metrics = {metric for row in table.rows for metric in row.others} | {table.headline}
    fields = ("n", "length", "cost", "date")
    if name not in (*metrics, *fields, "rank", "model"):
        raise ConfigError(
            f"cannot sort by {name!r}{did_you_mean(name, (*metrics, *fields))}; known: rank, model, "
            f"{', '.join(fields)}, {', '.join(sorted(metrics))}"
        )
    if name == "model":
        return lambda row: (False, row.model.casefold())
    if name == "date":  # the latest first
        return lambda row: (row.date is None, -int((row.date or "0").replace("-", "")))
    better = table.higher_is_better if name == table.headline else facts_of(table.suite).metric(name).higher_is_better
    sign = 1.0 if better is False or name in ("rank", "cost") else -1.0

    def key(row: BoardRow) -> tuple[bool, float | str]:
        score = row.score if name == table.headline else row.others.get(name)
        figures = {"rank": row.rank, "n": row.score.n, "length": row.length, "cost": row.cost}
        value = figures.get(name, None if score is None else score.value)
        return value is None, sign * (value or 0.0)

    return key


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

    files = [
        (figure.name, figure.drawing.standalone(), png(figure.drawing))
        for figure in list(figures(board.tables, board.pairs))
    ]
    make_folder(folder)
    for name, svg, pixels in files:
        write_atomic(folder / f"{name}.svg", svg + "\n")
        write_bytes(folder / f"{name}.png", pixels)
    print(f"wrote {len(files)} figures to {folder}, each as .svg and .png")


def show(board: Board, flags: LeaderboardFlags) -> None:
    """Print the tables, fitted to the terminal."""
    console = stdout_console(wide=flags.wide or flags.columns is not None)
    if flags.title:
        console.print(Text(plain(flags.title), style="bold"))
    if flags.summary:
        console.print(summary_table(summary(board.tables).top(flags.top)))
        return
    # named columns are shown in full, so the console is wide for them, too
    chosen = comma_list(flags.columns)
    tables = rich_tables(board.tables, chosen)
    for table, content in zip(tables, board.tables, strict=True):
        console.print(table)
        if any(row.above for row in content.rows):
            console.print(Text(difference_line(content), style="dim"))
        if (line := count_line(content)) and "n" in table.head:
            console.print(Text(line, style="dim"))
        console.print()
    if sentence := hidden_line(tables, console.width):
        console.print(Text(sentence, style="dim"))
    reported = shown_reported(board, flags, "table")
    for part in rich_reported(reported):
        console.print(part)
    if left_out := sum(len(table.rows) for table in board.reported) - sum(len(table.rows) for table in reported):
        console.print(
            Text(f"{left_out} figures of papers and boards are not shown; --reported shows them", style="dim")
        )


def shown_reported(board: Board, flags: LeaderboardFlags, output_format: str) -> Sequence[ReportedTable]:
    """Return the reported figures to show: unless asked for all, those of models measured here; the page has a tab."""
    return board.reported if flags.reported or output_format == "html" else of_measured(board.reported)


def check_columns(tables: Iterable[Table], chosen: Sequence[str]) -> None:
    """Raise ConfigError for a column that no table has."""
    columns = list(dict.fromkeys(name for table in rich_tables(tables) for name in table.head))
    for name in chosen:
        if name not in columns:
            raise ConfigError(f"no column {name!r}{did_you_mean(name, columns)}; known: {', '.join(columns)}")


def render(board: Board, flags: LeaderboardFlags, output_format: str) -> str:
    """Return the board as text in a format other than the terminal's."""
    tables = list(board.tables)
    if flags.summary:
        return render_summary(summary(tables).top(flags.top), output_format)
    reported = shown_reported(board, flags, output_format)
    if output_format == "csv":
        return csv_text(tables, csv_lines(reported))
    if output_format == "json":
        records = {
            "tables": [table.model_dump(mode="json") for table in tables],
            "reported": [table.model_dump(mode="json") for table in reported],
        }
        return json.dumps(records, indent=2) + "\n"
    if output_format == "html":
        from ..pages.board import page

        return page(tables, reported, page_facts(board, flags))
    text = markdown(tables) + markdown_reported(reported)
    # only the heading: a model or column may contain the same words
    return text if flags.title is None else text.replace("# Leaderboard", f"# {escape_markdown(flags.title)}", 1)


def page_facts(board: Board, flags: LeaderboardFlags) -> PageFacts:
    from .. import __version__

    return PageFacts(
        title=flags.title or "Leaderboard",
        made=datetime.now(UTC).date().isoformat(),
        version=str(__version__),
        viewer=flags.viewer,
        pairs=board.pairs,
        games=board.games,
        folders=board.folders,
    )


def render_summary(content: Summary, output_format: str) -> str:
    if output_format == "json":
        return json.dumps({"summary": summary_records(content)}, indent=2) + "\n"
    if output_format == "csv":
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(summary_lines(content))
        return out.getvalue()
    return summary_markdown(content)
