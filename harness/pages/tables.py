"""Write leaderboard tables, cards and reported figures as rich tables, Markdown and CSV.

>>> harmless("=SUM(A1)"), _short(61.23456)
("'=SUM(A1)", '61.23')
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from rich.text import Text

from ..analysis.leaderboard import BoardRow, HeadlineDifference, Table
from ..analysis.reported import ReportedDifference, ReportedRow, ReportedTable
from ..records import ScoreCard
from ..records.facts import facts_of
from .text import (
    FittedTable,
    escape_markdown,
    interval,
    markdown_list,
    markdown_table,
    number,
    p_text,
    plain,
    rich_table,
    shortened,
)

LEFT = ("model", "run")
CARD_HEAD = ("suite", "model", "judge", "metric", "value", "n", "unscored")
CARD_ORDER = ("suite", "metric", "value", "n", "unscored", "model")
CSV_HEAD = (
    *("suite", "suite_version", "protocol", "judge", "rank", "model", "run", "metric"),
    *("value", "ci_low", "ci_high", "se", "n", "unscored"),
    *("rank_low", "rank_high", "above", "above_low", "above_high", "above_p", "above_paired"),
    *("length", "length_unit", "cost", "tokens_per_second", "date"),
    # "measured", or "reported: " and the source; then the difference of a measured run of a reported model
    *("source", "compared_run", "difference", "difference_low", "difference_high"),
)
CsvCell = str | int | float
MARKDOWN_HEAD = (
    "One table per protocol: numbers of different tables are not comparable. The range in brackets after a rank",
    "contains every rank that simultaneous comparisons with all other rows leave open "
    "(95 % for each row by itself, or for",
    "all rows of a table at once if its title says joint rank ranges). Against the row above:",
    "difference, 95 % interval, two-sided p; a star marks p <= 0.05 and an interval without 0, not corrected for the",
    "number of rows; *unpaired* ones use the standard errors alone.",
)


def card_table(cards: Sequence[ScoreCard]) -> FittedTable:
    """Return all scores of the cards; the headlines stand out."""
    rows: list[list[str]] = []
    headlines: list[int] = []
    for card in cards:
        suite, facts = f"{card.suite}@{card.suite_version}", facts_of(card.suite)
        for name, score in card.scores.items():
            value = interval(score, facts.metric(name).decimals)
            headlines += [len(rows)] if name == card.headline else []
            rows.append([suite, card.model, card.judge, name, value, str(score.n), str(score.unscored)])
            # the suite stands on its first line only
            suite = ""
    table = rich_table("Scores (95 % intervals)", CARD_HEAD, rows, CARD_HEAD[:4], CARD_ORDER, 3)
    return replace(table, bold=frozenset(headlines))


def headline_table(cards: Sequence[ScoreCard]) -> FittedTable:
    """Return one line per card, for the end of a run: the headline score, and what of it is missing."""
    rows = [
        [
            card.model,
            card.suite,
            interval(score := card.scores[card.headline], facts_of(card.suite).metric(card.headline).decimals),
            card.headline,
            str(score.n),
            str(score.unscored) if score.unscored else "-",
            card.judge,
        ]
        for card in cards
    ]
    head = ("model", "suite", "score [95 %]", "metric", "n", "unscored", "judge")
    order = ("suite", "score [95 %]", "metric", "model", "unscored", "n")
    return rich_table("", head, rows, ("model", "suite", "metric", "judge"), order, 2)


def card_markdown(cards: Sequence[ScoreCard]) -> str:
    """Return all scores of the cards as one Markdown table, and their notes."""
    rows = []
    for card in cards:
        facts = facts_of(card.suite)
        for name, score in card.scores.items():
            value = interval(score, facts.metric(name).decimals)
            fixed = [f"{card.suite}@{card.suite_version}", card.model, card.judge]
            rows.append([*fixed, name, value, str(score.n), str(score.unscored)])
    head = ("suite", "model", "judge", "metric", "value", "n", "unscored")
    notes = [f"{card.suite}: {note}" for card in cards for note in card.notes]
    return (
        "\n".join([*markdown_table(head, rows, (*LEFT, "suite", "judge", "metric")), "", *markdown_list(notes)]) + "\n"
    )


def rich_tables(tables: Iterable[Table], chosen: Collection[str] = ()) -> list[FittedTable]:
    """Return the tables for a terminal. `chosen`: the columns to show; empty: those that have something to say."""
    return [_rich(table, chosen) for table in tables]


def _rich(table: Table, chosen: Collection[str]) -> FittedTable:
    """Return the table with the difference, its interval and its p in columns of their own: a narrow one keeps p."""
    head, rows = columns(table), body(table)
    against = head.index(against_name(table))
    difference_head = ("difference", "95 %", "p")
    head[against : against + 1] = difference_head
    for row, cells in zip(table.rows, rows, strict=True):
        cells[against : against + 1] = _difference_cells(row.above)
    difference, span, p = difference_head
    order: tuple[str, ...] = (*head[:against], difference, p, *shown_metrics(table)[:1], span, "n")
    # a column of zeros, such as `truncated`, says nothing: the first to go is one that a narrow terminal never misses
    zeros = {name for position, name in enumerate(head) if all(cells[position] == "0" for cells in rows)}
    order += tuple(name for name in head if name not in order and name not in zeros)
    essential = against + 2
    if chosen:
        indices = [index for index, name in enumerate(head) if name in (*head[:against], *chosen)]
        head, rows = [head[index] for index in indices], [[cells[index] for index in indices] for cells in rows]
        order, essential = tuple(head), len(head)
    return rich_table(table.title, head, rows, LEFT, order, essential)


def _difference_cells(step: HeadlineDifference | None) -> list[str]:
    if step is None:
        return ["-", "-", "-"]
    kind = "" if step.paired else " unpaired"
    p = p_text(step.p).removeprefix("p ")
    return [f"{step.difference:+z.2f}", f"[{step.ci_low:+.2f}, {step.ci_high:+.2f}]{kind}", p + "*" * step.significant]


def markdown(tables: list[Table]) -> str:
    """Return the leaderboard as GitHub Markdown, one section per protocol."""
    # fields that differ are listed, because a reader wonders why one suite has two tables
    parts = ["# Leaderboard", "", *MARKDOWN_HEAD, ""]
    for table in tables:
        parts += [f"## {escape_markdown(table.title)}", ""]
        if table.differs:
            parts += markdown_list([f"{name}: {shortened(str(value), 200)}" for name, value in table.differs.items()])
            parts.append("")
        parts += markdown_table(columns(table), body(table), LEFT)
        parts += ["", *markdown_list(notes_of(table)), ""]
    return "\n".join(parts).rstrip() + "\n"


def notes_of(table: Table) -> list[str]:
    """Return the notes of all rows, each once."""
    return list(dict.fromkeys(note for row in table.rows for note in row.notes))


def columns(table: Table) -> list[str]:
    """Return the column names, without columns that no row has a value for."""
    head = ["rank", "model", f"{table.column} [95 %]", against_name(table)]
    return [*head, *shown_metrics(table), *(name for name, _ in measured(table)), "n", "unscored", "truncated", "run"]


def difference_line(table: Table) -> str:
    """Return what the rank ranges and differences of a table are, for the line below it."""
    ranges = "for all rows at once" if table.joint_ranks else "for each row by itself"
    return (
        f"rank: in brackets the ranks left open at 95 %, {ranges}; difference: minus "
        f"{table.baseline or 'the row above'}, as in harness compare; p two-sided, * is p <= 0.05 and an interval "
        "without 0, not corrected for the number of rows"
    )


def count_line(table: Table) -> str:
    """Return what `n` counts, for the line below a table; empty if it counts questions."""
    counted = facts_of(table.suite).counted
    return f"n: scored {counted}" if counted else ""


def against_name(table: Table) -> str:
    """Return the name of the column of differences."""
    return f"against {table.baseline or 'the row above'}"


def shown_metrics(table: Table) -> list[str]:
    return [name for name in facts_of(table.suite).columns if any(name in row.others for row in table.rows)]


def measured(table: Table) -> list[tuple[str, dict[str, str]]]:
    """Return length, empty answers, cost, speed and date of runs as (column, run id -> text), if any row has them."""
    length = facts_of(table.suite).length_of(table.rows[0].others) if table.rows else None
    length_name = length.name if length else "avg_tokens" if table.length_unit == "tokens" else "avg_length"
    column_texts = [
        (length_name, {row.run_id: f"{row.length:.0f}" for row in table.rows if row.length is not None}),
        ("empty", _empty(table)),
        ("cost $", {row.run_id: f"{row.cost:.2f}" for row in table.rows if row.cost is not None}),
        ("tokens/s", {row.run_id: f"{row.tokens_per_second:.0f}" for row in table.rows if row.tokens_per_second}),
        ("date", {row.run_id: row.date for row in table.rows if row.date}),
    ]
    shown = shown_metrics(table)
    return [(name, texts) for name, texts in column_texts if texts and name not in shown]


def _empty(table: Table) -> dict[str, str]:
    """Return run id -> number of empty answers, with those cut in their reasoning, if a row has any."""
    if not any(row.empty for row in table.rows):
        return {}
    return {
        row.run_id: f"{row.empty} ({row.cut_in_reasoning} cut in reasoning)" if row.cut_in_reasoning else str(row.empty)
        for row in table.rows
    }


def body(table: Table) -> list[list[str]]:
    """Return the rows' texts under `columns(table)`."""
    facts = facts_of(table.suite)
    # once per table: both look at every row
    metrics, columns_by_run = shown_metrics(table), [texts for _, texts in measured(table)]
    return [
        [
            "-" if row.rank is None else f"{row.rank}{_range_text(row)}",
            row.model,
            interval(row.score, facts.metric(table.headline).decimals),
            "-" if row.above is None else f"{row.above.difference:+z.2f} {certainty(row.above)}",
            *(number(row.others.get(name), facts.metric(name).decimals) for name in metrics),
            *(texts.get(row.run_id, "-") for texts in columns_by_run),
            str(row.score.n),
            str(row.score.unscored),
            str(row.truncated),
            row.run_id,
        ]
        for row in table.rows
    ]


