"""Stage `target`: sample n answers per preference prompt from the SFT model; write answers.jsonl."""

from __future__ import annotations

from pathlib import Path

from harness.records import ModelRef

from ..pairs import ANSWERS, PROMPTS
from ..sampling import IDENTITY, AnswerFile, Sampler, prompts_of, sample
from ..steps import Counts, Recipe, Step

NAME = "target"
"""The model's name in answers and rewards."""


def target_step(recipe: Recipe, seed: int, prompts: Step, sft: Step) -> Step:
    """Return the step that samples the SFT model of one seed."""
    spec = recipe.spec
    sampling = spec.sampling.of(seed)
    sampler = Sampler(
        NAME, ModelRef.parse(str(sft.folder)), spec.target_backend, spec.target_serve, seed, spec.sampling.max_failed
    )

    def work(folder: Path) -> Counts:
        questions = prompts_of(prompts.folder / PROMPTS, "preference")
        return sample(sampler, [AnswerFile(folder / ANSWERS, questions, sampling)], folder)

    return Step(
        "target",
        f"seed-{seed}/target",
        recipe.seed(seed) / "target",
        sampler.settings() | {"sampling": sampling.model_dump(mode="json")},
        work,
        (prompts, sft),
        keep=(ANSWERS, IDENTITY),
    )
