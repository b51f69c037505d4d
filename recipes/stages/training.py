"""Fine-tune the target on the sources' best answers (stage `sft`), and train every variant (stage `align`).

A variant of pairs starts from the SFT model, or from the variant that it comes `after`, and learns from the pairs of
that model's samples. FuseRL's two methods, fusesft and fusepo, read the sources' answers and rewards themselves, so
they need none of the target's own answers. Each step gives one checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef, Prompt, digest

from ..estimate import Estimator, PlanItem, lines_of
from ..layout import ANSWERS, PAIRS, PROMPTS, REWARDS, Counts, Part, PreferencePair, Recipe, rows_in
from ..likelihood import LOGPS
from ..pairs import Considered, Extremes, best_source_answers, extremes, rated, read_prompts
from ..sampling import model_name, record_weights
from ..spec import RecipeSpec, Selection, VariantSpec, sources_loaded
from ..steps import Step, finished, input_digests
from ..training.launch import (
    KEEP,
    do_job,
    evaluation_of,
    fusion_of,
    reference_estimate,
    training_estimate,
    training_gpus,
)
from ..training.settings import (
    PREFERENCE_DEFAULTS,
    TrainingJob,
    decisive,
    has_reference,
    renamed,
    sft_settings,
    variant_settings,
)

MODEL_FILES = ("config.json", "generation_config.json", "model")
"""Beginnings of the names of a model's files, without its tokenizer's."""


def sft_step(recipe: Recipe, seed: int, prompts: Step, answers: Sequence[Step], rewards: Sequence[Step]) -> Step:
    """Return the step. `answers` and `rewards` have one step per source, in the recipe's order."""
    spec = recipe.spec
    if spec.starts_at_target:
        return start_step(recipe, seed)
    settings = _from_sources(spec, seed, sft_settings(spec))

    def work(folder: Path) -> Counts:
        return _train_sft(recipe, seed, step, prompts, answers, rewards)

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        item = item.model_copy(update={"model": "sft"})
        rows, keys = estimator.prompts.of("sft"), sft_settings(spec)
        yield training_estimate(estimator, item, rows=rows, method="sft", answer="source", keys=keys)

    inputs = (prompts, *answers, *rewards)
    name, folder = f"seed-{seed}/sft", recipe.sft(seed)
    step = Step(
        "sft", name, folder, settings, work, inputs, KEEP, seed=seed, gpus=training_gpus(spec), estimate=estimate
    )
    return step


