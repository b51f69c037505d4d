"""Comparisons as rich tables and Markdown. Pure: records in, text out; what a model or a file wrote stays text."""

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
    """The row's texts under `HEAD`."""
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


def title(one: Comparison) -> str:
    return f"{one.suite} ({one.suite_version}), judge {one.judge}: {one.other} minus {one.first}"


def verdict(one: Comparison) -> str:
    """One sentence on the headline: what a person reads first."""
    row = one.difference(one.headline) or next(iter(one.differences), None)
    if row is None:
        return f"{one.suite}: nothing to compare"
    p = row.p if row.p_adjusted is None else row.p_adjusted
    span = f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}], p {p_text(p)}"
    if p <= 0.05:
        word = "better" if row.value > 0 else "worse"
        return f"{one.suite}: {one.other} is {word} than {one.first} by {row.metric}: {span}"
    if row.se == 0 and row.value == 0:
        return f"{one.suite}: {one.other} and {one.first} have the same verdict on every question, by {row.metric}"
    needed = f"; a true {abs(row.value):.2f} would need {row.needed} questions" if row.needed else ""
    return (
        f"{one.suite}: no difference shown between {one.other} and {one.first} by {row.metric}: {span}; "
        f"smaller ones than {row.detectable:.2f} are not seen by this comparison{needed}"
    )


def other_lines(one: Comparison) -> list[str]:
    """What besides the differences a reader should know."""
    lines = [f"compared although different: {what}" for what in one.forced]
    lines += list(one.notes)
    if one.only_first or one.only_other:
        lines.append(
            f"left out, scored in one run alone: {one.only_first} of {one.first}, {one.only_other} of {one.other}"
        )
    gained = sum(flip.kind == "gained" for flip in one.flips)
    doubtful = sum(flip.doubtful for flip in one.flips)
    lines.append(f"{len(one.flips)} questions flipped: {gained} to {one.other}, {len(one.flips) - gained} away from it")
    if one.orders is not None:
        kept = "" if one.orders.without is None else f"; without them the difference is {one.orders.without:+.2f}"
        lines.append(
            f"the judge contradicted itself between the two orders on {one.orders.first} questions of {one.first} and "
            f"{one.orders.other} of {one.other} (of {one.orders.judged_twice}), {doubtful} flips among them{kept}"
        )
    return lines + [shift_line(shift) for shift in one.shifts]


def shift_line(shift: AnswerShift) -> str:
    span = "" if shift.ci_low is None else f" [{shift.ci_low:+.1f}, {shift.ci_high:+.1f}]"
    return f"{shift.name}: {shift.first:.1f} -> {shift.other:.1f}, {shift.value:+.1f}{span}"


def flip_cells(one: Comparison, limit: int) -> list[list[str]]:
    return [
        [
            flip.prompt_id,
            flip.category or "-",
            f"{flip.first:.1f}",
            f"{flip.other:.1f}",
            flip.kind + (", judge contradicted itself" if flip.doubtful else ""),
        ]
        for flip in one.flips[:limit]
    ]


FLIP_HEAD = ("question", "category", "first", "other", "what")


def rich_comparison(one: Comparison, *, flips: int) -> list[RichTable]:
    """For a terminal; untrusted text goes in as Text, never as markup."""
    tables = [rich_table(title(one), HEAD, [difference_cells(row) for row in one.differences])]
    cells = flip_cells(one, flips)
    if cells:
        tables.append(rich_table(f"largest flips ({len(cells)} of {len(one.flips)})", FLIP_HEAD, cells))
    return tables


def rich_table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """Columns named in `LEFT` go left, all others right."""
    rich = RichTable(title=Text(plain(name)), title_justify="left")
    for column in head:
        rich.add_column(Text(column), justify="left" if column in LEFT else "right", overflow="fold")
    for row in rows:
        rich.add_row(*(Text(plain(cell)) for cell in row))
    return rich


def markdown(found: Sequence[Comparison], *, flips: int) -> str:
    """One section a comparison, the verdicts first."""
    parts = ["# Comparison", "", *(f"- {escape_markdown(verdict(one))}" for one in found), ""]
    for one in found:
        parts += [f"## {escape_markdown(title(one))}", ""]
        parts += markdown_table(HEAD, [difference_cells(row) for row in one.differences])
        parts += ["", *(f"- {escape_markdown(line)}" for line in other_lines(one)), ""]
        cells = flip_cells(one, flips)
        if cells:
            parts += [*markdown_table(FLIP_HEAD, cells), ""]
    return "\n".join(parts).rstrip() + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---" if name in LEFT else "---:" for name in head]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(aligned) + " |"]
    return lines + ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]
