"""Stage `target`: n answers a preference prompt from the SFT model -> answers.jsonl."""

from __future__ import annotations

from ..recipe import Recipe
from ..steps import Step


def target_step(recipe: Recipe, seed: int, prompts: Step, sft: Step) -> Step:
    raise NotImplementedError
