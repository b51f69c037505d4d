"""Stage `align`, FuseRL's two methods: weighted SFT of the target (fusesft), and weighted preferences (fusepo).

Both read the sources' answers and rewards themselves: the `sft` prompts for fusesft, the `preference` prompts for
fusepo. The target's own answers are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef, Prompt, digest

from ..estimate import Estimator, PlanItem
from ..layout import ANSWERS, PROMPTS, REWARDS, Counts, Recipe
from ..pairs import Considered, Extremes, extremes, rated, read_prompts
from ..records import Part
from ..spec import Selection
from ..steps import Step, input_digests
from ..training.launch import (
    KEEP,
    do_job,
    evaluation_of,
    fusion_of,
    reference_estimate,
    training_estimate,
    training_gpus,
)
from ..training.settings import TrainingJob, decisive, variant_settings


def weighted_step(
    recipe: Recipe, seed: int, name: str, prompts: Step, answered: Sequence[Step], start: Step | None
) -> Step:
    """Return the step that trains one variant. `start` is None for fusesft, which trains the target itself.

    `answered` has the steps of the sources' answers and of their rewards, in the recipe's order.
    """
    spec, variant = recipe.spec, recipe.variants[name]
    chosen = Selection.of(spec, variant)
    used = [position for position, source in enumerate(spec.sources) if source.name in chosen.sources]
    answers = [answered[position] for position in used]
    rewards = [answered[len(spec.sources) + position] for position in used]
    considered = Considered(drop_truncated=spec.pairs.drop_truncated, samples=chosen.samples)
    part: Part = "sft" if variant.method == "fusesft" else "preference"
    settings: dict[str, JsonValue] = {
        "target": ModelRef.parse(spec.target).short,
        "seed": seed,
        "method": variant.method,
        "training": decisive(variant_settings(spec, variant)),
        "max_prompt_length": spec.prompts.max_prompt_length,
        "drop_truncated": spec.pairs.drop_truncated,
        "chat_template": None if spec.chat_template is None else Path(spec.chat_template).name,
        "pad_token": spec.pad_token,
        **({} if spec.save_dtype is None else {"save_dtype": spec.save_dtype}),
        **({"keep_reasoning": True} if spec.keep_reasoning else {}),
        **({"chat_template_kwargs": spec.chat_template_kwargs} if spec.chat_template_kwargs else {}),
        **({} if chosen.samples is None else {"samples": chosen.samples}),
    }

    def work(folder: Path) -> Counts:
        return _train(recipe, name, step, start, answered_by(prompts, answers, rewards, part, considered))

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        item = item.model_copy(update={"model": name})
        rows, keys = known.prompts.of(part) * len(used), variant_settings(spec, variant)
        if variant.method == "fusepo":
            reference = item.model_copy(update={"name": item.name.replace("/align/", "/reference/", 1)})
            yield reference_estimate(known, reference, rows, "fusepo")
        yield training_estimate(known, item, rows=rows, method=variant.method, answer="source", keys=keys)

    inputs = (prompts, *answers, *rewards, *(() if start is None else (start,)))
    folder = recipe.variant(name, seed)
    step = Step(
        "align",
        f"seed-{seed}/align/{name}",
        folder,
        settings,
        work,
        inputs,
        KEEP,
        seed=seed,
        gpus=training_gpus(recipe.spec),
        estimate=estimate,
    )
    return step


def answered_by(
    prompts: Step, answers: Sequence[Step], rewards: Sequence[Step], part: Part, considered: Considered
) -> Iterator[tuple[Prompt, list[Extremes]]]:
    """Yield each prompt of a part with the best and worst answer of every source that has one."""
    of_sources = [
        extremes(rated(source.folder / ANSWERS, reward.folder / REWARDS, considered))
        for source, reward in zip(answers, rewards, strict=True)
    ]
    for row in read_prompts(prompts.folder / PROMPTS, part):
        sources = [by_prompt[row.prompt.id] for by_prompt in of_sources if row.prompt.id in by_prompt]
        if sources:
            yield row.prompt, sources


def _train(
    recipe: Recipe, name: str, step: Step, start: Step | None, answered: Iterator[tuple[Prompt, list[Extremes]]]
) -> Counts:
    from ..training.checkpoint import model_folder
    from ..training.rows import rows_folder
    from ..training.settings import settings as checked
    from ..training.templates import Rendering, load_tokenizer, target_tokenizer
    from ..training.weighted import weighted_rows

    spec, variant = recipe.spec, recipe.variants[name]
    assert step.seed is not None
    hyperparameters = checked(variant_settings(spec, variant), variant.method, f"variants.{name}.training")
    rendering = Rendering(max_prompt_length=spec.prompts.max_prompt_length, **hyperparameters.rendering)  # type: ignore[arg-type]
    model = model_folder(spec.target) if start is None else start.folder
    # a trained model's folder has the recipe's template, its variables and the pad token already
    tokenizer = target_tokenizer(spec, str(model)) if start is None else load_tokenizer(str(model))
    tau = float(hyperparameters.trainer.get("tau", 1.0))  # type: ignore[arg-type]  # a checked number
    keep = spec.keep_reasoning
    sources = {made_by: sha for made_by, sha in input_digests(step).items() if start is None or made_by != start.name}
    made_from = {"inputs": sources, "method": variant.method, "tau": tau, "keep_reasoning": keep}
    made_from |= {} if variant.samples is None else {"samples": variant.samples}
    texts = digest(made_from | {"drop_truncated": spec.pairs.drop_truncated})
    folder = rows_folder(recipe.seed(step.seed) / "rows", texts=texts, tokenizer=tokenizer, how=rendering)
    rows = weighted_rows(
        folder,
        answered,
        tokenizer,
        rendering,
        tau=tau,
        with_rejected=variant.method == "fusepo",
        keep_reasoning=keep,
    )
    job = TrainingJob(
        method=variant.method,
        name=step.name,
        model=model,
        rows=rows.folder,
        folder=step.folder,
        settings=hyperparameters,
        seed=step.seed,
        chat_template=spec.chat_template if start is None else None,
        pad_token=spec.pad_token if start is None else None,
        template_kwargs=spec.chat_template_kwargs if start is None else {},
        save_dtype=spec.save_dtype,
        fusion=fusion_of(recipe, name, variant=variant),
        evaluation=evaluation_of(recipe, name, step.seed),
    )
    return do_job(recipe, job, rows)
