"""Draw a variant's training curves from its logs: losses, rewards of the three answers, margins, alpha.

Each seed is a thin line and their mean a thick one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue, ValidationError

from harness.analysis.leaderboard import readable, run_id
from harness.pages.charts import Axis, Drawing, axis
from harness.pages.text import escape_markdown
from harness.records import Record, ScoreCard
from harness.records.errors import ConfigError
from harness.store import find_cards

from ..pairs import PROMPTS, ModelData, PairData, Spread, spread
from ..records import PreferencePair, PromptRow
from ..spec import RecipeSpec
from ..steps import DONE, Recipe, StepRecord
from .board import Measured, read_measured
from .tables import PARENTS, TextGrid, markdown_grid

LOG = "training_log.jsonl"
"""One line per log call of the trainer: `step` and metrics by name."""
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 340.0, 190.0, 56.0, 42.0, 20.0
POINTS = 300
"""Maximum number of points per line; if there are more, neighbours are averaged."""

Log = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Series:
    """One line of a panel: a metric of the trainer, and its label."""

    label: str
    metric: str


@dataclass(frozen=True)
class Panel:
    """One chart, with the series drawn in it."""

    title: str
    series: tuple[Series, ...]


PANELS = (
    Panel("loss", (Series("training", "loss"), Series("evaluation", "eval_loss"))),
    Panel(
        "implicit rewards",
        (
            Series("source, y_ws", "rewards/source_chosen"),
            Series("target, y_wt", "rewards/target_chosen"),
            Series("rejected, y_l", "rewards/rejected"),
        ),
    ),
    Panel("margin", (Series("weighted chosen less rejected", "rewards/margins"),)),
    Panel("alpha", (Series("weight of the source's answer", "alpha"),)),
)
"""Metrics by the trainer's names. A panel without values is left out (SFT only has a loss)."""


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the numbers in `training_log.jsonl`, one dict per step; empty if there is no file.

    If a step was logged twice, the last line wins. Raises ConfigError if the file cannot be read.
    """
    path = folder / LOG
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    by_step: dict[float, dict[str, float]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a killed run can leave a torn line; its step was logged again
        numbers = {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}
        if "step" in numbers:
            by_step.setdefault(numbers["step"], {}).update(numbers)
    return [by_step[step] for step in sorted(by_step)]


def training_curves(name: str, logs: Sequence[Log]) -> Drawing | None:
    """Return the curves, two panels per row; None if no log has a number to draw."""
    panels = [panel for panel in PANELS if any(_line(log, series.metric) for log in logs for series in panel.series)]
    if not panels:
        return None
    pairs = [panels[start : start + 2] for start in range(0, len(panels), 2)]
    heights = [PANEL_HEIGHT + GAP + 18 * max(len(panel.series) for panel in pair) for pair in pairs]
    drawing = Drawing(2 * PANEL_WIDTH, TOP + sum(heights), f"Training curves of {name}")
    drawing.text(LEFT, 16, f"{name}: {len(logs)} seed{'' if len(logs) == 1 else 's'}", css="title")
    for row, pair in enumerate(pairs):
        for column, panel in enumerate(pair):
            _panel(drawing, panel, logs, PANEL_WIDTH * column, TOP + sum(heights[:row]))
    return drawing


def _panel(drawing: Drawing, panel: Panel, logs: Sequence[Log], left: float, top: float) -> None:
    lines = {series.label: [_line(log, series.metric) for log in logs] for series in panel.series}
    lines = {label: drawable for label, each in lines.items() if (drawable := [line for line in each if line])}
    points = [point for each in lines.values() for line in each for point in line]
    across = axis([x for x, _ in points], left + LEFT, left + PANEL_WIDTH - 10, pad=0.0)
    if across.low == across.high:
        across = axis([x for x, _ in points], left + LEFT, left + PANEL_WIDTH - 10)
    bottom = top + PANEL_HEIGHT - 30
    upwards = axis([y for _, y in points], bottom, top + 12)
    drawing.text(left + LEFT, top, panel.title, css="small")
    _axes(drawing, across, upwards)
    for position, (label, each) in enumerate(lines.items()):
        css = f"l{position + 1}"
        if len(each) > 1:
            for line in each:
                drawing.path([(across(x), upwards(y)) for x, y in line], f"line {css} thin")
        drawing.path([(across(x), upwards(y)) for x, y in _mean(each)], f"line {css}")
        y = bottom + 34 + 18 * position
        drawing.line(left + LEFT, y - 4, left + LEFT + 18, y - 4, css)
        drawing.text(left + LEFT + 24, y, label, css="small")


def _axes(drawing: Drawing, across: Axis, upwards: Axis) -> None:
    for tick in upwards.ticks(4):
        drawing.line(across.start, upwards(tick), across.end, upwards(tick), "grid")
        drawing.text(across.start - 6, upwards(tick) + 4, f"{tick:g}", anchor="end", css="small muted")
    for tick in across.ticks(5):
        drawing.text(across(tick), upwards.start + 15, f"{tick:g}", anchor="middle", css="small muted")
    drawing.line(across.start, upwards.start, across.end, upwards.start, "axis")


def _line(log: Log, metric: str) -> list[tuple[float, float]]:
    """Return at most POINTS pairs (step, value), each the mean of its neighbours."""
    points = [(row["step"], row[metric]) for row in log if metric in row]
    size = -(-len(points) // POINTS) or 1
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def _mean(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean over the seeds, at the steps that all of them have."""
    maps = [dict(line) for line in lines]
    steps = [x for x, _ in lines[0] if all(x in values for values in maps)]
    return [(x, sum(values[x] for values in maps) / len(maps)) for x in steps]


