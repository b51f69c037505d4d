"""Stage `align`: train every variant; each gives a checkpoint.

Variants start from the SFT model, or from the variant that they come `after`, and learn from the pairs of that model's
samples. The weighted methods are in `weighted`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef

from ..estimate import Estimator, PlanItem, lines_of
from ..layout import PAIRS, Counts, Recipe
from ..likelihood import LOGPS
from ..records import PreferencePair, rows_in
from ..sampling import model_name, record_weights
from ..spec import Selection, VariantSpec, sources_loaded
from ..steps import Step, finished
from ..training.launch import (
    KEEP,
    do_job,
    evaluation_of,
    fusion_of,
    reference_estimate,
    training_estimate,
    training_gpus,
)
from ..training.settings import PREFERENCE_DEFAULTS, TrainingJob, decisive, has_reference, renamed, variant_settings


@dataclass(frozen=True)
class TrainedFrom:
    """What a variant is trained from: the step of its first weights, its pairs, and sources' log-probabilities."""

    start: Step
    pairs: Step
    logps: Sequence[Step] = ()


def align_steps(recipe: Recipe, seed: int, start: Step, pairs: Step) -> list[Step]:
    """Return one step per variant of a recipe with existing pairs."""
    return [align_step(recipe, seed, name, TrainedFrom(start, pairs)) for name in recipe.variants]


def align_step(recipe: Recipe, seed: int, name: str, origin: TrainedFrom) -> Step:
    """Return the step that trains one variant on pairs."""
    variant, pairs = recipe.variants[name], origin.pairs
    settings: dict[str, JsonValue] = {
        "seed": seed,
        "method": variant.method,
        "training": decisive(variant_settings(recipe.spec, variant)),
        "max_prompt_length": recipe.spec.prompts.max_prompt_length,
    }
    if variant.method in ("sft", "distill"):
        settings["answers"] = variant.answers
    if variant.method == "distill":
        settings["teacher"] = model_name(_teacher(recipe, variant))
    if recipe.spec.save_dtype is not None:
        settings["save_dtype"] = recipe.spec.save_dtype
    if recipe.spec.keep_reasoning:
        settings["keep_reasoning"] = True
    if recipe.spec.pairs.held_out:
        settings["held_out"] = recipe.spec.pairs.held_out

    def work(folder: Path) -> Counts:
        return _train(recipe, seed, name, step, origin)

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        if name in _referring(recipe, variant)[:1]:
            yield _reference(known, recipe, seed, variant, pairs)
        yield training_estimate(
            known,
            item.model_copy(update={"model": name}),
            rows=_rows(known, pairs),
            method=variant.method,
            answer=variant.answers,
            keys=variant_settings(recipe.spec, variant),
        )

    step = Step(
        "align",
        f"seed-{seed}/align/{name}",
        recipe.variant(name, seed),
        settings,
        work,
        (origin.start, pairs, *origin.logps),
        KEEP,
        seed=seed,
        gpus=training_gpus(recipe.spec),
        estimate=estimate,
    )
    return step


def _teacher(recipe: Recipe, variant: VariantSpec) -> ModelRef:
    (source,) = sources_loaded(recipe.spec, variant)
    assert source.model is not None  # the specification was checked
    return ModelRef.parse(source.model)


def _rows(known: Estimator, pairs: Step) -> int:
    if known.done(pairs.name, pairs.folder):
        return lines_of(pairs.folder / PAIRS)
    return known.prompts.of("preference")


def _referring(recipe: Recipe, variant: VariantSpec) -> list[str]:
    """Return the variants with the same pairs whose loss has a reference: they share its log-probabilities."""
    spec = recipe.spec
    return [
        name
        for name, sibling in recipe.variants.items()
        if (Selection.of(spec, sibling), sibling.after) == (Selection.of(spec, variant), variant.after)
        and sibling.method != "fusepo"
        and has_reference(sibling.method, variant_settings(spec, sibling))
    ]


def _reference(known: Estimator, recipe: Recipe, seed: int, variant: VariantSpec, pairs: Step) -> PlanItem:
    """Estimate the reference's log-probabilities, which the first variant that needs them stores beside the rows."""
    names = [f"seed-{seed}/align/{name}" for name in _referring(recipe, variant)]
    item = PlanItem(
        stage="align",
        name=pairs.name.replace("/pairs", "/reference", 1),
        seed=seed,
        model="reference",
        done=any(known.done(name, recipe.out / name) for name in names),
    )
    return reference_estimate(known, item, _rows(known, pairs), "preference")


def _train(recipe: Recipe, seed: int, name: str, step: Step, origin: TrainedFrom) -> Counts:
    from ..training.checkpoint import model_folder
    from ..training.rows import preference_rows, rows_folder
    from ..training.settings import settings as checked
    from ..training.templates import Rendering, load_tokenizer

    variant, pairs, start = recipe.variants[name], origin.pairs, origin.start
    where = f"variants.{name}.training"
    hyperparameters = checked(variant_settings(recipe.spec, variant), variant.method, where)
    # All variants train on the same token ids, SFT variants too, so they see equal prompts in equal steps.
    shared = checked(PREFERENCE_DEFAULTS | renamed(recipe.spec.training), "preference", "training")
    style = shared.rendering | hyperparameters.rendering
    compat = bool(hyperparameters.trainer.get("official_compat", shared.trainer.get("official_compat", False)))
    rendering = Rendering(max_prompt_length=recipe.spec.prompts.max_prompt_length, official_compat=compat, **style)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(str(start.folder))
    record = finished(pairs)
    assert record is not None  # a step only starts when its inputs are finished
    keep = recipe.spec.keep_reasoning
    texts = f"{record.digest} with reasoning" if keep else record.digest
    folder = rows_folder(recipe.seed(seed) / "rows", texts=texts, tokenizer=tokenizer, how=rendering)
    chosen = rows_in(pairs.folder / PAIRS, PreferencePair)
    rows = preference_rows(folder, chosen, tokenizer, rendering, keep_reasoning=keep)
    alpha = float(hyperparameters.trainer.get("alpha", 0.1)) if variant.method == "preference" else None  # type: ignore[arg-type]
    teacher = model_folder(str(_teacher(recipe, variant))) if variant.method == "distill" else None
    if teacher is not None:
        record_weights(step.folder, {str(variant.teacher): teacher}, step.name)
    job = TrainingJob(
        method=variant.method,
        name=step.name,
        model=start.folder,
        rows=rows.folder,
        answer=variant.answers,
        pairs=pairs.folder / PAIRS,
        logps=tuple(source.folder / LOGPS for source in origin.logps),
        teacher=teacher,
        folder=step.folder,
        settings=hyperparameters,
        seed=seed,
        held_out=recipe.spec.pairs.held_out,
        save_dtype=recipe.spec.save_dtype,
        fusion=fusion_of(recipe, name, variant=variant, alpha=alpha),
        evaluation=evaluation_of(recipe, name, seed),
    )
    return do_job(recipe, job, rows)
