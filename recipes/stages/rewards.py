"""Stage `rewards`: score every answer; write rewards.jsonl, in one step per source and one for the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..pairs import ANSWERS, PROMPTS
from ..rewards.scoring import reward_settings, score_answers
from ..steps import Counts, Recipe, Step


def source_reward_steps(recipe: Recipe, prompts: Step, answers: Sequence[Step]) -> list[Step]:
    """Return one step per source. `answers` has the steps with their answers, in the recipe's order."""
    return [
        _step(recipe, source.name, f"rewards/{source.name}", recipe.source_rewards(source.name), (prompts, step))
        for source, step in zip(recipe.spec.sources, answers, strict=True)
    ]


def target_reward_step(recipe: Recipe, seed: int, prompts: Step, target: Step) -> Step:
    """Return the step that scores the target's answers of one seed."""
    folder = recipe.seed(seed) / "target-rewards"
    return _step(recipe, "target", f"seed-{seed}/target-rewards", folder, (prompts, target))


def _step(recipe: Recipe, model: str, name: str, folder: Path, inputs: tuple[Step, Step]) -> Step:
    spec = recipe.spec.reward
    prompts, answers = inputs

    def work(into: Path) -> Counts:
        files = {"prompts": prompts.folder / PROMPTS, "answers": answers.folder / ANSWERS}
        return score_answers(spec, **files, model=model, folder=into)

    return Step("rewards", name, folder, reward_settings(spec) | {"answers_of": model}, work, inputs)
