"""Run a recipe's checkpoints through `harness run`, into the recipe's own results folder.

A checkpoint is served through a link `models/RECIPE-MODEL-seedN`, whose last part becomes its name on the leaderboard.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import JsonValue

from harness.config import RunSpec, checked, choose_judges, suite_names
from harness.errors import ConfigError, IncompleteError
from harness.leaderboard.ranking import run_id
from harness.plan import plan
from harness.records import ModelRef
from harness.run import execute, opened
from harness.store import make_folder, write_atomic

from .recipe import Recipe
from .report.board import best_by_validation
from .report.gather import SCORES, SuiteRuns, read_all_measured
from .spec import RecipeSpec
from .steps import Counts


def check_suites(spec: RecipeSpec) -> None:
    """Raise ConfigError if a suite or judge does not exist, or if `best` has no validation prompts to choose by."""
    evaluate = spec.evaluate
    suites = suite_names(evaluate.suite or "all")
    if evaluate.judge is not None:  # otherwise the environment may set it, perhaps only in a later session
        choose_judges(suites, evaluate.judge, edition=evaluate.edition, own_judges={})
    if "best" in evaluate.models and not spec.prompts.validation:
        raise ConfigError("evaluate.models has `best`, which needs validation prompts: set prompts.validation")


def suite_spec(spec: RecipeSpec, model: ModelRef, results: Path) -> RunSpec:
    """Return the recipe's `evaluate:` as the options of `harness run`. Raise ConfigError if they are not valid.

    All models use the first seed, because it decides which prompts `limit` draws.
    """
    evaluate = spec.evaluate
    suites = suite_names(evaluate.suite or "all")
    judges = choose_judges(suites, evaluate.judge, edition=evaluate.edition, own_judges={})
    options = {
        "model": model,
        "suites": suites,
        "judges": judges,
        "edition": evaluate.edition,
        "backend": "endpoint" if model.scheme == "endpoint" else evaluate.backend,
        "limit": evaluate.limit,
        "seed": spec.seeds[0],
        "results": results,
        "serve": evaluate.serve,
    }
    return checked(RunSpec, options, "evaluate")


def suite_settings(recipe: Recipe, model: str, seed: int) -> dict[str, JsonValue]:
    """Return the settings that decide the scores, without local paths."""
    settings = recipe.spec.evaluate.model_dump(mode="json", include={"suite", "edition", "judge", "limit", "backend"})
    target = ModelRef.parse(recipe.spec.target)
    name = target.label if target.scheme == "path" else str(target)
    return settings | {"model": name if model == "target" else recipe.label(model, seed)}


def run_suites(recipe: Recipe, model: str, seed: int, folder: Path) -> Counts:
    """Serve the model, run the suites and write the ids of its runs; resume an earlier run.

    Raises IncompleteError if too many answers are unscored for a score to be ranked.
    """
    chosen = best_variant(recipe) if model == "best" else model
    ref = _served(recipe, chosen, seed)
    run_plan = plan(suite_spec(recipe.spec, ref, recipe.results), log_dir=recipe.results / "runs" / ref.slug / "logs")
    with opened(run_plan, fresh=False) as runs:
        make_folder(recipe.results / "runs" / ref.slug / "logs")
        cards = asyncio.run(execute(run_plan, runs))
    broken = [card.suite for card in cards if not card.complete]
    if broken:
        raise IncompleteError(
            f"{ref.label}: too many answers are unscored in {', '.join(broken)}; the same command retries them"
        )
    suite_runs = SuiteRuns(model=ref.label, runs=tuple(run_id(card) for card in cards))
    write_atomic(folder / SCORES, suite_runs.model_dump_json(indent=2) + "\n")
    return {"model": ref.label, **{card.suite: card.scores[card.headline].value for card in cards}}


def best_variant(recipe: Recipe) -> str:
    """Return the variant with the highest mean validation reward over seeds, at the first temperature."""
    ranked = [name for name in best_by_validation(read_all_measured(recipe)) if name in recipe.spec.variants]
    if not ranked:
        raise IncompleteError("no variant has a reward on the validation prompts, so there is no best one")
    return ranked[0]


def _served(recipe: Recipe, model: str, seed: int) -> ModelRef:
    """Return the model to serve, for a checkpoint the link to it."""
    folder = recipe.checkpoint(model, seed)
    if folder is None:
        return ModelRef.parse(recipe.spec.target)
    link = recipe.out / "models" / recipe.label(model, seed)
    make_folder(link.parent)
    goal = os.path.relpath(folder, link.parent)
    if not link.is_symlink():
        link.symlink_to(goal, target_is_directory=True)
    elif os.readlink(link) != goal:
        raise ConfigError(f"{link} points to {os.readlink(link)!r} instead of {goal!r}; move it away")
    return ModelRef(scheme="path", name=str(link))
