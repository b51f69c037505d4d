"""Stage `align`: train every variant from the SFT checkpoint on the pairs; each gives a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from ..records import PreferencePair
from ..spec import VariantSpec
from ..steps import Counts, Recipe, Step, finished
from ..training.launch import KEEP, do_job, evaluation_of, fusion_of
from ..training.settings import PREFERENCE_DEFAULTS, TrainingJob, decisive, renamed, variant_settings

PAIRS = "pairs.jsonl"


def align_steps(recipe: Recipe, seed: int, sft: Step, pairs: Mapping[int, Step]) -> list[Step]:
    """Return one step per variant. `pairs` maps a number of sources to the step with their pairs."""
    every = len(recipe.spec.sources)
    return [
        _step(recipe, seed, name, variant, sft, pairs[variant.sources or every])
        for name, variant in recipe.variants.items()
    ]


def _step(recipe: Recipe, seed: int, name: str, variant: VariantSpec, sft: Step, pairs: Step) -> Step:
    settings: dict[str, JsonValue] = {
        "seed": seed,
        "method": variant.method,
        "training": decisive(variant_settings(recipe.spec, variant)),
        "max_prompt_length": recipe.spec.prompts.max_prompt_length,
    }
    if variant.method == "sft":
        settings["answers"] = variant.answers

    def work(folder: Path) -> Counts:
        return _train(recipe, seed, name, variant, step, sft, pairs)

    folder = recipe.variant(name, seed)
    step = Step("align", f"seed-{seed}/align/{name}", folder, settings, work, (sft, pairs), KEEP)
    return step


def _train(recipe: Recipe, seed: int, name: str, variant: VariantSpec, step: Step, sft: Step, pairs: Step) -> Counts:
    from ..training.rows import preference_rows, rows_folder
    from ..training.settings import settings as checked
    from ..training.templates import Rendering, load_tokenizer

    where = f"variants.{name}.training"
    hyperparameters = checked(variant_settings(recipe.spec, variant), variant.method, where)
    # All variants train on the same token ids, SFT variants too, so they see equal prompts in equal steps.
    shared = checked(PREFERENCE_DEFAULTS | renamed(recipe.spec.training), "preference", "training")
    style = shared.rendering | hyperparameters.rendering
    compat = bool(hyperparameters.trainer.get("official_compat", shared.trainer.get("official_compat", False)))
    rendering = Rendering(max_prompt_length=recipe.spec.prompts.max_prompt_length, official_compat=compat, **style)  # type: ignore[arg-type]
    tokenizer = load_tokenizer(str(sft.folder))
    record = finished(pairs)
    assert record is not None  # a step only starts when its inputs are finished
    folder = rows_folder(recipe.seed(seed) / "rows", texts=record.digest, tokenizer=tokenizer, how=rendering)
    rows = preference_rows(folder, read_pairs(pairs.folder / PAIRS), tokenizer, rendering)
    alpha = float(hyperparameters.trainer.get("alpha", 0.1)) if variant.method == "preference" else None  # type: ignore[arg-type]
    job = TrainingJob(
        method=variant.method,
        name=step.name,
        model=sft.folder,
        rows=rows.folder,
        answer=variant.answers,
        folder=step.folder,
        settings=hyperparameters,
        seed=seed,
        fusion=fusion_of(recipe, name, sources=variant.sources, alpha=alpha),
        evaluation=evaluation_of(recipe, name, seed),
    )
    return do_job(recipe, job, rows)


def read_pairs(path: Path) -> Iterator[PreferencePair]:
    """Yield the pairs in a `pairs.jsonl`."""
    with path.open("rb") as file:
        for line in file:
            yield PreferencePair.model_validate_json(line)
