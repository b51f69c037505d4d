"""`harness train --dry-run`: what each step of a recipe still needs in calls, tokens, GPU-hours and dollars.

Every step estimates its own remaining work (`Step.estimate`); this module adds the estimates up and shows them.
Finished steps cost nothing. In a step that was interrupted, rows that exist already are not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import NamedTuple

from pydantic import JsonValue

from harness.pages.text import FittedTable, rich_table
from harness.records import Record
from harness.records.errors import IncompleteError

from .estimate import Estimator, PlanItem, PlannedStep, simulate
from .layout import PARTS, STAGES, Recipe
from .pipeline import all_steps, before, check_span, up_to
from .schedule import check_fits, job_of
from .spec import RIVALS
from .steps import Step, gpu_hours, is_done, remaining
from .training.launch import training_devices

SUMS = ("calls", "calls_done", "prompt_tokens", "answer_tokens", "trained_tokens")
KNOWN = ("gpu_hours", "hours", "dollars")


def total(items: Iterable[PlanItem]) -> dict[str, JsonValue]:
    """Return sums over steps, as JSON. Unknown values are left out of a sum, and `…_unknown` counts them."""
    listed = list(items)
    out: dict[str, JsonValue] = {"steps": len(listed), "done": sum(item.done for item in listed)}
    for name in SUMS:
        out[name] = sum(getattr(item, name) for item in listed)
    for name in KNOWN:
        values = [getattr(item, name) for item in listed]
        out[name] = sum(value for value in values if value is not None)
        out[f"{name}_unknown"] = sum(value is None for value in values)
    return out


class RecipePlan(Record):
    """The remaining work of a recipe."""

    recipe: str
    items: tuple[PlanItem, ...]
    devices: int | None = None
    """GPUs that the steps share."""
    schedule: tuple[PlannedStep, ...] = ()
    """When each step runs on these GPUs; empty if their number or the speed of a step is unknown."""
    notes: tuple[str, ...]
    """What the estimates are based on, one sentence each."""

    def by_stage(self) -> dict[str, list[PlanItem]]:
        """Return the items of each stage that has any, in the order of the stages."""
        groups = {stage: [item for item in self.items if item.stage == stage] for stage in STAGES}
        return {stage: items for stage, items in groups.items() if items}

    def by_model(self, *stages: str) -> dict[str, list[PlanItem]]:
        """Return the items of these stages per source or variant, over all seeds."""
        groups: dict[str, list[PlanItem]] = {}
        for item in self.items:
            if item.stage in stages and item.model is not None:
                groups.setdefault(item.model, []).append(item)
        return groups

    def by_source(self) -> dict[str, list[PlanItem]]:
        """Return the items of each source: its answers and their rewards."""
        groups = self.by_model("sources", "rewards")
        return {
            name: seedless
            for name, items in groups.items()
            if (seedless := [item for item in items if item.seed is None])
        }

    @property
    def seeds(self) -> list[int]:
        return sorted({item.seed for item in self.items if item.seed is not None})

    def of_seed(self, seed: int) -> list[PlanItem]:
        return [item for item in self.items if item.seed == seed]

    @property
    def wall_hours(self) -> float:
        """Hours from the first step's start to the last one's end on the recipe's GPUs."""
        return max((step.start + step.hours for step in self.schedule), default=0.0)

    @property
    def busy_devices(self) -> float:
        """How many of the GPUs work on average. Those that load a model count as idle."""
        return busy_of(self.schedule, self.wall_hours)

    def machine(self) -> dict[str, JsonValue]:
        """Return the schedule as printed by `--json`."""
        steps: list[JsonValue] = [
            {**asdict(step), "busy_devices": busy_of([step], step.hours)} for step in self.schedule if step.devices
        ]
        sums = {"wall_hours": self.wall_hours, "busy_devices": self.busy_devices}
        return {"devices": self.devices, **sums, "steps": steps}

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the plan as printed by `--json`."""
        return {
            "recipe": self.recipe,
            "total": total(self.items),
            "by_stage": {stage: total(items) for stage, items in self.by_stage().items()},
            "by_seed": {str(seed): total(self.of_seed(seed)) for seed in self.seeds},
            "by_source": {name: total(items) for name, items in self.by_source().items()},
            "by_variant": {name: total(items) for name, items in self.by_model("align", "evaluate").items()},
            "steps": [item.model_dump(mode="json") for item in self.items],
            **({"machine": self.machine()} if self.schedule else {}),
            "notes": list(self.notes),
        }


def make_plan(recipe: Recipe, *, first: str | None = None, last: str | None = None) -> RecipePlan:
    """Return what `harness train` still has to do, rerunning everything from stage `first` and stopping after `last`.

    Raise ConfigError if the number of prompts is unknown or a finished step was made with other settings, and DataError
    if the data set cannot be read.
    """
    check_span(first, last)
    steps = all_steps(recipe)
    earlier = before(steps, first)
    check_finished(earlier)
    estimator = Estimator(recipe, frozenset(step.name for step in earlier))
    selected = steps if last is None else up_to(steps, last)
    work = remaining(estimator, selected)
    items = tuple(item for step in selected for item in work[step.name])
    devices = recipe.spec.devices
    return RecipePlan(
        recipe=recipe.spec.name,
        items=items,
        devices=devices,
        schedule=() if devices is None else _schedule(recipe, selected, work, devices),
        notes=tuple(dict.fromkeys(_notes(estimator, items))),
    )


def _schedule(
    recipe: Recipe, steps: Sequence[Step], work: Mapping[str, Sequence[PlanItem]], devices: int
) -> tuple[PlannedStep, ...]:
    check_fits(steps, [str(number) for number in range(devices)])
    hours = gpu_hours(work)
    if len(hours) < len(work):
        return ()
    jobs = [job_of(step, hours[step.name]) for step in steps if hours[step.name] or not step.gpus.unit]
    return simulate(jobs, devices, recipe.spec.rates.start_minutes / 60)


def busy_of(steps: Collection[PlannedStep], hours: float) -> float:
    """Return how many GPUs work on average over so many hours."""
    return sum(step.gpu_hours for step in steps) / hours if hours else 0.0


def check_finished(steps: Iterable[Step]) -> None:
    """Raise ConfigError if one of the steps was made with other settings, because the run would stop there."""
    for step in steps:
        with suppress(IncompleteError):  # raised if an earlier step is not done; then this one is not done either
            is_done(step)


def _notes(estimator: Estimator, items: tuple[PlanItem, ...]) -> Iterator[str]:
    spec = estimator.recipe.spec
    generation = spec.rates.generation
    if isinstance(generation, int | float) and len(spec.sources) > 1:
        yield (
            f"GPU-hours of the {len(spec.sources)} sources assume {generation:,.0f} tokens per second and GPU for "
            "each, whatever its size: set `rates.generation` to one number per source"
        )
    parts = ", ".join(f"{estimator.prompts.parts[part]:,} {part}" for part in PARTS)
    yield f"prompts: {parts} (from {estimator.prompts.by}); {estimator.prompts.tokens.value:.0f} tokens each, " + (
        f"by {estimator.prompts.tokens.by}"
    )
    lengths = {estimator.source_answer(source.name) for source in spec.sources}
    for length in sorted(lengths, key=lambda mean: mean.value):
        yield f"a source's answer: {length.value:.0f} tokens, by {length.by}"
    yield f"the target's answer: {estimator.target_answer.value:.0f} tokens, by {estimator.target_answer.by}"
    yield f"training on {training_devices(spec)} device(s); reference log-probabilities as a third of a training pass"
    if ensembles := [name for name in estimator.recipe.rivals if name in RIVALS]:
        yield f"{', '.join(ensembles)}: models are loaded in turn, and only the start of the first is in the hours"
    if spec.devices is not None:
        yield f"{spec.devices} GPUs; a model starts in {spec.rates.start_minutes:g} minutes, by rates.start_minutes"
    else:
        yield "hours are those of steps one after another: set `devices` to the number of GPUs that they share"
    for rate in sorted({rate for item in items for rate in item.rates}):
        yield f"speed of {rate}"
    if any(item.gpu_hours is None for item in items):
        yield "the speed of some steps is unknown: set `rates:` in the recipe, or finish one such step first"
    if spec.rates.gpu_hour_price is None:
        yield "dollars cover endpoints only: set `rates.gpu_hour_price` to include devices"
    if spec.evaluate.suite is not None:
        yield "calls of the suites' judges are not counted: see `harness run --dry-run`"


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


def plan_tables(plan: RecipePlan) -> list[FittedTable]:
    """Return a table per stage with totals, then per source, variant and seed, then when the steps run."""
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
    # the table of the machine has its own hours
    columns = [column for column in COLUMNS if not (plan.schedule and column.key == "hours")]
    return [*(_table(name, rows, columns) for name, rows in parts), *([_machine_table(plan)] if plan.schedule else [])]


def _machine_table(plan: RecipePlan) -> FittedTable:
    rows: list[tuple[str, ...]] = []

    def add(name: str, devices: str, start: float, hours: float, steps: Collection[PlannedStep]) -> None:
        sums = (start, hours, sum(step.gpu_hours for step in steps), busy_of(steps, hours))
        rows.append((name, devices, *(quantity(value, 2) for value in sums)))

    for step in plan.schedule:
        if step.devices:
            add(step.name, str(step.devices), step.start, step.hours, [step])
    add("all", str(plan.devices), 0.0, plan.wall_hours, plan.schedule)
    title = f"on {plan.devices} GPUs: when each step runs, and how many GPUs work"
    return rich_table(title, ("", "GPUs", "start (h)", "hours", "GPU-hours", "busy"), rows, ("",))


def _table(title: str, rows: Sequence[tuple[str, Sequence[PlanItem]]], columns: Sequence[PlanColumn]) -> FittedTable:
    # Columns that are empty in every row are left out.
    sums = [total(items) for _, items in rows]
    cells = {column.head: [_cell(row_sums, column) for row_sums in sums] for column in columns}
    shown = {head: column for head, column in cells.items() if any(cell != "-" for cell in column)}
    lines = []
    for index, (label, items) in enumerate(rows):
        counts = (str(len(items)), str(sums[index]["done"] or "-"))
        lines.append((label, *counts, *(column[index] for column in shown.values())))
    order = ("", "GPU-hours", "hours", "US $", "calls", "done", "steps", "trained", "written", "read")
    return rich_table(title, ("", "steps", "done", *shown), lines, ("",), order)


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
