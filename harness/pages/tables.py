"""Make untrusted text visible: control characters and direction marks become visible signs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from rich.table import Table as RichTable
from rich.text import Text

from ..analysis.leaderboard import BoardRow, Table
from ..records import Score, ScoreCard

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters (ANSI codes begin with one), zero-width and direction marks, tags, lone surrogates, and
characters that XML forbids."""


def visible(text: str) -> str:
    """Return the text with invisible characters as `␛` or `⟨U+202E⟩`; newlines and tabs stay."""
    return INVISIBLE.sub(_sign, text.replace("\r\n", "\n"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


# ----------------------------------------------------------------------------------------------------
# Format one score, one text or one card as plain text, Markdown or CSV. Pure; imports no statistics.


UNSEEN = re.compile(f"(?:{INVISIBLE.pattern}|[\t\n])+")


def number(score: Score | None, name: str) -> str:
    """Return `7.36`, whole numbers for counts and average lengths, or a dash if there is no value."""
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.0f}" if name.startswith(("n_", "avg_")) else f"{score.value:.2f}"


def interval(score: Score, name: str) -> str:
    """Return `7.36 [7.10, 7.61]`, or only the value without an interval."""
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return number(score, name)
    return f"{score.value:.2f} [{score.ci_low:.2f}, {score.ci_high:.2f}]"


def card_table(cards: list[ScoreCard]) -> RichTable:
    """Return all scores of the cards, for the end of a run."""
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
    """Return the text on one line, without what `visible` shows as signs (ANSI codes, direction marks)."""
    return UNSEEN.sub(" ", text)


def escape_markdown(text: str) -> str:
    """Return the text literally for a Markdown table: no HTML, emphasis or cell breaks, and only bare links."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain(text)).replace("&", "&amp;").replace("<", "&lt;")


def harmless(text: str) -> str:
    """Return a CSV cell that no spreadsheet executes: a leading = + - @, or their wide forms, gets an apostrophe."""
    text = plain(text)
    return "'" + text if text.lstrip()[:1] in tuple("=+-@＝＋－＠") else text


# ----------------------------------------------------------------------------------------------------
# Format leaderboard tables and cards as text, Markdown, CSV and rich tables. Pure: records in, text out.


SHOWN = {
    "mt_bench": ("turn_1", "turn_2"),
    "mt_bench_pairs": ("win_rate",),
    "alpaca_eval": ("win_rate", "avg_length"),
    "arena_hard": ("avg_tokens",),
}
"""Secondary metrics that fit a narrow table; CSV and JSON contain all."""
CSV_HEAD = (
    *("suite", "suite_version", "protocol", "judge", "rank", "model", "run", "metric"),
    *("value", "ci_low", "ci_high", "se", "n", "unscored"),
    *("rank_low", "rank_high", "above", "above_low", "above_high", "above_p", "above_paired"),
    *("length", "length_unit", "cost", "tokens_per_second", "date"),
    # "measured", or "reported: " and the source; then the difference of a measured run of a reported model
    *("source", "compared_run", "difference", "difference_low", "difference_high"),
)
Cell = str | int | float
MARKDOWN_HEAD = (
    "One table per protocol: numbers of different tables are not comparable. In brackets after a rank: the ranks that",
    "comparisons with all other rows at once leave open (95 %). Against the row above: difference, 95 % interval,",
    "two-sided p; a star marks p < 0.05; *unpaired* ones are made from the two standard errors alone.",
)


def columns(table: Table) -> list[str]:
    """Return the column names, without columns that no row has a value for."""
    head = ["rank", "model", f"{table.headline} [95 %]", "against the row above"]
    return [*head, *shown_metrics(table), *(name for name, _ in measured(table)), "n", "unscored", "truncated", "run"]


def shown_metrics(table: Table) -> list[str]:
    return [name for name in SHOWN.get(table.suite, ()) if any(name in row.others for row in table.rows)]


def measured(table: Table) -> list[tuple[str, dict[str, str]]]:
    """Return cost, length, speed and date of runs as (column, run id -> text), if any row has them."""
    length = "avg_tokens" if table.length_unit == "tokens" else "avg_length"
    column_texts = [
        (length, {row.run_id: f"{row.length:.0f}" for row in table.rows if row.length is not None}),
        ("cost $", {row.run_id: f"{row.cost:.2f}" for row in table.rows if row.cost is not None}),
        ("tokens/s", {row.run_id: f"{row.tokens_per_second:.0f}" for row in table.rows if row.tokens_per_second}),
        ("date", {row.run_id: row.date for row in table.rows if row.date}),
    ]
    return [(name, texts) for name, texts in column_texts if texts and name not in shown_metrics(table)]


def rank_text(row: BoardRow) -> str:
    """Return `2 (1-3)`: the rank and the ranks that the intervals leave open; a dash if there is none."""
    if row.rank is None:
        return "-"
    return f"{row.rank} ({row.rank_range.low}-{row.rank_range.high})" if row.rank_range else str(row.rank)


def above_text(row: BoardRow) -> str:
    """Return `-1.20 [-3.00, 0.60] p 0.190`; a star if p < 0.05, `unpaired` if questions were not compared."""
    if row.above is None:
        return "-"
    step = row.above
    p = "p < 0.001" if step.p < 0.001 else f"p {step.p:.3f}"
    star = "*" if step.significant else ""
    kind = "" if step.paired else ", unpaired"
    return f"{step.difference:+.2f} [{step.ci_low:.2f}, {step.ci_high:.2f}] {p}{star}{kind}"


def cells(table: Table, row: BoardRow) -> list[str]:
    """Return the row's texts under `columns(table)`."""
    values = [number(row.others.get(name), name) for name in shown_metrics(table)]
    values += [texts.get(row.run_id, "-") for _, texts in measured(table)]
    counts = [str(row.score.n), str(row.score.unscored), str(row.truncated)]
    return [
        rank_text(row),
        row.model,
        interval(row.score, table.headline),
        above_text(row),
        *values,
        *counts,
        row.run_id,
    ]


def rich_tables(tables: list[Table]) -> list[RichTable]:
    """Return tables for a terminal; untrusted text is added as Text, never as markup."""
    rendered = []
    for table in tables:
        rich = RichTable(title=Text(plain(table.title)), title_justify="left")
        for name in columns(table):
            rich.add_column(Text(plain(name)), justify="left" if name in ("model", "run") else "right", overflow="fold")
        for row in table.rows:
            rich.add_row(*(Text(plain(cell)) for cell in cells(table, row)))
        rendered.append(rich)
    return rendered


def markdown(tables: list[Table]) -> str:
    """Return the leaderboard as GitHub Markdown, one section per protocol."""
    parts = ["# Leaderboard", "", *MARKDOWN_HEAD, ""]
    for table in tables:
        parts += [f"## {escape_markdown(table.title)}", ""]
        for name, value in table.differs.items():
            parts.append(f"- {escape_markdown(name)}: {escape_markdown(_short(value))}")
        if table.differs:
            parts.append("")
        parts.append("| " + " | ".join(map(escape_markdown, columns(table))) + " |")
        aligned = ["---" if name in ("model", "run") else "---:" for name in columns(table)]
        parts.append("| " + " | ".join(aligned) + " |")
        parts += ["| " + " | ".join(escape_markdown(cell) for cell in cells(table, row)) + " |" for row in table.rows]
        notes = dict.fromkeys(note for row in table.rows for note in row.notes)
        parts += ["", *(f"- {escape_markdown(note)}" for note in notes), ""]
    return "\n".join(parts).rstrip() + "\n"


def csv_text(tables: list[Table], reported: Iterable[Sequence[Cell]] = ()) -> str:
    """Return one line per card and metric in full precision; no cell can be a spreadsheet formula.

    `reported` are lines of `report.reported.csv_lines`, appended below the measured ones."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for table in tables:
        for row in table.rows:
            for name, score in {table.headline: row.score, **row.others}.items():
                fixed = [table.suite, table.suite_version, table.protocol_sha, table.judge]
                rank = "" if row.rank is None else row.rank
                numbers = [score.value, score.ci_low, score.ci_high, score.se, score.n, score.unscored]
                named = [*map(harmless, fixed), rank, harmless(row.model), harmless(row.run_id), harmless(name)]
                extra = _extra(table, row) if name == table.headline else [None] * 12
                filled: list[Cell] = ["" if value is None else value for value in (*numbers, *extra)]
                writer.writerow([*named, *filled, "measured", "", "", "", ""])
    writer.writerows(reported)
    return out.getvalue()


def _extra(table: Table, row: BoardRow) -> list[Cell | None]:
    """Return the extra columns of the headline's line: rank range, the row above, and the run's cost."""
    ranks: list[Cell | None] = [row.rank_range.low, row.rank_range.high] if row.rank_range else [None, None]
    step = row.above
    above = [step.difference, step.ci_low, step.ci_high, step.p, int(step.paired)] if step else [None] * 5
    unit = table.length_unit if row.length is not None else None
    return [*ranks, *above, row.length, unit, row.cost, row.tokens_per_second, row.date]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:197] + "..."
