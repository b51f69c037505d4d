"""`harness judge calibrate`: replay recorded comparisons through a judge and report how far it agrees."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.text import Text

from ..analysis.judge_probe import lost_calls
from ..analysis.judge_replay import (
    RECORDED,
    CalibrationEstimate,
    CalibrationSpec,
    ask,
    chosen_items,
    counted,
    estimate,
    folder_of,
    load_sets,
    manifest,
    published_judgments,
    recorded_judgments,
    report,
    verdicts_of,
    write,
    write_battles,
)
from ..judging.calibrated import Calibration
from ..judging.cost import priced
from ..pages.judge_text import SEVERAL, CalibrationGrid, grids, markdown_grid, remarks, rich_grid, side_by_side
from ..pages.progress import progress
from ..pages.text import markdown_list, plain
from ..records import Judgment, JuryRule
from ..records.errors import ConfigError
from ..records.judge_choice import find_jury
from ..records.protocols import SuiteOptions
from ..store import RunStore
from ..store.trusted import read_config
from ..suites.recorded import CalibrationSet, Item, data_folder
from .console import STDERR, print_tables, set_up_logging, stdout_console, until_stopped
from .options import DRY_RUN, NO_CACHE, JsonFlags, MirrorFlags, ResultsFlags, VerboseFlags, command

log = logging.getLogger(__name__)

SAMPLE = 500
"""Items asked of a judge paid per call, by default: an agreement within a suite is then known to about +-0.06."""


class CalibrateFlags(ResultsFlags, MirrorFlags, JsonFlags, VerboseFlags):
    judge: Annotated[
        list[str],
        typer.Option(help="A judge as for `harness run`, or recorded: the retired judge's records; repeatable."),
    ]
    jury: Annotated[str, typer.Option(help="How a jury's verdicts are combined: mean, majority, median.")] = "mean"
    suite: Annotated[str, typer.Option(help=f"all, or a comma list of {', '.join(recorded_judgments())}.")] = "all"
    sample: Annotated[
        int | None,
        typer.Option(help=f"Items in total, stratified; 0: all. Default: {SAMPLE}; all for --judge {RECORDED}."),
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0
    repeats: Annotated[int, typer.Option(min=1, help="Times every judge is asked the same question.")] = 1
    data: Annotated[Path | None, typer.Option(help="Folder of recorded judgments (HARNESS_PUBLISHED).")] = None
    out: Annotated[Path | None, typer.Option(help="Also write calibration.json to this file.")] = None
    dry_run: Annotated[bool, DRY_RUN] = False
    fresh: Annotated[bool, typer.Option("--fresh", help="Archive the earlier calibration and start over.")] = False
    no_cache: Annotated[bool, NO_CACHE] = False
    max_cost: Annotated[float | None, typer.Option(help="US dollars each --judge may cost; stops before that.")] = None
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False

    def spec(self, judge: str) -> CalibrationSpec:
        """Return what to ask whom. Raise ConfigError for an unknown rule or judge, or a budget that cannot be kept."""
        rule = next((rule for rule in get_args(JuryRule) if rule == self.jury), None)
        if rule is None:
            raise ConfigError(f"no jury rule {self.jury!r}; known: {', '.join(get_args(JuryRule))}")
        if rule == "cyclic":
            raise ConfigError("--jury cyclic asks one member per question; a calibration compares all: calibrate each")
        if self.sample is not None and self.sample < 0:
            raise ConfigError(f"--sample {self.sample} is below 0; give the number of items, or 0 for all")
        published = published_judgments()
        suites = (
            published if self.suite == "all" else tuple(dict.fromkeys(part.strip() for part in self.suite.split(",")))
        )
        judges = () if judge == RECORDED else find_jury(judge, read_config(None).judges)
        if not judges and any(name in recorded_judgments() and name not in published for name in suites):
            raise ConfigError(f"--judge {RECORDED} has no verdicts on your own comparisons; name a judge to ask")
        sample = (SAMPLE if judges else 0) if self.sample is None else self.sample
        spec = CalibrationSpec(
            judges=judges,
            suites=suites,
            sample=sample or None,
            seed=self.seed,
            jury=rule,
            cache=not self.no_cache,
            max_cost=self.max_cost,
            repeats=self.repeats,
            needs_keys=not self.dry_run,
        )
        _check_budget(spec)
        return spec


@command
def calibrate(flags: CalibrateFlags) -> None:
    """Replay recorded comparisons through a judge: agreement with people and with the retired judge, biases, ranks.

    The same command again resumes; cards of this judge cite the result.

    Examples: harness judge calibrate --judge gpt-5.4 --sample 300 --data published;
    harness judge calibrate --judge recorded --suite mt_bench; several --judge end in one table
    """
    set_up_logging(verbose=flags.verbose)
    if len(flags.judge) > 1 and flags.out is not None:
        raise ConfigError(f"--out {flags.out} is for one judge, not {len(flags.judge)}; each has its own folder anyway")
    specs = {name: flags.spec(name) for name in flags.judge}  # all are checked before one is asked
    if flags.dry_run:
        _show_estimates({name: _prepared(name, spec, flags)[1:] for name, spec in specs.items()}, flags)
        return
    _show([_calibrated(name, spec, flags) for name, spec in specs.items()], flags)


def _show_estimates(estimates: Mapping[str, tuple[Sequence[Item], CalibrationEstimate]], flags: CalibrateFlags) -> None:
    if flags.as_json:
        rows = [
            {"judge": name, "items": len(items), "judge_calls": expected.calls, "judge_cost": expected.dollars}
            for name, (items, expected) in estimates.items()
        ]
        print(json.dumps({"dry_run": rows}, indent=2))
        return
    for name, (items, expected) in estimates.items():
        shown = "" if len(estimates) == 1 else f"{name}: "
        calls = f"{expected.calls} judge calls{_cost(expected)}"
        print(f"{shown}{len(items)} items, {calls}; nothing was asked, nothing written")


def _cost(expected: CalibrationEstimate) -> str:
    return "" if expected.dollars is None else f", about ${expected.dollars:.2f}"


def _prepared(
    name: str, spec: CalibrationSpec, flags: CalibrateFlags
) -> tuple[list[CalibrationSet], list[Item], CalibrationEstimate]:
    """Return what there is to ask one judge about, and what that will cost."""
    sets = load_sets(spec.suites, data_folder(flags.data), SuiteOptions(mirror=flags.mirror))
    items = chosen_items(spec, sets)
    if not items:
        raise ConfigError(f"nothing to ask about in {', '.join(spec.suites)}: the answers' texts are not in the data")
    log.info("%s: %s", name, ", ".join(f"{n} {kind}" for kind, n in counted(items).items()))
    expected = estimate(spec, sets, items)
    log.info("%d judge calls%s", expected.calls, _cost(expected))
    return sets, items, expected


def _calibrated(name: str, spec: CalibrationSpec, flags: CalibrateFlags) -> Calibration:
    """Return one judge's calibration, asking what is missing."""
    sets, items, expected = _prepared(name, spec, flags)
    settings = manifest(spec, sets, items)
    folder = folder_of(flags.results, spec, settings)
    judgments: list[Judgment] = []
    if spec.judges:
        store = RunStore(folder).open(settings, fresh=flags.fresh)
        judgments = _judge_missing(spec, sets, items, store, expected.calls)
    if lost := lost_calls(judgments):
        log.warning("%s: %s", name, plain(lost))
    calibration = report(spec, sets, items, judgments)
    files = [folder / "calibration.json", *([flags.out] if flags.out is not None else [])]
    write(calibration, *files)
    write_battles(folder, items, verdicts_of(spec, sets, items, judgments), str(calibration.judge["name"]))
    log.info("written: %s", ", ".join(map(str, files)))
    return calibration


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