def _range_text(row: BoardRow) -> str:
    return f" ({row.rank_range.low}-{row.rank_range.high})" if row.rank_range else ""


def certainty(step: HeadlineDifference) -> str:
    """Return `[-3.00, 0.60] p 0.190`; a star if a difference is shown, `unpaired` if questions were not compared."""
    star, kind = "*" if step.significant else "", "" if step.paired else ", unpaired"
    return f"[{step.ci_low:.2f}, {step.ci_high:.2f}] {p_text(step.p)}{star}{kind}"


def csv_text(tables: list[Table], reported: Iterable[Sequence[CsvCell]] = ()) -> str:
    """Return one line per card and metric in full precision; no cell can be a spreadsheet formula.

    `reported` are lines of `csv_lines`, appended below the measured ones."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in tables:
        for row in table.rows:
            for name, score in {table.headline: row.score, **row.others}.items():
                names = [table.suite, table.suite_version, table.protocol_sha, table.judge]
                numbers = [score.value, score.ci_low, score.ci_high, score.se, score.n, score.unscored]
                extra = _extra(table, row) if name == table.headline else [None] * 12
                line = [*map(harmless, names), row.rank, harmless(row.model), harmless(row.run_id), harmless(name)]
                writer.writerow(filled(*line, *numbers, *extra, "measured", None, None, None, None))
    writer.writerows(reported)
    return out.getvalue()


def harmless(text: str) -> str:
    """Return a CSV cell that no spreadsheet executes: a leading = + - @, or their wide forms, gets an apostrophe."""
    text = plain(text)
    return "'" + text if text.lstrip()[:1] in tuple("=+-@＝＋－＠") else text


def filled(*values: CsvCell | None) -> list[CsvCell]:
    return ["" if value is None else value for value in values]


def _extra(table: Table, row: BoardRow) -> list[CsvCell | None]:
    ranks: list[CsvCell | None] = [row.rank_range.low, row.rank_range.high] if row.rank_range else [None, None]
    step = row.above
    above = [step.difference, step.ci_low, step.ci_high, step.p, int(step.paired)] if step else [None] * 5
    unit = table.length_unit if row.length is not None else None
    return [*ranks, *above, row.length, unit, row.cost, row.tokens_per_second, row.date]


# ----------------------------------------------------------------------------------------------------- reported figures
# They never share a table with measured scores: nobody here checked how they were obtained.


def rich_reported(tables: Iterable[ReportedTable]) -> Iterator[FittedTable | Text]:
    """Yield tables for a terminal, each with its source below it."""
    for table in tables:
        yield rich_table(table.title, reported_columns(table), [cells(table, row) for row in table.rows], _texts(table))
        yield Text(plain(table.reference), style="dim italic")


def of_measured(tables: Iterable[ReportedTable]) -> list[ReportedTable]:
    """Return the tables with only the models that were measured here too; none of models that were not."""
    narrowed = []
    for table in tables:
        rows = tuple(row for row in table.rows if row.differences)
        narrowed += [table.model_copy(update={"rows": rows})] if rows else []
    return narrowed


def markdown_reported(tables: Iterable[ReportedTable]) -> str:
    """Return one section per source and suite, or an empty text if there is none."""
    parts: list[str] = []
    for table in tables:
        parts += ["", f"## {escape_markdown(table.title)}", ""]
        parts += markdown_list([text for text in (table.reference, table.url, table.note) if text])
        parts += [
            "",
            *markdown_table(reported_columns(table), [cells(table, row) for row in table.rows], _texts(table)),
        ]
    return "".join(f"{part}\n" for part in parts)


def csv_lines(tables: Iterable[ReportedTable]) -> Iterator[list[CsvCell]]:
    """Yield lines under `CSV_HEAD`, one per figure or per run compared with it. They never have a rank."""
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


def reported_columns(table: ReportedTable) -> list[str]:
    return ["model", "size", *table.metrics, "measured here, minus reported [95 %]"]


def _texts(table: ReportedTable) -> set[str]:
    return set(reported_columns(table)) - set(table.metrics)


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
