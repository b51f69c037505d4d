"""Stage `sources`: n answers a prompt from every source model -> answers.jsonl, one step a source."""

from __future__ import annotations

from ..recipe import Recipe
from ..steps import Step


def source_steps(recipe: Recipe, prompts: Step) -> list[Step]:
    raise NotImplementedError
