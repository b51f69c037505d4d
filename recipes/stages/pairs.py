"""Stage `pairs`: y_ws, y_wt, y_l of every preference prompt -> pairs.jsonl, dropped.jsonl."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe import Recipe
from ..steps import Step


def pairs_steps(recipe: Recipe, seed: int, prompts: Step, answered: Sequence[Step]) -> dict[int, Step]:
    """Number of sources -> the step with their pairs: one for each number that a variant asks for."""
    raise NotImplementedError
