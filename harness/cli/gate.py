"""`harness gate`: a verdict on a candidate, with exit code; `gate promote` and `gate power` beside it."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..analysis.finished_runs import find_runs
from ..analysis.gate.baselines import DEFAULT, baselines_file, promote
from ..analysis.gate.evidence import GateOptions, gate_runs, power_of, read_policy
from ..analysis.gate.policy import GatePolicy, GateReport
from ..pages.gate_text import gate_markdown, junit, rich_checks, rich_power, sequential_line, summary_line
from ..pages.text import plain
from ..records.errors import ConfigError, IncompleteError
from ..records.protocols import RunRows
from ..store import dump_json, write_atomic
from .console import set_up_logging
from .groups import SETTINGS

if TYPE_CHECKING:
    from ..run.plan import Plan


gate_app = typer.Typer(invoke_without_command=True, **SETTINGS)
LIVE = "With --live (also harness.yaml, as in harness run)"


@gate_app.callback()
def gate(
    context: typer.Context,
    candidate: Annotated[str | None, typer.Option(help="Run folder, card or model; with --live a MODEL.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Run folder, card, model, or a name in baselines.yaml.  [default: default]")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="gate.yaml; default: docs/gate.md's margins.")] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Stop judging as soon as the verdict is safe; replayed on judged runs.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Serve, ask and judge the candidate now, as harness run does.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Gate runs of different protocols all the same.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Write the report as JSON.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Append Markdown, as to $GITHUB_STEP_SUMMARY.", envvar="GITHUB_STEP_SUMMARY")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of question order, bootstrap and permutations.")] = 0,
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    judge: Annotated[str | None, typer.Option(help="As in harness run.", rich_help_panel=LIVE)] = None,
    backend: Annotated[str | None, typer.Option(help="As in harness run.", rich_help_panel=LIVE)] = None,
    edition: Annotated[str | None, typer.Option(help="As in harness run.", rich_help_panel=LIVE)] = None,
    limit: Annotated[int | None, typer.Option(help="As in harness run.", rich_help_panel=LIVE)] = None,
    config: Annotated[Path | None, typer.Option(help="As in harness run.", rich_help_panel=LIVE)] = None,
) -> None:
    """Is the candidate no worse than the baseline? Exit 0 pass, 1 fail, 3 inconclusive, 4 invalid.

    Examples: harness gate --candidate new-model --baseline old-model --policy gate.yaml --junit gate.xml;
    harness gate --candidate ./ckpt --live --sequential --judge gpt-4.1
    """
    if context.invoked_subcommand is not None:
        return
    if candidate is None:
        raise ConfigError("no candidate: give --candidate RUN or MODEL")
    rules = read_policy(policy)
    options = GateOptions(results=results, force=force, sequential=sequential, seed=seed, mirror=mirror)
    if live:
        flags = {"judge": judge, "backend": backend, "edition": edition, "limit": limit}
        report = _live(candidate, baseline, rules, options, flags, config)
    else:
        report = gate_runs(candidate, baseline, rules, options)
    write_files(report, json_file, junit_file, summary)
    show(report, as_json=as_json)
    raise typer.Exit(report.exit_code)


def _live(
    candidate: str,
    baseline: str | None,
    rules: GatePolicy,
    options: GateOptions,
    flags: dict[str, str | int | None],
    config: Path | None,
) -> GateReport:
    from ..analysis.gate.evidence import baseline_runs
    from ..analysis.gate.live import baselines_of
    from ..records.settings import read_file_spec
    from ..run.plan import plan
    from .run import resolve

    set_up_logging(Console(stderr=True), verbose=False)
    suites = list(dict.fromkeys(check.suite for check in rules.checks))
    found = baseline_runs(baseline, options.results, suites)
    names = suites or list(dict.fromkeys(one.card.suite for one in found))
    chosen = {**flags, "model": candidate, "suite": ",".join(names), "results": str(options.results)}
    # None: as harness.yaml has it
    others = dict.fromkeys(("jury", "repeats", "references", "seed", "cache", "max_cost"))
    spec = resolve(read_file_spec(config), {**others, "mirror": options.mirror, **chosen}, {}, {})
    made = plan(spec)
    baselines = baselines_of(made, found, force=options.force)
    return _judged(made, baselines, rules, options)


def _judged(made: Plan, baselines: dict[str, RunRows], rules: GatePolicy, options: GateOptions) -> GateReport:
    """The report after judging; Ctrl-C and SIGTERM stop it cleanly."""
    from ..analysis.gate.live import gate_live
    from ..run.estimate import estimate
    from ..run.execute import opened
    from .console import announce, progress
    from .run import stoppable, totals_of

    estimates = estimate(made)
    announce(estimates)
    with (
        opened(made, fresh=False) as runs,
        progress(Console(stderr=True), totals_of(estimates, runs)) as on_progress,
    ):
        job = gate_live(made, runs, baselines, rules, options, on_progress=on_progress)
        try:
            report: GateReport = asyncio.run(stoppable(job))
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise IncompleteError(
                "stopped; answers and judgments so far are kept: the same command goes on from there"
            ) from None
        return report


def write_files(report: GateReport, json_file: Path | None, junit_file: Path | None, summary: Path | None) -> None:
    if json_file is not None:
        write_atomic(json_file, dump_json(report.model_dump(mode="json")))
    if junit_file is not None:
        write_atomic(junit_file, junit(report))
    if summary is not None:
        before = summary.read_text("utf-8") + "\n" if summary.is_file() and summary.stat().st_size else ""
        write_atomic(summary, before + gate_markdown(report))


def show(report: GateReport, *, as_json: bool) -> None:
    """The checks, what else a reader should know, and last the verdict."""
    if as_json:
        print(dump_json(report.model_dump(mode="json")), end="")
        print(summary_line(report), file=sys.stderr)
        return
    console = Console(width=None if os.isatty(1) else 140)
    console.print(rich_checks(report))
    for one in report.limits:
        if not one.kept:
            console.print(Text(plain(f"over its limit: {one.suite} {one.name} of {one.run}: {one.value:.1%}")))
    for line in (*map(sequential_line, report.sequential), *report.notes):
        console.print(Text(plain(line)), soft_wrap=True)
    print(summary_line(report))


@gate_app.command("promote")
def promote_(
    run: Annotated[str, typer.Argument(help="Run folder, card.json or model: what becomes the baseline.")],
    why: Annotated[str, typer.Option(help="The reason, kept in baselines.yaml.")],
    name: Annotated[str, typer.Option(help="The baseline's name.")] = DEFAULT,
    by: Annotated[str | None, typer.Option(help="Who decided; default: this account's name.")] = None,
    suite: Annotated[str | None, typer.Option(help="Only these suites (comma list).")] = None,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
) -> None:
    """Make runs the baseline of their suites in results/baselines.yaml: who, when, why.

    Example: harness gate promote new-model --why "release 1.2"
    """
    suites = tuple(part.strip() for part in suite.split(",")) if suite else ()
    found = find_runs(run, results, suites)
    runs = [(one.card, one.folder) for one in found if one.folder is not None]
    keys = [f"{card.suite}@{card.suite_version}" for card, _ in runs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise ConfigError(f"{run!r} has several runs of {twice}; promote one folder of them")
    if not runs:
        raise ConfigError(f"{run!r} is a card on its own; a baseline is a run's folder")
    promote(results, runs, name=name, by=by or getpass.getuser(), why=why)
    for card, _ in runs:
        print(plain(f"{name}: {card.suite} ({card.suite_version}) is now {card.model}"))
    print(baselines_file(results))


@gate_app.command("power")
def power(
    baseline: Annotated[str, typer.Option(help="Run folder, card or model.")],
    candidate: Annotated[
        list[str] | None, typer.Option(help="Paired with it (repeatable); default: all its comparable runs.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="gate.yaml, for margins and alpha.")] = None,
    trials: Annotated[int, typer.Option(min=10, help="Simulated gates a drop and pair.")] = 400,
    questions: Annotated[
        int | None, typer.Option(min=2, help="Questions a gate; default: as many as there are.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """How often the gate would be wrong: known drops put into real paired judgments, and what it then says.

    Example: harness gate power --baseline old-model
    """
    rows = power_of(
        baseline, candidate or [], read_policy(policy), results, trials=trials, questions=questions, seed=seed
    )
    if as_json:
        print(dump_json({"power": [row.model_dump(mode="json") for row in rows]}), end="")
        return
    console = Console(width=None if os.isatty(1) else 140)
    console.print(rich_power(rows))
