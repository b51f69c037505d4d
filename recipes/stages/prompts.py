"""Stage `prompts`: load, dedupe, decontaminate, split -> prompts.jsonl, dropped.jsonl."""

from __future__ import annotations

from pathlib import Path

from ..recipe import Recipe
from ..steps import Counts, Step


def prompts_step(recipe: Recipe) -> Step:
    def work(folder: Path) -> Counts:
        raise NotImplementedError

    settings = recipe.spec.prompts.model_dump(mode="json") | {"target": recipe.spec.target}
    return Step("prompts", "prompts", recipe.prompts, settings, work)
