"""Sample n answers per prompt: of every source (stage `sources`), and of the model to train on pairs (stage `target`).

Sources answer the SFT prompts and the preference prompts. The target, which is the SFT model or the variant that a
round continues from, answers the preference prompts only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef

from ..estimate import DeviceTime, Estimator, PlanItem
from ..layout import ANSWERS, PROMPTS, Counts, Part, Recipe
from ..prompts import load_rows, portable_name
from ..rivals import list_price
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
    take_answers,
)
from ..spec import SourceSpec
from ..steps import Step

ANSWERED: tuple[Part, ...] = ("sft", "preference")
"""Parts that sources answer. Held-out prompts only evaluate the trained models, so sources skip them."""
KEEP = (ANSWERS, IDENTITY)
NAME = "target"
"""The target's name in answers and rewards."""


def source_steps(recipe: Recipe, prompts: Step) -> list[Step]:
    """Return one step per source, which samples its model or imports its existing answers."""
    return [
        _import_step(recipe, source, prompts) if source.answers is not None else _sampling_step(recipe, source, prompts)
        for source in recipe.spec.sources
    ]


def _sampling_step(recipe: Recipe, source: SourceSpec, prompts: Step) -> Step:
    spec = recipe.spec
    assert source.model is not None
    model = ModelRef.parse(source.model)
    backend = "endpoint" if model.scheme == "endpoint" else source.backend
    sampling = spec.sampling.as_sampling()
    sampler = Sampler(source.name, model, backend, source.serve, spec.sampling.seed or 0, spec.sampling.max_failed)
    name, folder = f"sources/{source.name}", recipe.source(source.name)

    def work(folder: Path) -> Counts:
        questions = prompts_of(prompts.folder / PROMPTS, *ANSWERED)
        return sample(sampler, [AnswerFile(folder / ANSWERS, questions, sampling)], folder)

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        draws, length = estimator.prompts.of(*ANSWERED) * sampling.n, estimator.source_answer(source.name)
        item = left_to_sample(
            estimator, item.model_copy(update={"model": source.name}), folder / ANSWERS, draws, length
        )
        if model.scheme == "endpoint":
            price = list_price(source, item.prompt_tokens, item.answer_tokens)
            yield item.model_copy(update={"dollars": price})
        else:
            time = generation_time(estimator, source.name, source.serve, item.answer_tokens, measured=[folder])
            yield estimator.timed(item, time)

    settings = sampler.settings() | {"sampling": sampling.model_dump(mode="json")}
    return Step(
        "sources",
        name,
        folder,
        settings,
        work,
        (prompts,),
        KEEP,
        alone=needs_machine(backend, source.serve),
        gpus=gpus_of(model, backend, source.serve),
        estimate=estimate,
    )


def _import_step(recipe: Recipe, source: SourceSpec, prompts: Step) -> Step:
    assert source.answers is not None
    dataset, split = source.answers, recipe.spec.prompts.split

    def work(folder: Path) -> Counts:
        questions = prompts_of(prompts.folder / PROMPTS, *ANSWERED)
        return take_answers(load_rows(dataset, split), questions, source.name, folder / ANSWERS, origin=dataset)

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        yield item.model_copy(update={"model": source.name})

    name, folder = f"sources/{source.name}", recipe.source(source.name)
    settings: dict[str, JsonValue] = {"answers": portable_name(dataset), "split": split}
    return Step("sources", name, folder, settings, work, (prompts,), KEEP, estimate=estimate)


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

    def estimate(estimator: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        draws = estimator.prompts.of("preference") * sampling.n
        item = item.model_copy(update={"model": after or "sft"})
        item = left_to_sample(estimator, item, folder / ANSWERS, draws, estimator.target_answer)
        yield estimator.timed(item, target_time(estimator, item.answer_tokens))

    return Step(
        "target",
        str(folder.relative_to(recipe.out)),
        folder,
        sampler.settings() | {"sampling": sampling.model_dump(mode="json")},
        work,
        (prompts, sft),
        KEEP,
        seed=seed,
        alone=needs_machine(sampler.backend, sampler.serve),
        gpus=gpus_of(sampler.model, sampler.backend, sampler.serve),
        estimate=estimate,
    )


def target_time(estimator: Estimator, tokens: float) -> DeviceTime:
    """Return the time in which the target, or a model trained from it, generates tokens."""
    spec = estimator.recipe.spec
    folders = [estimator.recipe.target(seed) for seed in spec.seeds]
    return generation_time(estimator, "target", spec.target_serve, tokens, measured=folders)
