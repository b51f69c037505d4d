"""`harness train`: run the stages of a recipe. torch is imported only if a stage needs it."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from harness.records.errors import ConfigError

from .layout import STAGES, Recipe
from .spec import RecipeSpec, about, read_recipe, recipe_path, shipped_recipes

if TYPE_CHECKING:
    from .hub import Push


def train(
    recipe: Annotated[str | None, typer.Argument(help="YAML file, or the name of a shipped recipe.")] = None,
    variant: Annotated[str | None, typer.Option(help="Only these variants: wrpo,dpo,…")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; repeatable.")] = None,
    from_stage: Annotated[
        str | None,
        typer.Option(
            "--from", help=f"Archive this stage and all later ones, and start them over: {', '.join(STAGES)}."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Last stage to run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; defaults to the recipe's output_dir.")] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Steps to run in parallel, one process each; for models so small that one core is enough."
        ),
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the cost without running anything.")] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Upload the variants to ORG (as ORG/RECIPE-VARIANT) afterwards, or a single one to ORG/NAME."
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Create public repositories; the default is private.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the shipped recipes and their variants.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print records as JSON.")] = False,
) -> None:
    """Run a fusion recipe: prompts, source answers, rewards, SFT, pairs, all variants and their evaluation.

    Running the same command again resumes where it stopped.

    Examples: harness train recipes/configs/pocket.yaml --variant wrpo,dpo;
    harness train my.yaml --variant wrpo --push-to-hub my-org
    """
    if list_:
        _list(as_json=as_json)
        return
    if recipe is None:
        raise ConfigError(f"no recipe given; pass a YAML file or one of {', '.join(shipped_recipes())}")
    for name in (from_stage, until):
        if name is not None and name not in STAGES:
            raise ConfigError(f"no stage named {name!r}; stages: {', '.join(STAGES)}")
    spec = read_recipe(recipe_path(recipe))
    if out is not None:
        spec = spec.model_copy(update={"output_dir": out})
    narrowed = narrow(spec, variant, seed)
    if dry_run:
        _dry_run(narrowed, from_stage, until, as_json=as_json)
        return
    pushed = [] if push_to_hub is None else _checked_pushes(narrowed, push_to_hub, until)
    ran = _run(narrowed, from_stage, until, jobs, as_json=as_json)
    pages = _push(pushed, public=public, as_json=as_json)
    if as_json:
        typer.echo(json.dumps({**ran, "pushed": pages}, indent=2))


def _list(*, as_json: bool) -> None:
    recipes = [
        {"name": name, "about": about(path), "file": str(path), "variants": list(read_recipe(path).variants)}
        for name, path in shipped_recipes().items()
    ]
    if as_json:
        typer.echo(json.dumps(recipes, indent=2))
        return
    for entry in recipes:
        typer.echo(f"{entry['name']}: {entry['about']}\n  variants: {', '.join(entry['variants'])}\n  {entry['file']}")


def narrow(spec: RecipeSpec, variant: str | None, seeds: list[int] | None) -> Recipe:
    """Return the recipe with the selected variants and seeds. Raise ConfigError if it does not have one of them."""
    names = list(spec.variants) if variant is None else [name.strip() for name in variant.split(",")]
    for name in names:
        if name not in spec.variants:
            raise ConfigError(f"no variant named {name!r} in {spec.name}; variants: {', '.join(spec.variants)}")
    chosen = spec.seeds if seeds is None else tuple(seeds)
    for chosen_seed in chosen:
        if chosen_seed not in spec.seeds:
            raise ConfigError(f"{spec.name} has no seed {chosen_seed}; seeds: {', '.join(map(str, spec.seeds))}")
    return Recipe(spec, {name: spec.variants[name] for name in names}, chosen)


def _dry_run(recipe: Recipe, first: str | None, last: str | None, *, as_json: bool) -> None:
    from rich.console import Console

    from .plan import make_plan, plan_tables

    plan = make_plan(recipe, first=first, last=last)
    if as_json:
        typer.echo(json.dumps(plan.as_dict(), indent=2))
        return
    console = Console(width=None if os.isatty(1) else 120)
    for part in plan_tables(plan):
        console.print(part)


def _run(recipe: Recipe, first: str | None, last: str | None, jobs: int, *, as_json: bool) -> dict[str, JsonValue]:
    """Return the records of the steps, and the leaderboard of variants or None if no report was written."""
    from .pipeline import train as run_stages

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    records: list[JsonValue] = []
    stage = ""
    for done in run_stages(recipe, first=first, last=last, jobs=jobs):
        stage = done.step.stage
        records.append(done.record.model_dump(mode="json") | {"step": done.step.name, "skipped": done.skipped})
        if not as_json:
            took = "already done" if done.skipped else f"{done.record.seconds:.1f} s"
            counts = ", ".join(f"{name} {value}" for name, value in done.record.counts.items() if value is not None)
            typer.echo(f"{done.step.name}: {took}{'; ' + counts if counts else ''}")
    board = _board(recipe, shown=not as_json) if stage == "report" else None
    return {"steps": records, "variants": board}


def _board(recipe: Recipe, *, shown: bool) -> JsonValue:
    """Return the leaderboard of variants as the report stage wrote it, and print it if `shown`."""
    from rich.console import Console

    from .report.tables import VariantBoard, rich_tables
    from .stages.report import BOARD

    board = VariantBoard.model_validate_json((recipe.report / BOARD).read_bytes())
    if shown:
        console = Console(width=None if os.isatty(1) else 140)
        for table in rich_tables(board):
            console.print(table)
        for sentence in (*board.sentences, *board.notes):
            typer.echo(sentence)
        typer.echo(f"report: {recipe.report / 'variants.html'}")
    record: JsonValue = board.model_dump(mode="json")
    return record


def _checked_pushes(recipe: Recipe, destination: str, until: str | None) -> list[Push]:
    """Return the planned uploads. Raise ConfigError before anything runs if they cannot work."""
    from .hub import check_token, pushes

    if until is not None and STAGES.index(until) < STAGES.index("align"):
        raise ConfigError(f"--push-to-hub needs trained variants, but --until {until} stops before they are trained")
    check_token()
    return pushes(recipe, destination)


def _push(pushed: list[Push], *, public: bool, as_json: bool) -> list[JsonValue]:
    from .hub import push

    pages: list[JsonValue] = []
    for upload in pushed:
        pages.append(push(upload, public=public))
        if not as_json:
            typer.echo(f"pushed: {pages[-1]}")
    return pages
