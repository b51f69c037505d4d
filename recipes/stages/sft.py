"""Stage `sft`: fine-tune the target on the best source answers to the `sft` prompts; it gives a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef, digest

from ..estimate import Estimator, PlanItem
from ..layout import ANSWERS, PROMPTS, REWARDS, Counts, Recipe
from ..pairs import best_source_answers
from ..steps import Step, input_digests
from ..training.launch import KEEP, do_job, evaluation_of, fusion_of, training_estimate, training_gpus
from ..training.settings import TrainingJob, decisive, sft_settings

MODEL_FILES = ("config.json", "generation_config.json", "model")
"""Beginnings of the names of a model's files, without its tokenizer's."""


def sft_step(recipe: Recipe, seed: int, prompts: Step, answers: Sequence[Step], rewards: Sequence[Step]) -> Step:
    """Return the step. `answers` and `rewards` have one step per source, in the recipe's order."""
    spec = recipe.spec
    if spec.starts_at_target:
        return start_step(recipe, seed)
    settings: dict[str, JsonValue] = {
        "target": ModelRef.parse(spec.target).short,
        "seed": seed,
        "training": decisive(sft_settings(spec)),
        "max_prompt_length": spec.prompts.max_prompt_length,
        "drop_truncated": spec.pairs.drop_truncated,
        "chat_template": None if spec.chat_template is None else Path(spec.chat_template).name,
        "pad_token": spec.pad_token,
        **({} if spec.save_dtype is None else {"save_dtype": spec.save_dtype}),
        **({"keep_reasoning": True} if spec.keep_reasoning else {}),
        **({"chat_template_kwargs": spec.chat_template_kwargs} if spec.chat_template_kwargs else {}),
    }

    def work(folder: Path) -> Counts:
        return _train(recipe, seed, step, prompts, answers, rewards)

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        item = item.model_copy(update={"model": "sft"})
        rows, keys = known.prompts.of("sft"), sft_settings(spec)
        yield training_estimate(known, item, rows=rows, method="sft", answer="source", keys=keys)

    inputs = (prompts, *answers, *rewards)
    name, folder = f"seed-{seed}/sft", recipe.sft(seed)
    step = Step(
        "sft", name, folder, settings, work, inputs, KEEP, seed=seed, gpus=training_gpus(spec), estimate=estimate
    )
    return step


def start_step(recipe: Recipe, seed: int) -> Step:
    """Return the step that takes the place of SFT: the target itself, its weights as links."""
    spec = recipe.spec
    settings: dict[str, JsonValue] = {
        "target": ModelRef.parse(spec.target).short,
        "start": "target",
        "chat_template": None if spec.chat_template is None else Path(spec.chat_template).name,
        "pad_token": spec.pad_token,
        **({"chat_template_kwargs": spec.chat_template_kwargs} if spec.chat_template_kwargs else {}),
    }

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


def _train(
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