def _judge_missing(
    spec: CalibrationSpec, sets: list[CalibrationSet], items: list[Item], store: RunStore, total: int
) -> list[Judgment]:
    try:
        judged = store.judgments.count_succeeded
        if judged:
            log.info("resuming: %d of %d judgments exist already", judged, total)
        with progress(STDERR, {("calibration", "judgments"): total - judged}) as on_progress:
            until_stopped(ask(spec, sets, items, store, on_progress))
        return list(store.judgments.all())
    finally:
        store.close()


def _show(calibrations: list[Calibration], flags: CalibrateFlags) -> None:
    """Print one calibration in full, or several as one table per suite."""
    if not calibrations:
        return
    if flags.as_json:
        reports = [calibration.model_dump(mode="json") for calibration in calibrations]
        print(json.dumps(reports[0] if len(reports) == 1 else {"calibrations": reports}, indent=2))
        return
    first, several = calibrations[0], len(calibrations) > 1
    tables = side_by_side(calibrations) if several else grids(first)
    sentences = [SEVERAL] if several else remarks(first)
    print_report(tables, sentences, markdown=flags.markdown)


def print_report(grids: Sequence[CalibrationGrid], sentences: Sequence[str], *, markdown: bool) -> None:
    """Print tables, then a sentence per line; `harness elo` does, too."""
    if markdown:
        print("\n".join(map(markdown_grid, grids)))
        print("\n".join(markdown_list(sentences)))
        return
    print_tables(*map(rich_grid, grids))
    for line in sentences:
        stdout_console().print(Text(plain(line)))