def _from_sources(spec: RecipeSpec, seed: int, training: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return what decides a training of the target on answers of sources, with its training keys."""
    settings: dict[str, JsonValue] = {
        "target": ModelRef.parse(spec.target).short,
        "seed": seed,
        "training": decisive(training),
        "max_prompt_length": spec.prompts.max_prompt_length,
        "drop_truncated": spec.pairs.drop_truncated,
        **_template(spec),
    }
    if spec.save_dtype is not None:
        settings["save_dtype"] = spec.save_dtype
    if spec.keep_reasoning:
        settings["keep_reasoning"] = True
    return settings


def _template(spec: RecipeSpec) -> dict[str, JsonValue]:
    settings: dict[str, JsonValue] = {
        "chat_template": None if spec.chat_template is None else Path(spec.chat_template).name,
        "pad_token": spec.pad_token,
    }
    return settings | ({"chat_template_kwargs": spec.chat_template_kwargs} if spec.chat_template_kwargs else {})


def start_step(recipe: Recipe, seed: int) -> Step:
    """Return the step that takes the place of SFT: the target itself, its weights as links."""
    spec = recipe.spec
    settings = {"target": ModelRef.parse(spec.target).short, "start": "target"} | _template(spec)

    def work(folder: Path) -> Counts:
        from ..training.checkpoint import model_folder
        from ..training.templates import target_tokenizer

        model = model_folder(spec.target)
        target_tokenizer(spec, str(model)).save_pretrained(folder)
        for path in sorted(model.iterdir()):
            link = folder / path.name
            if path.name.startswith(MODEL_FILES) and path.suffix in (".json", ".safetensors") and not link.is_symlink():
                link.symlink_to(path.resolve())
        return {}

    return Step("sft", f"seed-{seed}/sft", recipe.sft(seed), settings, work, (), KEEP, seed=seed)


def _train_sft(
    recipe: Recipe, seed: int, step: Step, prompts: Step, answers: Sequence[Step], rewards: Sequence[Step]
) -> Counts:
    from ..training.checkpoint import model_folder
    from ..training.rows import answer_rows, rows_folder
    from ..training.settings import settings as checked
    from ..training.templates import Rendering, target_tokenizer

    spec = recipe.spec
    hyperparameters = checked(sft_settings(spec), "sft", "sft")
    model = model_folder(spec.target)
    tokenizer = target_tokenizer(spec, str(model))
    rendering = Rendering(max_prompt_length=spec.prompts.max_prompt_length, **hyperparameters.rendering)  # type: ignore[arg-type]
    best = best_source_answers(
        prompts.folder / PROMPTS,
        [source.folder / ANSWERS for source in answers],
        [source.folder / REWARDS for source in rewards],
        "sft",
        drop_truncated=spec.pairs.drop_truncated,
    )
    made_from = {"inputs": input_digests(step), "drop_truncated": spec.pairs.drop_truncated}
    texts = digest(made_from | ({"keep_reasoning": True} if spec.keep_reasoning else {}))
    folder = rows_folder(recipe.seed(seed) / "rows", texts=texts, tokenizer=tokenizer, how=rendering)
    answered = ((prompt, chosen.trained(keep_reasoning=spec.keep_reasoning)) for prompt, chosen in best)
    rows = answer_rows(folder, answered, tokenizer, rendering)
    job = TrainingJob(
        method="sft",
        name=step.name,
        model=model,
        rows=rows.folder,
        folder=step.folder,
        settings=hyperparameters,
        seed=seed,
        chat_template=spec.chat_template,
        pad_token=spec.pad_token,
        template_kwargs=spec.chat_template_kwargs,
        save_dtype=spec.save_dtype,
        fusion=fusion_of(recipe, "sft"),
        evaluation=evaluation_of(recipe, "sft", seed),
    )
    return do_job(recipe, job, rows)


# -------------------------------------------------------------------------------- align: variants that learn from pairs


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

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        if name in _referring(recipe, variant)[:1]:
            yield _reference(estimator, recipe, seed, variant, pairs)
        yield training_estimate(
            estimator,
            item.model_copy(update={"model": name}),
            rows=_rows(estimator, pairs),
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


def _rows(estimator: Estimator, pairs: Step) -> int:
    if estimator.done(pairs.name, pairs.folder):
        return lines_of(pairs.folder / PAIRS)
    return estimator.prompts.of("preference")


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


def _reference(estimator: Estimator, recipe: Recipe, seed: int, variant: VariantSpec, pairs: Step) -> PlanItem:
    """Estimate the reference's log-probabilities, which the first variant that needs them stores beside the rows."""
    names = [f"seed-{seed}/align/{name}" for name in _referring(recipe, variant)]
    item = PlanItem(
        stage="align",
        name=pairs.name.replace("/pairs", "/reference", 1),
        seed=seed,
        model="reference",
        done=any(estimator.done(name, recipe.out / name) for name in names),
    )
    return reference_estimate(estimator, item, _rows(estimator, pairs), "preference")


def _train(recipe: Recipe, seed: int, name: str, step: Step, origin: TrainedFrom) -> Counts:
    from ..training.checkpoint import model_folder
    from ..training.rows import preference_rows, rows_folder
    from ..training.settings import settings as checked
    from ..training.templates import Rendering, load_tokenizer

    variant, pairs, start = recipe.variants[name], origin.pairs, origin.start
    section = f"variants.{name}.training"
    hyperparameters = checked(variant_settings(recipe.spec, variant), variant.method, section)
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


# -------------------------------------------------------------------------------------------------------- align: FuseRL
# fusesft learns from the `sft` prompts and fusepo from the `preference` prompts, so no prompt is used by both.


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
    settings = _from_sources(spec, seed, variant_settings(spec, variant)) | {"method": variant.method}
    if chosen.samples is not None:
        settings["samples"] = chosen.samples

    def work(folder: Path) -> Counts:
        return _train_weighted(recipe, name, step, start, answered_by(prompts, answers, rewards, part, considered))

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        item = item.model_copy(update={"model": name})
        rows, keys = estimator.prompts.of(part) * len(used), variant_settings(spec, variant)
        if variant.method == "fusepo":
            reference = item.model_copy(update={"name": item.name.replace("/align/", "/reference/", 1)})
            yield reference_estimate(estimator, reference, rows, "fusepo")
        yield training_estimate(estimator, item, rows=rows, method=variant.method, answer="source", keys=keys)

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


def _train_weighted(
    recipe: Recipe, name: str, step: Step, start: Step | None, answered: Iterator[tuple[Prompt, list[Extremes]]]
) -> Counts:
    from ..training.checkpoint import model_folder
    from ..training.rows import rows_folder
    from ..training.settings import settings as checked
    from ..training.templates import Rendering, load_tokenizer, target_tokenizer
    from ..training.weighted import RowContent, weighted_rows

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
    content = RowContent(tau=tau, with_rejected=variant.method == "fusepo", keep_reasoning=keep)
    rows = weighted_rows(folder, answered, tokenizer, rendering, content)
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
