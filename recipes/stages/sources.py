"""Stage `sources`: sample n answers per prompt from every source model; write answers.jsonl, one step per source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef

from ..pairs import ANSWERS, PROMPTS
from ..prompts import load_rows, portable_name
from ..records import Part
from ..sampling import IDENTITY, AnswerFile, Sampler, prompts_of, sample, take_answers
from ..spec import SourceSpec
from ..steps import Counts, Recipe, Step

PARTS: tuple[Part, ...] = ("sft", "preference")
"""Parts that sources answer. Held-out prompts only evaluate the trained models, so sources skip them."""


def source_steps(recipe: Recipe, prompts: Step) -> list[Step]:
    """Return one step per source, which samples its model or imports its existing answers."""
    return [
        _existing(recipe, source, prompts) if source.answers is not None else _sampled(recipe, source, prompts)
        for source in recipe.spec.sources
    ]


def _sampled(recipe: Recipe, source: SourceSpec, prompts: Step) -> Step:
    spec = recipe.spec
    assert source.model is not None
    model = ModelRef.parse(source.model)
    backend = "endpoint" if model.scheme == "endpoint" else source.backend
    sampling = spec.sampling.of()
    sampler = Sampler(source.name, model, backend, source.serve, spec.sampling.seed, spec.sampling.max_failed)

    def work(folder: Path) -> Counts:
        questions = prompts_of(prompts.folder / PROMPTS, *PARTS)
        return sample(sampler, [AnswerFile(folder / ANSWERS, questions, sampling)], folder)

    settings = sampler.settings() | {"sampling": sampling.model_dump(mode="json")}
    return _step(recipe, source, prompts, settings, work)


def _existing(recipe: Recipe, source: SourceSpec, prompts: Step) -> Step:
    assert source.answers is not None
    dataset, split = source.answers, recipe.spec.prompts.split

    def work(folder: Path) -> Counts:
        questions = prompts_of(prompts.folder / PROMPTS, *PARTS)
        return take_answers(load_rows(dataset, split), questions, source.name, folder / ANSWERS, where=dataset)

    return _step(recipe, source, prompts, {"answers": portable_name(dataset), "split": split}, work)


def _step(
    recipe: Recipe,
    source: SourceSpec,
    prompts: Step,
    settings: dict[str, JsonValue],
    work: Callable[[Path], Counts],
) -> Step:
    name, folder = f"sources/{source.name}", recipe.source(source.name)
    return Step("sources", name, folder, settings, work, (prompts,), keep=(ANSWERS, IDENTITY))
