"""Render a plan as tables for a terminal: per stage, source, variant and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import JsonValue
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .items import PlanItem, total
from .plan import RecipePlan


class PlanColumn(NamedTuple):
    head: str
    key: str
    digits: int = 0


COLUMNS = (
    PlanColumn("calls", "calls"),
    PlanColumn("read", "prompt_tokens"),
    PlanColumn("written", "answer_tokens"),
    PlanColumn("trained", "trained_tokens"),
    PlanColumn("GPU-hours", "gpu_hours", 2),
    PlanColumn("hours", "hours", 2),
    PlanColumn("US $", "dollars", 2),
)


def plan_tables(plan: RecipePlan) -> list[RenderableType]:
    """Return a table per stage with totals, then per source, variant and seed if there are several, then the notes."""
    stages = [*plan.by_stage().items(), ("all", list(plan.items))]
    parts: list[tuple[str, Sequence[tuple[str, Sequence[PlanItem]]]]] = [
        (f"{plan.recipe}: remaining work per stage (read, written, trained: tokens)", stages)
    ]
    if len(by_source := list(plan.by_source().items())) > 1:
        parts.append(("per source: answers and their rewards", by_source))
    if by_variant := list(plan.by_model("align", "evaluate").items()):
        parts.append(("per model: training and evaluation, all seeds", by_variant))
    if len(plan.seeds) > 1:
        parts.append(("per seed", [(str(seed), plan.of_seed(seed)) for seed in plan.seeds]))
    tables: list[RenderableType] = [shown for name, rows in parts for shown in (Text(name), _table(rows))]
    return [*tables, Text("\n".join(f"- {note}" for note in plan.notes))]


def _table(rows: Sequence[tuple[str, Sequence[PlanItem]]]) -> Table:
    # Columns that are empty in every row are left out.
    sums = [total(items) for _, items in rows]
    cells = {column.head: [_cell(row_sums, column) for row_sums in sums] for column in COLUMNS}
    shown = {head: column for head, column in cells.items() if any(cell != "-" for cell in column)}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for head in ("steps", "done", *shown):
        table.add_column(head, justify="right", no_wrap=True)
    for index, (label, items) in enumerate(rows):
        counts = (str(len(items)), str(sums[index]["done"] or "-"))
        table.add_row(Text(label), *counts, *(column[index] for column in shown.values()))
    return table


def _cell(sums: Mapping[str, JsonValue], column: PlanColumn) -> str:
    """Return `-` for zero, `?` for an unknown value, and `1.2 + ?` if only part of the sum is known."""
    value, unknown = sums[column.key], sums.get(f"{column.key}_unknown", 0)
    assert isinstance(value, int | float)
    shown = quantity(value, column.digits) if value else ""
    return " + ".join(part for part in (shown, "?" if unknown else "") if part) or "-"


def quantity(value: float, digits: int = 0) -> str:
    """Return a number with thousands separators, or from 100,000 with three digits and k, M or G."""
    if digits:
        return f"{value:,.{digits}f}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * (100 if unit == "k" else 1):
            return f"{value / size:,.3g} {unit}" if value < size * 1000 else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}"
