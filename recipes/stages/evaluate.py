"""Stage `evaluate`: held-out prompts answered and rewarded, and `harness run` on the suites."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe import Recipe
from ..steps import Step


def held_out_steps(recipe: Recipe, seed: int, prompts: Step, models: Sequence[Step]) -> list[Step]:
    """One step a model: the target (once, with the first seed), the SFT model and every variant."""
    raise NotImplementedError


def suite_steps(recipe: Recipe, models: Sequence[Step]) -> list[Step]:
    """One step a model that goes through the suites; empty where the recipe names none."""
    raise NotImplementedError
