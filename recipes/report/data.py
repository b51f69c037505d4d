"""The data report: which source won how often, how rewards and lengths are distributed, what was dropped and why.

The figures are those of the pairs stage (`pair_data`), of the pairs themselves and of the steps' counts; here they
become tables. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pydantic import JsonValue

from harness.records import Record
from harness.report.cells import escape_markdown

from ..pairs.data import ModelData, PairData, Spread, spread
from ..records import Pair
from .tables import Grid, markdown_grid

QUANTILES = ("5 %", "25 %", "median", "75 %", "95 %")
ROLES = {"y_ws": "best source answer", "y_wt": "the target's best", "y_l": "the target's worst"}


class PairsReport(Record):
    """One set of pairs: a seed, and how many sources gave y_ws."""

    name: str
    data: PairData
    rewards: dict[str, Spread]
    """Of y_ws, y_wt and y_l."""


class DataReport(Record):
    recipe: str
    pairs: tuple[PairsReport, ...]
    counts: dict[str, dict[str, JsonValue]]
    """Step -> what it kept and dropped, and why."""


def pairs_report(name: str, data: PairData, pairs: Iterable[Pair]) -> PairsReport:
    rows = [(pair.source.reward, pair.target.reward, pair.rejected.reward) for pair in pairs]
    found = {role: spread([row[place] for row in rows]) for place, role in enumerate(ROLES)}
    return PairsReport(name=name, data=data, rewards={role: one for role, one in found.items() if one is not None})


def data_grids(report: DataReport) -> list[Grid]:
    """The first pairs' tables open, those of other seeds and the counts folded."""
    found = [
        replace(grid, folded=place > 0)
        for place, one in enumerate(report.pairs)
        for grid in (_answers(one), _winners(one), _rewards(one), _lengths(one))
    ]
    return [grid for grid in (*found, replace(_counts(report.counts), folded=True)) if grid.rows]


def _answers(one: PairsReport) -> Grid:
    head = ("model", "answers", "failed", "truncated", "unrewarded", "mean tokens", "reward, mean", "sd", *QUANTILES)
    models = (*one.data.sources, one.data.target)
    return Grid(f"Answers to preference prompts, {one.name}", head, tuple(_answer_cells(model) for model in models))


def _answer_cells(one: ModelData) -> tuple[str, ...]:
    counts = (str(one.answers), str(one.failed), str(one.truncated), str(one.unrewarded))
    return (one.model, *counts, "-" if one.tokens is None else f"{one.tokens.mean:.0f}", *_cells(one.rewards))


def _cells(one: Spread | None, digits: int = 3) -> tuple[str, ...]:
    if one is None:
        return ("-",) * (2 + len(QUANTILES))
    return tuple(f"{value:.{digits}f}" for value in (one.mean, one.sd, *one.quantiles))


def _winners(one: PairsReport) -> Grid:
    pairs = max(one.data.pairs, 1)
    won = sorted(one.data.sources, key=lambda source: (-(source.wins or 0), source.model))
    rows = [(source.model, str(source.wins or 0), f"{100 * (source.wins or 0) / pairs:.1f}") for source in won]
    ahead = ("y_ws above y_wt", str(one.data.source_better), f"{100 * one.data.source_better / pairs:.1f}")
    title = f"Which source gave y_ws, {one.name} ({one.data.pairs} pairs of {one.data.prompts} prompts)"
    return Grid(title, ("source", "pairs", "%"), (*rows, ahead))


def _rewards(one: PairsReport) -> Grid:
    rows = [(f"{role} ({ROLES[role]})", *_cells(found)) for role, found in one.rewards.items()]
    rows += [("y_wt - y_l", *_cells(one.data.margins)), ("y_ws - y_wt", *_cells(one.data.source_margins))]
    return Grid(f"Rewards of the pairs, {one.name}", ("answer", "mean", "sd", *QUANTILES), tuple(rows))


def _lengths(one: PairsReport) -> Grid:
    found = (one.data.source_characters, one.data.target_characters, one.data.rejected_characters)
    rows = tuple((role, *_cells(lengths, 0)) for role, lengths in zip(ROLES, found, strict=True))
    return Grid(f"Characters of the pairs' answers, {one.name}", ("answer", "mean", "sd", *QUANTILES), rows)


def _counts(counts: Mapping[str, Mapping[str, JsonValue]]) -> Grid:
    rows = tuple((step, name, _plain(value)) for step, found in counts.items() for name, value in found.items())
    return Grid("What each step counted", ("step", "what", "count"), rows)


def _plain(value: JsonValue) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(found)}" for name, found in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_markdown(report: DataReport) -> str:
    parts = [f"# {escape_markdown(report.recipe)}: data", ""]
    for grid in data_grids(report):
        parts += [f"## {escape_markdown(grid.title)}", "", markdown_grid(grid)]
    return "\n".join(parts).rstrip() + "\n"
