"""Write one table over all suites, with a row per model and a column per suite and protocol.

Scores of different suites are on different scales, so there is no average. Models are ordered by how many suites they
are ranked in, then by their mean rank in these: a model of one easy suite does not pass those that were asked more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..analysis.leaderboard import BoardRow, Table
from ..records import Score
from ..records.facts import facts_of
from .tables import harmless
from .text import FittedTable, interval, markdown_table, number, rich_table

ONE_SUITE = "Score (rank)"


@dataclass(frozen=True)
class Summary:
    """The models of several tables: those of most suites first, of these the best mean rank."""

    columns: tuple[str, ...]
    """Name of each table: its suite, with what tells it from another table of that suite."""
    tables: tuple[Table, ...]
    models: tuple[str, ...]
    rows: tuple[tuple[BoardRow | None, ...], ...]
    """Per model its row in each table; the best one if it has several."""

    def top(self, count: int | None) -> Summary:
        """Return the summary of the first `count` models, or of all for None."""
        return Summary(self.columns, self.tables, self.models[:count], self.rows[:count])

    @property
    def coverage(self) -> tuple[str, ...]:
        """Return `1 of 3` per model, the suites it is ranked in; empty if all are ranked in all suites."""
        counts = [len(_ranked_suites(rows, self.tables)) for rows in self.rows]
        suites = len({table.suite for table in self.tables})
        return () if all(count == suites for count in counts) else tuple(f"{count} of {suites}" for count in counts)

    @property
    def title(self) -> str:
        order = "models of more suites first, then by mean rank" if self.coverage else "models by their mean rank"
        return f"All suites: score (rank), {order}"

    @property
    def is_shared(self) -> bool:
        """Return whether a model is in two tables, so that there is something to read across."""
        return any(sum(row is not None for row in rows) > 1 for rows in self.rows)


def summary(tables: Sequence[Table]) -> Summary:
    """Return all tables side by side."""
    names = dict.fromkeys(row.model for table in tables for row in table.rows)
    # reversed, because rows are ranked: the best run of a model comes last and stays
    by_table = [{row.model: row for row in reversed(table.rows)} for table in tables]
    rows = {name: tuple(of_model.get(name) for of_model in by_table) for name in names}
    models = sorted(
        rows,
        key=lambda name: (-len(_ranked_suites(rows[name], tables)), _mean_rank(rows[name], tables), name),
    )
    return Summary(_columns(tables), tuple(tables), tuple(models), tuple(rows[name] for name in models))


def _ranked_suites(rows: Sequence[BoardRow | None], tables: Sequence[Table]) -> set[str]:
    return {table.suite for row, table in zip(rows, tables, strict=True) if row is not None and row.rank is not None}


def _mean_rank(rows: Sequence[BoardRow | None], tables: Sequence[Table]) -> float:
    """Return the mean over the tables that rank it of the rank as a share of the ranked models, 0..1; 1 without one."""
    shares = [
        row.rank / _ranked(table)  # a share, as the third of 3 and the third of 60 are not the same
        for row, table in zip(rows, tables, strict=True)
        if row is not None and row.rank is not None
    ]
    return fmean(shares) if shares else 1.0


def _ranked(table: Table) -> int:
    return sum(row.rank is not None for row in table.rows)


def _columns(tables: Sequence[Table]) -> tuple[str, ...]:
    suites = Counter(table.suite for table in tables)
    judges = Counter((table.suite, table.judge) for table in tables)
    names = []
    for table in tables:
        name = table.suite
        if suites[table.suite] > 1:
            name += f" by {table.judge}"
        if judges[table.suite, table.judge] > 1:
            name += f" {table.protocol_sha[:6]}"
        names.append(name)
    return tuple(names)


def summary_table(content: Summary) -> FittedTable:
    """Return the table for a terminal: all suites' scores first, then their intervals as far as they fit."""
    head, order = ["model"], [0]
    spans: list[int] = []
    coverage = content.coverage
    if coverage:
        order.append(len(head))
        head.append("suites")
    for name in content.columns:
        order.append(len(head))
        spans.append(len(head) + 1)
        head += [name, "95 %"]
    cells = []
    for at, (model, rows) in enumerate(zip(content.models, content.rows, strict=True)):
        line = [model, *coverage[at : at + 1]]
        for table, row in zip(content.tables, rows, strict=True):
            line += ["-", "-"] if row is None else [_value(table, row), _span(row)]
        cells.append(line)
    return rich_table(
        content.title if len(content.columns) > 1 else ONE_SUITE, head, cells, ("model",), [*order, *spans], len(order)
    )


def summary_markdown(content: Summary) -> str:
    """Return the table as GitHub Markdown, with intervals."""
    coverage = content.coverage
    head = ["model", *(["suites"] if coverage else []), *(f"{name} [95 %]" for name in content.columns)]
    cells = [
        [
            model,
            *coverage[at : at + 1],
            *("-" if row is None else _full(table, row) for table, row in zip(content.tables, rows, strict=True)),
        ]
        for at, (model, rows) in enumerate(zip(content.models, content.rows, strict=True))
    ]
    return "\n".join([f"# {content.title}", "", *markdown_table(head, cells, ("model",))]) + "\n"


def summary_records(content: Summary) -> list[dict[str, object]]:
    """Return one object per model: its score, interval and rank in each table."""
    return [
        {
            "model": model,
            "scores": [
                {
                    "suite": table.suite,
                    "suite_version": table.suite_version,
                    "protocol_sha": table.protocol_sha,
                    "judge": table.judge,
                    "metric": table.headline,
                    "rank": row.rank,
                    "of": _ranked(table),
                    **row.score.model_dump(mode="json"),
                }
                for table, row in zip(content.tables, rows, strict=True)
                if row is not None
            ],
        }
        for model, rows in zip(content.models, content.rows, strict=True)
    ]


def summary_lines(content: Summary) -> list[list[str]]:
    """Return the lines of a CSV file: the head, then one per model, with full precision."""
    lines = [["model", *(harmless(f"{name}{part}") for name in content.columns for part in ("", " low", " high"))]]
    for model, rows in zip(content.models, content.rows, strict=True):
        scores = [None if row is None else row.score for row in rows]
        values = [value for score in scores for value in _numbers(score)]
        lines.append([harmless(model), *values])
    return lines


def _numbers(score: Score | None) -> list[str]:
    values = (None, None, None) if score is None else (score.value, score.ci_low, score.ci_high)
    return ["" if value is None else repr(value) for value in values]


def _value(table: Table, row: BoardRow) -> str:
    value = number(row.score, facts_of(table.suite).metric(table.headline).decimals)
    return f"{value} ({'-' if row.rank is None else row.rank})"


def _full(table: Table, row: BoardRow) -> str:
    text = interval(row.score, facts_of(table.suite).metric(table.headline).decimals)
    return f"{text} ({'-' if row.rank is None else row.rank})"


def _span(row: BoardRow) -> str:
    score = row.score
    return "-" if score.ci_low is None or score.ci_high is None else f"[{score.ci_low:.2f}, {score.ci_high:.2f}]"
