"""Build the data report: how often each source won, distributions of rewards and lengths, what was dropped and why.

The figures come from the pairs stage (`data.json`), the pairs themselves and the counts of the steps. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pydantic import JsonValue

from harness.records import Record
from harness.report.cells import escape_markdown

from ..pairs.data import ModelData, PairData, Spread, spread
from ..records import PreferencePair
from .tables import TextGrid, markdown_grid

QUANTILES = ("5 %", "25 %", "median", "75 %", "95 %")
ROLES = {"y_ws": "best source answer", "y_wt": "the target's best", "y_l": "the target's worst"}


class PairsReport(Record):
    """One set of pairs: those of one seed and one number of sources."""

    name: str
    data: PairData
    rewards: dict[str, Spread]
    """Distribution of the rewards of y_ws, y_wt and y_l."""


class DataReport(Record):
    """`report/data.json`: all sets of pairs, and the counts of every step."""

    recipe: str
    pairs: tuple[PairsReport, ...]
    counts: dict[str, dict[str, JsonValue]]
    """Maps each step to its counts: what it kept and dropped, and why."""


def pairs_report(name: str, data: PairData, pairs: Iterable[PreferencePair]) -> PairsReport:
    """Return the report of one set of pairs, with the distributions of the three rewards."""
    rows = [(pair.source.reward, pair.target.reward, pair.rejected.reward) for pair in pairs]
    spreads = {role: spread([row[column] for row in rows]) for column, role in enumerate(ROLES)}
    return PairsReport(
        name=name, data=data, rewards={role: rewards for role, rewards in spreads.items() if rewards is not None}
    )


def data_grids(report: DataReport) -> list[TextGrid]:
    """Return all tables: those of the first pairs are open, those of other seeds and the counts are folded."""
    tables = [
        replace(grid, folded=position > 0)
        for position, pairs in enumerate(report.pairs)
        for grid in (_answers(pairs), _winners(pairs), _rewards(pairs), _lengths(pairs))
    ]
    return [grid for grid in (*tables, replace(_counts(report.counts), folded=True)) if grid.rows]


def _answers(report: PairsReport) -> TextGrid:
    head = ("model", "answers", "failed", "truncated", "unrewarded", "mean tokens", "reward, mean", "sd", *QUANTILES)
    models = (*report.data.sources, report.data.target)
    return TextGrid(
        f"Answers to preference prompts, {report.name}", head, tuple(_answer_cells(model) for model in models)
    )


def _answer_cells(model: ModelData) -> tuple[str, ...]:
    counts = (str(model.answers), str(model.failed), str(model.truncated), str(model.unrewarded))
    return (model.model, *counts, "-" if model.tokens is None else f"{model.tokens.mean:.0f}", *_cells(model.rewards))


def _cells(values: Spread | None, digits: int = 3) -> tuple[str, ...]:
    if values is None:
        return ("-",) * (2 + len(QUANTILES))
    return tuple(f"{value:.{digits}f}" for value in (values.mean, values.sd, *values.quantiles))


def _winners(report: PairsReport) -> TextGrid:
    pairs = max(report.data.pairs, 1)
    won = sorted(report.data.sources, key=lambda source: (-(source.wins or 0), source.model))
    rows = [(source.model, str(source.wins or 0), f"{100 * (source.wins or 0) / pairs:.1f}") for source in won]
    ahead = ("y_ws above y_wt", str(report.data.source_better), f"{100 * report.data.source_better / pairs:.1f}")
    title = f"Which source gave y_ws, {report.name} ({report.data.pairs} pairs of {report.data.prompts} prompts)"
    return TextGrid(title, ("source", "pairs", "%"), (*rows, ahead))


def _rewards(report: PairsReport) -> TextGrid:
    rows = [(f"{role} ({ROLES[role]})", *_cells(rewards)) for role, rewards in report.rewards.items()]
    rows += [("y_wt - y_l", *_cells(report.data.margins)), ("y_ws - y_wt", *_cells(report.data.source_margins))]
    return TextGrid(f"Rewards of the pairs, {report.name}", ("answer", "mean", "sd", *QUANTILES), tuple(rows))


def _lengths(report: PairsReport) -> TextGrid:
    spreads = (report.data.source_characters, report.data.target_characters, report.data.rejected_characters)
    rows = tuple((role, *_cells(lengths, 0)) for role, lengths in zip(ROLES, spreads, strict=True))
    return TextGrid(f"Characters of the pairs' answers, {report.name}", ("answer", "mean", "sd", *QUANTILES), rows)


def _counts(counts: Mapping[str, Mapping[str, JsonValue]]) -> TextGrid:
    rows = tuple(
        (step, name, _plain(value)) for step, step_counts in counts.items() for name, value in step_counts.items()
    )
    return TextGrid("Counts of each step", ("step", "name", "count"), rows)


def _plain(value: JsonValue) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(count)}" for name, count in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_markdown(report: DataReport) -> str:
    """Return the data report as GitHub Markdown."""
    parts = [f"# {escape_markdown(report.recipe)}: data", ""]
    for grid in data_grids(report):
        parts += [f"## {escape_markdown(grid.title)}", "", markdown_grid(grid)]
    return "\n".join(parts).rstrip() + "\n"
