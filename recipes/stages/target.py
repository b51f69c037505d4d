"""Stage `target`: sample n answers per preference prompt from the SFT model; write answers.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from harness.records import ModelRef

from ..estimate import DeviceTime, Estimator, PlanItem
from ..layout import ANSWERS, PROMPTS, Counts, Recipe
from ..sampling import (
    IDENTITY,
    AnswerFile,
    Sampler,
    generation_time,
    gpus_of,
    left_to_sample,
    needs_machine,
    prompts_of,
    sample,
)
from ..steps import Step

NAME = "target"
"""The model's name in answers and rewards."""


def target_step(recipe: Recipe, seed: int, prompts: Step, sft: Step, after: str | None = None) -> Step:
    """Return the step that samples the SFT model of one seed, or the variant `after`, whose step `sft` then is."""
    spec = recipe.spec
    sampling = spec.sampling.as_sampling(seed)
    sampler = Sampler(
        NAME, ModelRef.parse(str(sft.folder)), spec.target_backend, spec.target_serve, seed, spec.sampling.max_failed
    )

    folder = recipe.target(seed, after)

    def work(folder: Path) -> Counts:
        questions = prompts_of(prompts.folder / PROMPTS, "preference")
        return sample(sampler, [AnswerFile(folder / ANSWERS, questions, sampling)], folder)

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        draws = known.prompts.of("preference") * sampling.n
        item = item.model_copy(update={"model": after or "sft"})
        item = left_to_sample(known, item, folder / ANSWERS, draws, known.target_answer)
        yield known.timed(item, target_time(known, item.answer_tokens))

    return Step(
        "target",
        str(folder.relative_to(recipe.out)),
        folder,
        sampler.settings() | {"sampling": sampling.model_dump(mode="json")},
        work,
        (prompts, sft),
        keep=(ANSWERS, IDENTITY),
        seed=seed,
        alone=needs_machine(sampler.backend, sampler.serve),
        gpus=gpus_of(sampler.model, sampler.backend, sampler.serve),
        estimate=estimate,
    )


def target_time(known: Estimator, tokens: float) -> DeviceTime:
    """Return the time in which the target, or a model trained from it, generates tokens."""
    spec = known.recipe.spec
    folders = [known.recipe.target(seed) for seed in spec.seeds]
    return generation_time(known, "target", spec.target_serve, tokens, measured=folders)
