"""Stage `rewards`: score every answer; write rewards.jsonl, in one step per source and one for the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.backends.devices import devices_of

from ..estimate import DeviceTime, Estimator, Mean, PlanItem, lines_of, number, replicas
from ..layout import ANSWERS, PROMPTS, REWARDS, Counts, Recipe
from ..rewards.scoring import reward_alone, reward_gpus, reward_settings, score_answers
from ..spec import SourceSpec
from ..steps import Step
from .sources import ANSWERED

WITHOUT_DEVICE = ("function", "judge", "pooling")
"""Kinds of reward that load no model on our devices, and so take no device time."""
Expected = Callable[[Estimator], tuple[int, Mean]]
"""Return how many answers there will be, and their mean length in tokens."""


def source_reward_steps(recipe: Recipe, prompts: Step, answers: Sequence[Step]) -> list[Step]:
    """Return one step per source. `answers` has the steps with their answers, in the recipe's order."""
    return [
        _step(recipe, source.name, f"rewards/{source.name}", (prompts, step), None, _expected_of(source, step))
        for source, step in zip(recipe.spec.sources, answers, strict=True)
    ]


def target_reward_step(recipe: Recipe, seed: int, prompts: Step, target: Step, after: str | None = None) -> Step:
    """Return the step that scores the answers of one seed's SFT model, or of the variant `after`."""

    def expected(known: Estimator) -> tuple[int, Mean]:
        return known.prompts.of("preference") * recipe.spec.sampling.n, known.target_answer

    name = str((recipe.sampled(after, seed) / "target-rewards").relative_to(recipe.out))
    return _step(recipe, "target", name, (prompts, target), seed, expected)


def _step(
    recipe: Recipe, model: str, name: str, inputs: tuple[Step, Step], seed: int | None, expected: Expected
) -> Step:
    spec, folder = recipe.spec.reward, recipe.out / name
    prompts, answers = inputs

    def work(into: Path) -> Counts:
        files = {"prompts": prompts.folder / PROMPTS, "answers": answers.folder / ANSWERS}
        return score_answers(spec, **files, model=model, folder=into)

    def estimate(known: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        count, length = expected(known)
        left = known.missing(item, folder / REWARDS, count)
        tokens = left * (known.prompts.tokens.value + length.value)
        answered_by = model if seed is None else "sft"
        counts = {"model": answered_by, "calls": left, "calls_done": count - left, "prompt_tokens": tokens}
        yield known.timed(item.model_copy(update=counts), *reward_time(known, tokens))

    settings = reward_settings(spec) | {"answers_of": model}
    gpus, alone = reward_gpus(spec), reward_alone(spec)
    return Step("rewards", name, folder, settings, work, inputs, seed=seed, alone=alone, gpus=gpus, estimate=estimate)


def _expected_of(source: SourceSpec, answers: Step) -> Expected:
    """Existing answers are one per prompt, or as many as their file has once it was imported."""

    def expected(known: Estimator) -> tuple[int, Mean]:
        prompts = known.prompts.of(*ANSWERED)
        count = prompts * known.recipe.spec.sampling.n
        if source.model is None:
            count = max(prompts, lines_of(answers.folder / ANSWERS))
        return count, known.source_answer(source.name)

    return expected


def reward_time(known: Estimator, tokens: float) -> list[DeviceTime]:
    """Return the time in which the reward model reads tokens; empty if the reward takes no time of our devices."""
    spec = known.recipe.spec
    if spec.reward.kind in WITHOUT_DEVICE:
        return []
    devices = devices_of(spec.reward.serve) * max(1, spec.reward.workers)

    def rate(counts: Counts) -> float:
        seconds = number(counts, "session_seconds")
        return number(counts, "session_tokens") / seconds / (devices * replicas(counts)) if seconds else 0.0

    folders = [known.recipe.source_rewards(source.name) for source in spec.sources]
    return [DeviceTime(tokens, known.rate("reward", spec.rates.reward, folders, rate), devices, "reward")]
