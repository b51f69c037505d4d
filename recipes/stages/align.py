"""Stage `align`: every variant trained from the SFT checkpoint on the pairs -> a checkpoint each."""

from __future__ import annotations

from collections.abc import Mapping

from ..recipe import Recipe
from ..steps import Step


def align_steps(recipe: Recipe, seed: int, sft: Step, pairs: Mapping[int, Step]) -> list[Step]:
    raise NotImplementedError
