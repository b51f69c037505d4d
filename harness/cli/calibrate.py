"""`harness judge calibrate`: flags -> a replay of recorded comparisons -> tables and calibration.json."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.text import Text

from ..calibration.data import data_folder
from ..calibration.items import CalibrationSet, Item
from ..calibration.own import SUITE as OWN
from ..calibration.sample import counted
from ..calibration.session import (
    ALL,
    LOADERS,
    RECORDED,
    CalibrationSpec,
    ask,
    check,
    chosen_items,
    estimate,
    folder_of,
    load_sets,
    manifest,
    report,
    write,
)
from ..config import find_jury, read_file_spec
from ..errors import ConfigError, IncompleteError
from ..judging.calibrated import Calibration
from ..judging.pricing import priced
from ..protocols import SuiteOptions
from ..records import Judgment, JuryRule
from ..report.calibration import grids, markdown_grid, remarks, rich_grid
from ..report.cells import escape_markdown, plain
from ..store import RunStore
from .progress import progress, set_up_logging

log = logging.getLogger(__name__)

SAMPLE = 500
"""Items asked of a judge that is paid by the call, where --sample says nothing: the interval of an agreement is then
about +-0.06 within a suite."""


def calibrate(
    judge: Annotated[str, typer.Option(help="A judge as for `harness run`, or recorded: the retired judge's records.")],
    jury: Annotated[str, typer.Option(help="How a jury's verdicts become one: mean, majority, median.")] = "mean",
    suite: Annotated[str, typer.Option(help=f"all, or a comma list of {', '.join(LOADERS)}.")] = "all",
    sample: Annotated[
        int | None, typer.Option(help=f"Items in all, stratified; 0: every one. Default {SAMPLE}; of recorded, all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times every judge is asked the same.")] = 1,
    data: Annotated[Path | None, typer.Option(help="Folder of recorded judgments (HARNESS_PUBLISHED).")] = None,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write calibration.json here as well.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be asked; write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier calibration aside and begin anew.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor fill the reply cache.")] = False,
    max_cost: Annotated[float | None, typer.Option(help="US dollars; it stops before crossing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print calibration.json.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log everything.")] = False,
) -> None:
    """Replay recorded comparisons through a judge: agreement with people and with the retired judge, biases, ranks.

    The same command again resumes; cards of this judge cite what is found.

    Examples: harness judge calibrate --judge gpt-4.1 --sample 300 --data published;
    harness judge calibrate --judge recorded --suite mt_bench
    """
    console = Console(stderr=True)
    set_up_logging(console, verbose=verbose)
    spec = replace(_spec(judge, jury, suite, sample, seed), cache=not no_cache, max_cost=max_cost, repeats=repeats)
    _check_budget(spec)
    sets = load_sets(spec.suites, data_folder(data), SuiteOptions(mirror=mirror))
    items = chosen_items(spec, sets)
    if not items:
        raise ConfigError(f"nothing to ask about in {', '.join(spec.suites)}: the answers' texts are not in the data")
    log.info("%s: %s", judge, ", ".join(f"{n} {kind}" for kind, n in counted(items).items()))
    expected = estimate(spec, sets, items)
    cost = "" if expected.dollars is None else f", about ${expected.dollars:.2f}"
    log.info("%d judge calls%s", expected.calls, cost)
    if dry_run:
        print(f"{len(items)} items, {expected.calls} judge calls{cost}; nothing was asked, nothing written")
        return
    made = manifest(spec, sets, items)
    folder = folder_of(results, spec, made)
    said: list[Judgment] = []
    if spec.judges:
        check(spec, sets, items)
        store = RunStore(folder).open(made, fresh=fresh)
        said = _asked(spec, sets, items, store, expected.calls, console)
    found = report(spec, sets, items, said)
    places = [folder / "calibration.json", *([out] if out is not None else [])]
    write(found, *places)
    log.info("written: %s", ", ".join(map(str, places)))
    _show(found, as_json=as_json, markdown=markdown)


def _spec(judge: str, jury: str, suite: str, sample: int | None, seed: int) -> CalibrationSpec:
    rule = next((rule for rule in get_args(JuryRule) if rule == jury), None)
    if rule is None:
        raise ConfigError(f"no jury rule {jury!r}; known: {', '.join(get_args(JuryRule))}")
    if sample is not None and sample < 0:
        raise ConfigError(f"--sample {sample} is below 0; give the number of items, or 0 for every one")
    suites = ALL if suite == "all" else tuple(dict.fromkeys(part.strip() for part in suite.split(",")))
    judges = () if judge == RECORDED else find_jury(judge, read_file_spec(None).judges)
    if not judges and OWN in suites:
        raise ConfigError(f"--judge {RECORDED} has said nothing of your own comparisons; name a judge to ask")
    wanted = (SAMPLE if judges else 0) if sample is None else sample
    return CalibrationSpec(judges=judges, suites=suites, sample=wanted or None, seed=seed, jury=rule)


def _check_budget(spec: CalibrationSpec) -> None:
    if spec.max_cost is None:
        return
    if not spec.max_cost > 0:
        raise ConfigError(f"--max-cost {spec.max_cost:g} is not above 0")
    for judge in spec.judges:
        if not priced(judge):
            raise ConfigError(
                f"--max-cost needs the price of judge {judge.name!r}: give price_in and price_out, US dollars per "
                "million tokens, in its YAML file or under judges: in harness.yaml"
            )


def _asked(
    spec: CalibrationSpec, sets: list[CalibrationSet], items: list[Item], store: RunStore, total: int, console: Console
) -> list[Judgment]:
    """Asks what is still open and closes the store; Ctrl-C keeps what there is."""
    try:
        there = store.judgments.count_succeeded
        if there:
            log.info("resuming: %d of %d judgments are there", there, total)
        with progress(console, {("calibration", "judgments"): total - there}) as on_progress:
            asyncio.run(ask(spec, sets, items, store, on_progress))
        return list(store.judgments.all())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise IncompleteError("stopped; judgments so far are kept: the same command goes on from there") from None
    finally:
        store.close()


def _show(found: Calibration, *, as_json: bool, markdown: bool) -> None:
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    if markdown:
        print("\n".join(markdown_grid(grid) for grid in grids(found)))
        print("\n".join(f"- {escape_markdown(remark)}" for remark in remarks(found)))
        return
    console = Console(width=None if os.isatty(1) else 160)
    for grid in grids(found):
        console.print(rich_grid(grid))
    for remark in remarks(found):
        console.print(Text(plain(remark)))
