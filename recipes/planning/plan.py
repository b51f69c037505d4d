"""`harness train --dry-run`: estimate the calls, tokens, GPU-hours and dollars that each step of a recipe still needs.

Finished steps cost nothing. In a step that was interrupted, rows that exist already are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from pydantic import JsonValue

from harness.errors import IncompleteError
from harness.records import Record

from ..pipeline import all_steps
from ..recipe import STAGES, Recipe, check_span
from ..steps import is_done
from .asking import held_out_item, source_item, source_reward_item, suite_items, target_items
from .items import PlanContext, PlanItem, total
from .measured import Measurements
from .training import align_item, reference_items, sft_item


class RecipePlan(Record):
    """The remaining work of a recipe."""

    recipe: str
    items: tuple[PlanItem, ...]
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
            "notes": list(self.notes),
        }


def make_plan(recipe: Recipe, *, first: str | None = None, last: str | None = None) -> RecipePlan:
    """Return what `harness train` still has to do, rerunning everything from stage `first` and stopping after `last`.

    Raise ConfigError if the number of prompts is unknown or a finished step was made with other settings, and DataError
    if the data set cannot be read.
    """
    check_span(first, last)
    start = STAGES.index(first) if first else len(STAGES)
    _check_what_is_done(recipe, start)
    context = PlanContext(recipe, Measurements(recipe), start)
    until = len(STAGES) if last is None else STAGES.index(last) + 1
    # The target's rewards belong to the stage `rewards`, but need the answers of the later stage `target`.
    with_target = until > STAGES.index("target")
    items = tuple(
        item
        for item in _items(context)
        if STAGES.index(item.stage) < until and (with_target or item.stage != "rewards" or item.seed is None)
    )
    return RecipePlan(recipe=recipe.spec.name, items=items, notes=tuple(dict.fromkeys(_notes(context, items))))


def _check_what_is_done(recipe: Recipe, start: int) -> None:
    """Raise ConfigError if a finished step was made with other settings, because the run would stop there."""
    for step in all_steps(recipe):
        if STAGES.index(step.stage) < start:
            with suppress(IncompleteError):  # raised if an earlier step is not done; then this one is not done either
                is_done(step)


def _items(context: PlanContext) -> Iterator[PlanItem]:
    recipe = context.recipe
    yield PlanItem(stage="prompts", name="prompts", done=context.done("prompts", recipe.prompts))
    yield from (source_item(context, source) for source in recipe.spec.sources)
    yield from (source_reward_item(context, source) for source in recipe.spec.sources)
    for seed in recipe.seeds:
        yield sft_item(context, seed)
        yield from target_items(context, seed)
        for sources in sorted({variant.sources for variant in recipe.variants.values()}, key=lambda count: count or 0):
            name = f"seed-{seed}/pairs" if sources is None else f"seed-{seed}/pairs/sources-{sources}"
            yield PlanItem(stage="pairs", name=name, seed=seed, done=context.done("pairs", recipe.out / name))
        yield from reference_items(context, seed)
        yield from (align_item(context, seed, name, variant) for name, variant in recipe.variants.items())
        for model in ("target", "sft", *recipe.variants):
            if model != "target" or seed == recipe.seeds[0]:
                yield held_out_item(context, seed, model)
    yield from suite_items(context)
    yield PlanItem(stage="report", name="report", done=context.done("report", recipe.report))


def _notes(context: PlanContext, items: tuple[PlanItem, ...]) -> Iterator[str]:
    known, spec = context.known, context.recipe.spec
    parts = ", ".join(f"{count:,} {part}" for part, count in known.prompts.parts.items())
    yield f"prompts: {parts} (from {known.prompts.by}); {known.prompts.tokens.value:.0f} tokens each, " + (
        f"by {known.prompts.tokens.by}"
    )
    lengths = {known.source_answer(source.name) for source in spec.sources}
    for length in sorted(lengths, key=lambda mean: mean.value):
        yield f"a source's answer: {length.value:.0f} tokens, by {length.by}"
    yield f"the target's answer: {known.target_answer.value:.0f} tokens, by {known.target_answer.by}"
    yield f"training on {known.training_devices} device(s); reference log-probabilities as a third of a training pass"
    for rate in sorted({rate for item in items for rate in item.rates}):
        yield f"speed of {rate}"
    if any(item.gpu_hours is None for item in items):
        yield "the speed of some steps is unknown: set `rates:` in the recipe, or finish one such step first"
    if spec.rates.gpu_hour_price is None:
        yield "dollars cover endpoints only: set `rates.gpu_hour_price` to include devices"
    if spec.evaluate.suite is not None:
        yield "calls of the suites' judges are not counted: see `harness run --dry-run`"
