"""Format reported figures as text: own sections and lines below the measured ones. Pure: records in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import JsonValue
from rich.table import Table as RichTable
from rich.text import Text

from ..analysis.reported import ReportedDifference, ReportedRow, ReportedTable
from .tables import Cell, escape_markdown, harmless, plain


def rich_reported(tables: Iterable[ReportedTable]) -> Iterator[RichTable]:
    """Yield tables for a terminal; texts are added as Text, never as markup."""
    for table in tables:
        rich = RichTable(title=Text(plain(table.title)), title_justify="left", caption=Text(plain(table.reference)))
        for name in columns(table):
            rich.add_column(Text(name), justify="right" if name in table.metrics else "left", overflow="fold")
        for row in table.rows:
            rich.add_row(*(Text(plain(cell)) for cell in cells(table, row)))
        yield rich


def markdown_reported(tables: Iterable[ReportedTable]) -> str:
    """Return one section per source and suite; empty text if there is none."""
    parts: list[str] = []
    for table in tables:
        names = columns(table)
        aligned = ["---:" if name in table.metrics else "---" for name in names]
        parts += ["", f"## {escape_markdown(table.title)}", "", f"- {escape_markdown(table.reference)}"]
        parts += [f"- {escape_markdown(text)}" for text in (table.url, table.note) if text]
        parts += ["", "| " + " | ".join(escape_markdown(name) for name in names) + " |"]
        parts.append("| " + " | ".join(aligned) + " |")
        parts += ["| " + " | ".join(escape_markdown(cell) for cell in cells(table, row)) + " |" for row in table.rows]
    return "".join(f"{part}\n" for part in parts)


def csv_lines(tables: Iterable[ReportedTable]) -> Iterator[list[Cell]]:
    """Yield lines under `tables.CSV_HEAD`: one per figure, or one per run compared with it; never with a rank."""
    for table in tables:
        source = harmless(f"reported: {table.source}")
        fixed = [harmless(table.suite), harmless(table.suite_version), "", harmless(table.judge or ""), ""]
        for row in table.rows:
            for metric, figure in row.figures.items():
                numbers = _filled(figure.value, figure.ci_low, figure.ci_high, figure.se)
                line: list[Cell] = [
                    *fixed,
                    harmless(row.model),
                    "",
                    harmless(metric),
                    *numbers,
                    "",
                    "",
                    *[""] * 12,
                    source,
                ]
                compared = [difference for difference in row.differences if difference.metric == metric]
                for difference in compared:
                    yield [
                        *line,
                        harmless(difference.run_id),
                        *_filled(difference.value, difference.ci_low, difference.ci_high),
                    ]
                if not compared:
                    yield [*line, "", "", "", ""]


def json_value(tables: Iterable[ReportedTable]) -> list[JsonValue]:
    return [table.model_dump(mode="json") for table in tables]


def columns(table: ReportedTable) -> list[str]:
    """Return the column names."""
    return ["model", "size", *table.metrics, "measured here, minus reported [95 %]"]


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
    unstated = f" (source states no {', '.join(row.unstated)})" if row.unstated else ""
    return f"{row.metric} {row.value:+.2f}{interval} in run {row.run_id or row.model}{unstated}"


def _filled(*values: float | None) -> list[Cell]:
    return ["" if value is None else value for value in values]
