"""`harness train`: run the stages of a recipe. torch is imported only if a stage needs it."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from harness.cli.options import JsonFlags, command
from harness.records.errors import ConfigError
from harness.store import write_lines

from .layout import STAGES, Recipe
from .spec import RecipeSpec, about, read_recipe, recipe_path, scales_of, shipped_recipes
from .training.launch import Machines, claimed_machines, follow, leading

if TYPE_CHECKING:
    from .hub import Push


class TrainFlags(JsonFlags):
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="YAML file, or the name of a shipped recipe.",
            autocompletion=lambda incomplete: [name for name in shipped_recipes() if name.startswith(incomplete)],
        ),
    ] = None
    variant: Annotated[str | None, typer.Option(help="Only these variants: wrpo,dpo,…")] = None
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed; repeatable.")] = None
    scale: Annotated[str | None, typer.Option(help="A size of the recipe's `scales:`, e.g. full.")] = None
    first_stage: Annotated[
        str | None,
        typer.Option(
            "--from", help=f"Archive this stage and all later ones, and start them over: {', '.join(STAGES)}."
        ),
    ] = None
    last_stage: Annotated[str | None, typer.Option("--until", help="Last stage to run.")] = None
    out: Annotated[Path | None, typer.Option(help="Output folder; defaults to the recipe's output_dir.")] = None
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Steps to run in parallel, one process each, for models so small that one core is enough. "
            "GPUs are not divided among them.",
        ),
    ] = 1
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the cost without running anything.")] = False
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Upload the variants to ORG (as ORG/RECIPE-VARIANT) afterwards, or a single one to ORG/NAME."
        ),
    ] = None
    public: Annotated[bool, typer.Option("--public", help="Create public repositories; default: private.")] = False
    export_pairs: Annotated[
        Path | None,
        typer.Option(
            help="Write the pairs to FILE.jsonl in TRL's form afterwards (prompt, chosen, rejected), of the first seed."
        ),
    ] = None
    push_pairs: Annotated[
        str | None, typer.Option(help="Upload the pairs to the data set ORG/NAME afterwards, in the same form.")
    ] = None
    list_recipes: Annotated[bool, typer.Option("--list", help="List the shipped recipes and their variants.")] = False

    def selected(self) -> Recipe:
        """Return the recipe with the chosen output folder, variants and seeds. Raise ConfigError if one is missing."""
        if self.recipe is None:
            raise ConfigError(f"no recipe given; pass a YAML file or one of {', '.join(shipped_recipes())}")
        for name in (self.first_stage, self.last_stage):
            if name is not None and name not in STAGES:
                raise ConfigError(f"no stage named {name!r}; stages: {', '.join(STAGES)}")
        spec = read_recipe(recipe_path(self.recipe), self.scale)
        if self.out is not None:
            spec = spec.model_copy(update={"output_dir": self.out})
        return narrow(spec, self.variant, self.seed)


@command
def train(flags: TrainFlags) -> None:
    """Run a fusion recipe: prompts, source answers, rewards, SFT, pairs, all variants and their evaluation.

    Running the same command again resumes where it stopped.

    Examples: harness train pocket --variant wrpo,dpo; harness train my.yaml --variant wrpo --push-to-hub my-org
    """
    if flags.list_recipes:
        _list_recipes(as_json=flags.as_json)
        return
    recipe = flags.selected()
    if flags.dry_run:
        _dry_run(recipe, flags)
        return
    if flags.export_pairs is not None or flags.push_pairs is not None:
        _check_export(flags)
    uploads = [] if flags.push_to_hub is None else _checked_uploads(recipe, flags.push_to_hub, flags.last_stage)
    machines = claimed_machines()
    if machines is not None and recipe.spec.launch is None:
        raise ConfigError(f"{machines.count} machines need `launch` in the recipe, e.g. launch: fsdp2")
    if machines is not None and machines.rank:
        _follow(machines)
        return
    with nullcontext() if machines is None else leading(machines):
        records = _run(recipe, flags)
    _export(recipe, flags)
    pages = _push(uploads, flags)
    if flags.as_json:
        typer.echo(json.dumps({**records, "pushed": pages}, indent=2))


def _follow(machines: Machines) -> None:
    """Take part in the trainings of the first machine."""
    from .training.launch import launch_share

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    follow(machines, lambda words, processes, port: launch_share(words, processes, port, machines))


def _list_recipes(*, as_json: bool) -> None:
    recipes = [
        {
            "name": name,
            "about": about(path),
            "file": str(path),
            "variants": _rows(read_recipe(path)),
            "scales": list(scales_of(path)),
        }
        for name, path in shipped_recipes().items()
    ]
    if as_json:
        typer.echo(json.dumps(recipes, indent=2))
        return
    for entry in recipes:
        scales = f"\n  --scale: {', '.join(entry['scales'])}" if entry["scales"] else ""
        typer.echo(
            f"{entry['name']}: {entry['about']}\n  variants: {', '.join(entry['variants'])}{scales}\n  {entry['file']}"
        )


def _rows(spec: RecipeSpec) -> list[str]:
    return [*spec.variants, *spec.merges]


def narrow(spec: RecipeSpec, variant: str | None, seeds: list[int] | None) -> Recipe:
    """Return the recipe with the selected variants, those that they continue from or merge, and the selected seeds.

    Raise ConfigError if it does not have one of them.
    """
    names = list(spec.variants) if variant is None else [name.strip() for name in variant.split(",")]
    made_from = {name: (name,) for name in spec.variants} | {name: merge.models for name, merge in spec.merges.items()}
    for name in names:
        if name not in made_from:
            raise ConfigError(f"no variant named {name!r} in {spec.name}; variants: {', '.join(made_from)}")
    named = None if variant is None else tuple(names)
    bases = [spec.merges[name].base or "" for name in names if name in spec.merges]
    names = [model for name in names for model in (*made_from[name], *bases) if model in spec.variants]
    for name in names[::-1]:  # those that others continue from are trained too
        while (earlier := spec.variants[name].after) is not None:
            names, name = [*names, earlier], earlier
    chosen = spec.seeds if seeds is None else tuple(seeds)
    for chosen_seed in chosen:
        if chosen_seed not in spec.seeds:
            raise ConfigError(f"{spec.name} has no seed {chosen_seed}; seeds: {', '.join(map(str, spec.seeds))}")
    return Recipe(spec, {name: entry for name, entry in spec.variants.items() if name in names}, chosen, named)


def _dry_run(recipe: Recipe, flags: TrainFlags) -> None:
    from harness.cli.console import print_tables

    from .pipeline import notes_beforehand
    from .plan import make_plan, plan_tables

    notes = notes_beforehand(recipe, flags.first_stage, flags.last_stage)
    plan = make_plan(recipe, first=flags.first_stage, last=flags.last_stage)
    plan = plan.model_copy(update={"notes": (*plan.notes, *notes)})
    if flags.as_json:
        typer.echo(json.dumps(plan.as_dict(), indent=2))
        return
    print_tables(*plan_tables(plan))
    for note in plan.notes:
        typer.echo(f"- {note}")


def _run(recipe: Recipe, flags: TrainFlags) -> dict[str, JsonValue]:
    from .pipeline import train as run_stages

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    records: list[JsonValue] = []
    stage = ""
    for outcome in run_stages(recipe, first=flags.first_stage, last=flags.last_stage, jobs=flags.jobs):
        stage = outcome.step.stage
        records.append(outcome.record.model_dump(mode="json") | {"step": outcome.step.name, "skipped": outcome.skipped})
        if not flags.as_json:
            took = "already done" if outcome.skipped else f"{outcome.record.seconds:.1f} s"
            counts = ", ".join(f"{name} {value}" for name, value in outcome.record.counts.items() if value is not None)
            typer.echo(f"{outcome.step.name}: {took}{'; ' + counts if counts else ''}")
    board = _board(recipe, shown=not flags.as_json) if stage == "report" else None
    return {"steps": records, "variants": board}


def _board(recipe: Recipe, *, shown: bool) -> JsonValue:
    from harness.cli.console import print_tables

    from .report.tables import VariantBoard, rich_tables
    from .stages.report import BOARD

    board = VariantBoard.model_validate_json((recipe.report / BOARD).read_bytes())
    if shown:
        print_tables(*rich_tables(board), more=f"{recipe.report / 'variants.md'} has them")
        for sentence in (*board.sentences, *board.notes):
            typer.echo(sentence)
        _show_sweeps(recipe)
        typer.echo(f"report: {recipe.report / 'variants.html'}")
    record: JsonValue = board.model_dump(mode="json")
    return record


def _show_sweeps(recipe: Recipe) -> None:
    from harness.cli.console import print_tables

    from .report.data import read_all_measured, read_suites
    from .report.sweeps import sweep_grids, sweep_reports
    from .report.tables import rich_grid

    if not recipe.spec.sweeps:
        return
    for sweep in sweep_reports(recipe, read_all_measured(recipe), read_suites(recipe)):
        print_tables(*map(rich_grid, sweep_grids(sweep)), more=f"{recipe.report / 'variants.html'} has them")
        for sentence in sweep.sentences:
            typer.echo(sentence)


def _checked_uploads(recipe: Recipe, destination: str, last_stage: str | None) -> list[Push]:
    """Return the planned uploads. Raise ConfigError before anything runs if they cannot work."""
    from .hub import check_token, pushes

    if last_stage is not None and STAGES.index(last_stage) < STAGES.index("align"):
        raise ConfigError(f"--push-to-hub needs trained variants, but --until {last_stage} stops before training")
    check_token()
    return pushes(recipe, destination)


def _check_export(flags: TrainFlags) -> None:
    """Raise ConfigError before anything runs if the pairs cannot be exported afterwards."""
    from .hub import check_token

    if flags.last_stage is not None and STAGES.index(flags.last_stage) < STAGES.index("pairs"):
        raise ConfigError(
            f"--export-pairs and --push-pairs need pairs, but --until {flags.last_stage} stops before them"
        )
    if flags.export_pairs is not None and flags.export_pairs.exists():
        raise ConfigError(f"--export-pairs {str(flags.export_pairs)!r} exists; name another file, or move it away")
    if flags.push_pairs is not None:
        if flags.push_pairs.count("/") != 1:
            raise ConfigError(f"--push-pairs {flags.push_pairs!r} is not ORG/NAME")
        check_token()


def _export(recipe: Recipe, flags: TrainFlags) -> None:
    from .hub import push_pairs
    from .layout import PAIRS, PreferencePair, rows_in
    from .trl_pairs import trl_row

    if flags.export_pairs is None and flags.push_pairs is None:
        return
    pairs = rows_in(recipe.seed(recipe.seeds[0]) / "pairs" / PAIRS, PreferencePair)
    lines = [json.dumps(trl_row(pair), ensure_ascii=False) for pair in pairs]
    if flags.export_pairs is not None:
        write_lines(flags.export_pairs, lines)
    page = None if flags.push_pairs is None else push_pairs(lines, flags.push_pairs, public=flags.public)
    if not flags.as_json:
        typer.echo(f"pairs: {len(lines)} to {', '.join(str(goal) for goal in (flags.export_pairs, page) if goal)}")


def _push(uploads: list[Push], flags: TrainFlags) -> list[JsonValue]:
    from .hub import push

    pages: list[JsonValue] = []
    for upload in uploads:
        pages.append(push(upload, public=flags.public))
        if not flags.as_json:
            typer.echo(f"pushed: {pages[-1]}")
    return pages
