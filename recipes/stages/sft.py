"""Stage `sft`: the target learns the best source answers of its part of the prompts -> a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe import Recipe
from ..steps import Step


def sft_step(recipe: Recipe, seed: int, prompts: Step, answers: Sequence[Step], rewards: Sequence[Step]) -> Step:
    raise NotImplementedError