# ----------------------------------------------------------------------------------------------------
# Build the data report: how often each source won, distributions of rewards and lengths, what was dropped and why.
# The figures come from the pairs stage (`data.json`), the pairs themselves and the counts of the steps. Pure.


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


# ----------------------------------------------------------------------------------------------------
# Read everything that is finished in a recipe's folder, whatever variants and seeds this command was narrowed to. It
# writes nothing.


BASELINES = ("dpo", "sft-cont")
"""Variants that others are compared with by default: DPO on the target's own pairs, and SFT continued on the sources'
best answers. Without these two controls, a gain cannot be attributed to fusion."""


SCORES = "scores.json"


def record_in(folder: Path) -> StepRecord | None:
    """Return the record of a step's folder, or None if it is unfinished. Raise ConfigError if it cannot be read."""
    path = folder / DONE
    try:
        return StepRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


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
        for model in ("sft", *recipe.spec.variants):
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
    path = recipe.prompts / PROMPTS
    if record_in(recipe.prompts) is None:
        return []
    with path.open("rb") as file:
        prompts = [PromptRow.model_validate_json(line) for line in file]
    models = [("target", recipe.spec.seeds[0])]
    models += [(model, seed) for seed in recipe.spec.seeds for model in ("sft", *recipe.spec.variants)]
    results: list[Measured] = []
    for model, seed in models:
        folder = recipe.held_out(model, seed)
        if record_in(folder) is not None:
            results += read_measured(folder, model, seed, prompts, recipe.spec.evaluate)
    return results


def read_data(recipe: Recipe) -> DataReport:
    """Return the counts of all finished steps and the report of every set of pairs."""
    reports: list[PairsReport] = []
    counts: dict[str, dict[str, JsonValue]] = {}
    for path in sorted(recipe.out.glob(f"*/{DONE}")) + sorted(recipe.out.glob(f"*/*/{DONE}")):
        name = str(path.parent.relative_to(recipe.out))
        record = record_in(path.parent)
        if record is not None and not name.startswith((".", "report")) and "/." not in name and record.counts:
            counts[name] = dict(record.counts)
    for seed in recipe.spec.seeds:
        pairs = recipe.seed(seed) / "pairs"
        for folder in (pairs, *sorted(pairs.glob("sources-*"))):
            if record_in(folder) is not None:
                reports.append(_pairs(folder, str(folder.relative_to(recipe.out))))
    return DataReport(recipe=recipe.spec.name, pairs=tuple(reports), counts=counts)


def _pairs(folder: Path, name: str) -> PairsReport:
    data = PairData.model_validate_json((folder / "data.json").read_bytes())
    with (folder / "pairs.jsonl").open("rb") as file:
        return pairs_report(name, data, (PreferencePair.model_validate_json(line) for line in file))


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
