"""Read everything that is finished in a recipe's folder, and report what its pairs were made from.

The readers take all variants and seeds, whatever this command was narrowed to, and write nothing. The data report says
how often each source won, how rewards and lengths are distributed, and what was dropped and why; its figures come from
the pairs stage (`data.json`), the pairs themselves and the counts of the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from harness.analysis.leaderboard import readable, run_id
from harness.pages.text import escape_markdown
from harness.records import Record, ScoreCard
from harness.store import find_cards

from ..layout import DATA, DONE, PAIRS, PROMPTS, PreferencePair, PromptRow, Recipe, StepRecord, record_in, rows_in
from ..pairs import ModelData, PairData, Spread, spread
from ..spec import RecipeSpec
from .board import Measured, read_measured
from .curves import read_log
from .tables import PARENTS, TextGrid, markdown_grid

QUANTILES = ("5 %", "25 %", "median", "75 %", "95 %")
ROLES = {"y_ws": "best source answer", "y_wt": "the target's best", "y_l": "the target's worst"}
BASELINES = ("dpo", "sft-cont")
"""Variants that others are compared with by default: DPO on the target's own pairs, and SFT continued on the sources'
best answers. Without these two controls, a gain cannot be attributed to fusion."""
SCORES = "scores.json"


@dataclass(frozen=True)
class FinishedCheckpoint:
    """A finished checkpoint of the recipe."""

    model: str
    seed: int
    folder: Path
    record: StepRecord


def checkpoints(recipe: Recipe) -> Iterator[FinishedCheckpoint]:
    """Yield the finished checkpoints: `sft` and every variant, for every seed."""
    for seed in recipe.spec.seeds:
        every = (*(() if recipe.spec.starts_at_target else ("sft",)), *recipe.spec.variants, *recipe.spec.merges)
        for model in every:
            folder = recipe.checkpoint(model, seed)
            record = None if folder is None else record_in(folder)
            if folder is not None and record is not None:
                yield FinishedCheckpoint(model, seed, folder, record)


def baselines(spec: RecipeSpec) -> tuple[str, ...]:
    """Return the models that others are compared with, ending with those that all variants started from.

    If the recipe names no baselines, use those of BASELINES that it has.
    """
    configured = spec.evaluate.baselines
    chosen = tuple(name for name in BASELINES if name in spec.variants) if configured is None else configured
    return (*chosen, *(name for name in PARENTS if name not in chosen))


def read_all_measured(recipe: Recipe) -> list[Measured]:
    """Return the held-out rewards of every model and seed that is finished."""
    if record_in(recipe.prompts) is None:
        return []
    prompts = list(rows_in(recipe.prompts / PROMPTS, PromptRow))
    models = [(model, recipe.spec.seeds[0]) for model in recipe.fixed]
    models += [
        (model, seed) for seed in recipe.spec.seeds for model in ("sft", *recipe.spec.variants, *recipe.spec.merges)
    ]
    results: list[Measured] = []
    for model, seed in models:
        folder = recipe.held_out(model, seed)
        if record_in(folder) is not None:
            merge = recipe.spec.merges.get(model)
            is_fixed = model in recipe.fixed or (merge is not None and merge.seeds == "all")
            rows = read_measured(folder, model, seed, prompts, recipe.spec.evaluate)
            results += [replace(row, is_fixed=is_fixed) for row in rows]
    return results


class PairsReport(Record):
    """One set of pairs: those of one seed, one round, and one selection of the sources' answers."""

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


def read_data(recipe: Recipe) -> DataReport:
    """Return the counts of all finished steps and the report of every set of pairs."""
    reports: list[PairsReport] = []
    counts: dict[str, dict[str, JsonValue]] = {}
    depths = ("*", "*/*", "*/rounds/*/*")
    for path in [path for depth in depths for path in sorted(recipe.out.glob(f"{depth}/{DONE}"))]:
        name = str(path.parent.relative_to(recipe.out))
        record = record_in(path.parent)
        # hidden folders are steps that `--from` archived
        if record is not None and not name.startswith((".", "report")) and "/." not in name and record.counts:
            counts[name] = dict(record.counts)
    for seed in recipe.spec.seeds:
        rounds = sorted(recipe.seed(seed).glob("rounds/*/pairs"))
        for pairs in (recipe.seed(seed) / "pairs", *rounds):
            for folder in (pairs, *sorted(path.parent for path in pairs.glob(f"**/*/{DONE}"))):
                if "/." not in str(folder.relative_to(recipe.out)) and record_in(folder) is not None:
                    reports.append(_pairs_report(folder, str(folder.relative_to(recipe.out))))
    return DataReport(recipe=recipe.spec.name, pairs=tuple(reports), counts=counts)


def _pairs_report(folder: Path, name: str) -> PairsReport:
    pairs = rows_in(folder / PAIRS, PreferencePair)
    rows = [(pair.source.reward, pair.target.reward, pair.rejected.reward) for pair in pairs]
    spreads = {role: spread([row[column] for row in rows]) for column, role in enumerate(ROLES)}
    return PairsReport(
        name=name,
        data=PairData.model_validate_json((folder / DATA).read_bytes()),
        rewards={role: rewards for role, rewards in spreads.items() if rewards is not None},
    )


def read_logs(recipe: Recipe) -> dict[str, list[list[dict[str, float]]]]:
    """Return the training logs of each model, one per seed; seeds without a log are left out."""
    by_model: dict[str, list[list[dict[str, float]]]] = {}
    for checkpoint in checkpoints(recipe):
        log = read_log(checkpoint.folder)
        if log:
            by_model.setdefault(checkpoint.model, []).append(log)
    return by_model


class SuiteRuns(Record):
    """`scores.json` of a model's suites: which runs in the results folder belong to it.

    Other runs there may be of weights trained earlier, or of checkpoints evaluated during training.
    """

    model: str
    runs: tuple[str, ...]
    """Ids of the model's runs in the results folder."""


def read_suites(recipe: Recipe) -> list[tuple[Path, ScoreCard]]:
    """Return the cards of the current checkpoints, with their paths."""
    files = [*recipe.out.glob(f"suites/*/{SCORES}"), *recipe.out.glob(f"seed-*/suites/*/{SCORES}")]
    runs = {run for path in files for run in SuiteRuns.model_validate_json(path.read_bytes()).runs}
    return [(path, card) for path, card in readable(find_cards(recipe.results))[0] if run_id(card) in runs]


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
        (step, name, _count_text(value)) for step, step_counts in counts.items() for name, value in step_counts.items()
    )
    return TextGrid("Counts of each step", ("step", "name", "count"), rows)


def _count_text(value: JsonValue) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_count_text(count)}" for name, count in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_markdown(report: DataReport) -> str:
    """Return the data report as GitHub Markdown."""
    parts = [f"# {escape_markdown(report.recipe)}: data", ""]
    for grid in data_grids(report):
        parts += [f"## {escape_markdown(grid.title)}", "", markdown_grid(grid)]
    return "\n".join(parts).rstrip() + "\n"
