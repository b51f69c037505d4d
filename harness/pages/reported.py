"""Reported figures as text: own sections and lines below the measured ones. Pure: records in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from ..analysis.reported import ReportedDifference, ReportedRow, ReportedTable
from .tables import CsvCell, filled, harmless
from .terminal import FittedTable
from .text import escape_markdown, markdown_list, markdown_table, plain, rich_table


def rich_reported(tables: Iterable[ReportedTable]) -> Iterator[FittedTable | Text]:
    """Yield tables for a terminal, each with its source below it."""
    for table in tables:
        yield rich_table(table.title, columns(table), [cells(table, row) for row in table.rows], _texts(table))
        yield Text(plain(table.reference), style="dim italic")


def of_measured(tables: Iterable[ReportedTable]) -> list[ReportedTable]:
    """Return the tables with only the models that were measured here too; none of models that were not."""
    kept = []
    for table in tables:
        rows = tuple(row for row in table.rows if row.differences)
        kept += [table.model_copy(update={"rows": rows})] if rows else []
    return kept


def markdown_reported(tables: Iterable[ReportedTable]) -> str:
    """Return one section per source and suite; empty text if there is none."""
    parts: list[str] = []
    for table in tables:
        parts += ["", f"## {escape_markdown(table.title)}", ""]
        parts += markdown_list([text for text in (table.reference, table.url, table.note) if text])
        parts += ["", *markdown_table(columns(table), [cells(table, row) for row in table.rows], _texts(table))]
    return "".join(f"{part}\n" for part in parts)


def csv_lines(tables: Iterable[ReportedTable]) -> Iterator[list[CsvCell]]:
    """Yield lines under `tables.CSV_HEAD`: one per figure, or one per run compared with it; never with a rank."""
    for table in tables:
        source = harmless(f"reported: {table.source}")
        fixed = [harmless(table.suite), harmless(table.suite_version), "", harmless(table.judge or ""), ""]
        for row in table.rows:
            for metric, figure in row.figures.items():
                numbers = filled(figure.value, figure.ci_low, figure.ci_high, figure.se)
                empty = [""] * 14  # n, unscored and the headline's extra columns
                line: list[CsvCell] = [*fixed, harmless(row.model), "", harmless(metric), *numbers, *empty, source]
                compared = [difference for difference in row.differences if difference.metric == metric]
                for difference in compared:
                    values = filled(difference.value, difference.ci_low, difference.ci_high)
                    yield [*line, harmless(difference.run_id), *values]
                if not compared:
                    yield [*line, "", "", "", ""]


def columns(table: ReportedTable) -> list[str]:
    return ["model", "size", *table.metrics, "measured here, minus reported [95 %]"]


def _texts(table: ReportedTable) -> set[str]:
    return set(columns(table)) - set(table.metrics)


def cells(table: ReportedTable, row: ReportedRow) -> list[str]:
    """Return the row's texts under `columns(table)`."""
    figures = [_short(row.figures[name].value) if name in row.figures else "-" for name in table.metrics]
    return [row.model, row.size or "-", *figures, "; ".join(map(_difference_text, row.differences)) or "-"]


def _short(value: float) -> str:
    """Return at most two decimals: boards give fifteen, papers one."""
    return f"{round(value, 2):g}" if abs(value) < 1000 else f"{value:.0f}"


def _difference_text(row: ReportedDifference) -> str:
    """Return `lc_win_rate -0.80 [-3.40, 1.90] in run 0123`, and what the source does not state."""
    interval = "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"
    unstated = f" (the source does not state {', '.join(row.unstated)})" if row.unstated else ""
    return f"{row.metric} {row.value:+.2f}{interval} in run {row.run_id or row.model}{unstated}"
