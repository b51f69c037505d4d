"""Format comparisons as rich tables and Markdown. Pure: records in, text out; untrusted text stays text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table as RichTable
from rich.text import Text

from ..compare.comparison import Comparison
from ..compare.shifts import AnswerShift
from ..differences import Difference
from .cells import escape_markdown, plain

HEAD = ("metric", "category", "first", "other", "difference [95 %]", "p", "could see", "questions")
LEFT = ("metric", "category", "model", "question", "what", "check", "tier", "found", "suite", "against")


def difference_cells(row: Difference) -> list[str]:
    """Return the row's texts under `HEAD`."""
    p = row.p if row.p_adjusted is None else row.p_adjusted
    return [
        row.metric,
        row.category or "all",
        f"{row.first:.2f}",
        f"{row.other:.2f}",
        f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]",
        p_text(p),
        f"{row.detectable:.2f}",
        str(row.n),
    ]


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def title(pair: Comparison) -> str:
    return f"{pair.suite} ({pair.suite_version}), judge {pair.judge}: {pair.other} minus {pair.first}"


def verdict(pair: Comparison) -> str:
    """Return one sentence on the headline, which a person reads first."""
    row = pair.difference(pair.headline) or next(iter(pair.differences), None)
    if row is None:
        return f"{pair.suite}: nothing to compare"
    p = row.p if row.p_adjusted is None else row.p_adjusted
    span = f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}], p {p_text(p)}"
    if p <= 0.05:
        word = "better" if row.value > 0 else "worse"
        return f"{pair.suite}: {pair.other} is {word} than {pair.first} by {row.metric}: {span}"
    if row.se == 0 and row.value == 0:
        return f"{pair.suite}: {pair.other} and {pair.first} have the same verdict on every question, by {row.metric}"
    needed = f"; a true {abs(row.value):.2f} would need {row.needed} questions" if row.needed else ""
    return (
        f"{pair.suite}: no difference shown between {pair.other} and {pair.first} by {row.metric}: {span}; "
        f"smaller ones than {row.detectable:.2f} are not seen by this comparison{needed}"
    )


def other_lines(pair: Comparison) -> list[str]:
    """Return what a reader should know besides the differences."""
    lines = [f"compared although different: {difference}" for difference in pair.forced]
    lines += list(pair.notes)
    if pair.only_first or pair.only_other:
        lines.append(
            f"left out, scored in one run alone: {pair.only_first} of {pair.first}, {pair.only_other} of {pair.other}"
        )
    gained = sum(flip.kind == "gained" for flip in pair.flips)
    doubtful = sum(flip.doubtful for flip in pair.flips)
    lines.append(
        f"{len(pair.flips)} questions flipped: {gained} to {pair.other}, {len(pair.flips) - gained} away from it"
    )
    if pair.orders is not None:
        kept = "" if pair.orders.without is None else f"; without them the difference is {pair.orders.without:+.2f}"
        lines.append(
            f"the judge contradicted itself between the two orders on {pair.orders.first} questions of "
            f"{pair.first} and "
            f"{pair.orders.other} of {pair.other} (of {pair.orders.judged_twice}), {doubtful} flips among them{kept}"
        )
    return lines + [shift_line(shift) for shift in pair.shifts]


def shift_line(shift: AnswerShift) -> str:
    span = "" if shift.ci_low is None else f" [{shift.ci_low:+.1f}, {shift.ci_high:+.1f}]"
    return f"{shift.name}: {shift.first:.1f} -> {shift.other:.1f}, {shift.value:+.1f}{span}"


def flip_cells(pair: Comparison, limit: int) -> list[list[str]]:
    return [
        [
            flip.prompt_id,
            flip.category or "-",
            f"{flip.first:.1f}",
            f"{flip.other:.1f}",
            flip.kind + (", judge contradicted itself" if flip.doubtful else ""),
        ]
        for flip in pair.flips[:limit]
    ]


FLIP_HEAD = ("question", "category", "first", "other", "what")


def rich_comparison(pair: Comparison, *, flips: int) -> list[RichTable]:
    """Return tables for a terminal; untrusted text is added as Text, never as markup."""
    tables = [rich_table(title(pair), HEAD, [difference_cells(row) for row in pair.differences])]
    cells = flip_cells(pair, flips)
    if cells:
        tables.append(rich_table(f"largest flips ({len(cells)} of {len(pair.flips)})", FLIP_HEAD, cells))
    return tables


def rich_table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """Return a table with the columns in `LEFT` aligned left, all others right."""
    rich = RichTable(title=Text(plain(name)), title_justify="left")
    for column in head:
        rich.add_column(Text(column), justify="left" if column in LEFT else "right", overflow="fold")
    for row in rows:
        rich.add_row(*(Text(plain(cell)) for cell in row))
    return rich


def markdown(comparisons: Sequence[Comparison], *, flips: int) -> str:
    """Return one section per comparison, the verdicts first."""
    parts = ["# Comparison", "", *(f"- {escape_markdown(verdict(pair))}" for pair in comparisons), ""]
    for pair in comparisons:
        parts += [f"## {escape_markdown(title(pair))}", ""]
        parts += markdown_table(HEAD, [difference_cells(row) for row in pair.differences])
        parts += ["", *(f"- {escape_markdown(line)}" for line in other_lines(pair)), ""]
        cells = flip_cells(pair, flips)
        if cells:
            parts += [*markdown_table(FLIP_HEAD, cells), ""]
    return "\n".join(parts).rstrip() + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---" if name in LEFT else "---:" for name in head]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(aligned) + " |"]
    return lines + ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]
