"""Stage `rewards`: a reward of every answer -> rewards.jsonl, one step a source and one for the target."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe import Recipe
from ..steps import Step


def source_reward_steps(recipe: Recipe, prompts: Step, answers: Sequence[Step]) -> list[Step]:
    raise NotImplementedError


def target_reward_step(recipe: Recipe, seed: int, prompts: Step, target: Step) -> Step:
    raise NotImplementedError
