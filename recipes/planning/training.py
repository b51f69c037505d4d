"""Estimates of the stages that train, sft and align, and of the reference's log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..spec import Training, VariantSpec
from .items import DeviceTime, PlanContext, PlanItem
from .measured import lines_of

FORWARD = 1 / 3
"""Cost of a forward pass relative to a training step: a backward pass is assumed to cost two forward passes."""
ANSWERS = 3
"""Answers per row: y_ws, y_wt, y_l."""


def sft_item(context: PlanContext, seed: int) -> PlanItem:
    """Estimate the SFT of a seed."""
    known = context.known
    tokens = known.prompts.of("sft") * (known.prompts.tokens.value + _source_length(context))
    tokens *= _epochs(context.recipe.spec.sft)
    return _trained(context, "sft", f"seed-{seed}/sft", context.recipe.seed(seed) / "sft", tokens=tokens, seed=seed)


def reference_items(context: PlanContext, seed: int) -> Iterator[PlanItem]:
    """Estimate the reference's log-probabilities of a seed, once per set of pairs. SimPO and SFT need none."""
    needing: dict[int | None, list[str]] = {}
    for name, variant in context.recipe.variants.items():
        if variant.method == "preference" and _key(context, variant, "loss_type") != "simpo":
            needing.setdefault(variant.sources, []).append(name)
    for sources, names in needing.items():
        part = "" if sources is None else f"/sources-{sources}"
        done = all(context.done("align", context.recipe.variant(name, seed)) for name in names)
        tokens = 0.0 if done else _pairs(context, seed, sources) * _row(context)
        item = PlanItem(stage="align", name=f"seed-{seed}/reference{part}", seed=seed, model="reference", done=done)
        item = item.model_copy(update={"prompt_tokens": tokens})
        time = DeviceTime(tokens * FORWARD, context.known.training, context.known.training_devices, "training, forward")
        yield context.timed(item, time)


def align_item(context: PlanContext, seed: int, name: str, variant: VariantSpec) -> PlanItem:
    """Estimate the training of one variant."""
    pairs = _pairs(context, seed, variant.sources)
    keys = context.recipe.spec.training | variant.training
    if variant.method == "preference":
        tokens = pairs * _row(context)
    else:
        length = _source_length(context) if variant.answers == "source" else context.known.target_answer.value
        tokens = pairs * (context.known.prompts.tokens.value + length)
    folder = context.recipe.variant(name, seed)
    item = _trained(context, "align", f"seed-{seed}/align/{name}", folder, tokens=tokens * _epochs(keys), seed=seed)
    return item.model_copy(update={"model": name})


def _trained(context: PlanContext, stage: str, name: str, folder: Path, *, tokens: float, seed: int) -> PlanItem:
    done = context.done(stage, folder)
    left = 0.0 if done else tokens
    item = PlanItem(stage=stage, name=name, seed=seed, model=stage, done=done, trained_tokens=left)
    return context.timed(item, DeviceTime(left, context.known.training, context.known.training_devices, "training"))


def _row(context: PlanContext) -> float:
    """Return the tokens of one row: the prompt, counted once, and three answers."""
    known = context.known
    return known.prompts.tokens.value + _source_length(context) + (ANSWERS - 1) * known.target_answer.value


def _source_length(context: PlanContext) -> float:
    sources = context.recipe.spec.sources
    return sum(context.known.source_answer(source.name).value for source in sources) / len(sources)


def _pairs(context: PlanContext, seed: int, sources: int | None) -> int:
    """Return the number of pairs of the finished stage, else one per preference prompt."""
    folder = context.recipe.seed(seed) / "pairs"
    folder = folder if sources is None else folder / f"sources-{sources}"
    if context.done("pairs", folder):
        return lines_of(folder / "pairs.jsonl")
    return context.known.prompts.of("preference")


def _key(context: PlanContext, variant: VariantSpec, key: str) -> object:
    return (context.recipe.spec.training | variant.training).get(key)


def _epochs(keys: Training) -> float:
    epochs = keys.get("num_train_epochs", 1)
    return float(epochs) if isinstance(epochs, int | float) else 1.0
