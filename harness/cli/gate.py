"""`harness gate`: turn the verdict on a candidate into an exit code. `gate promote` and `gate power` go with it."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..analysis.comparison import Population
from ..analysis.finished_runs import StoredRun, find_runs
from ..analysis.games import suite_of_games
from ..analysis.gate.candidates import CandidatesReport, gate_candidates
from ..analysis.gate.decision import FEWEST_MODELS, checks_of, slopes_of
from ..analysis.gate.evidence import (
    DEFAULT,
    GateOptions,
    PowerOptions,
    baseline_runs,
    baselines_file,
    gate_runs,
    power_of,
    promote,
    read_policy,
)
from ..analysis.gate.live import baselines_of, gate_live
from ..analysis.gate.policy import GatePolicy, GateReport, refuse_unknown_metrics
from ..analysis.population import POPULATION_LINES
from ..pages.comparison_text import best_sentence
from ..pages.gate_text import (
    candidate_line,
    candidates_markdown,
    gate_markdown,
    junit,
    rich_checks,
    rich_power,
    rich_slopes,
    sequential_line,
    shipping_line,
    summary_line,
)
from ..pages.text import plain
from ..records.documents import SUITE_COPY
from ..records.errors import ConfigError, UsageError, did_you_mean
from ..records.judge_choice import plugin_name
from ..records.settings import FileSpec
from ..running.plan import plan
from ..running.resolve import overlaid, resolve
from ..store import dump_json, find_cards, read_card, write_atomic, write_bytes
from ..store.runs import BASELINE_ROWS
from ..store.trusted import read_config
from .console import json_text, print_hidden, print_tables, set_up_logging, stdout_console
from .options import SETTINGS, Flags, JsonFlags, MirrorFlags, PanelGroup, ResultsFlags, comma_list, command
from .run import work


class GateGroup(PanelGroup):
    """The gate's subcommands. If a model is given without a flag, the error names the flag to use."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names = self.list_commands(ctx)
        if args and args[0] not in names:
            near = did_you_mean(args[0], names)
            raise UsageError(
                f"no command {args[0]!r} of the gate{near}; a model is named by a flag, as in `harness gate "
                f"--candidate NEW --baseline OLD`; commands: {', '.join(names)}"
            )
        return super().resolve_command(ctx, args)


gate_app = typer.Typer(cls=GateGroup, invoke_without_command=True, **SETTINGS)
LIVE = "With --live (also harness.yaml, as in harness run)"
AS_IN_RUN = typer.Option(help="As in harness run.", rich_help_panel=LIVE)


class LiveFlags(Flags):
    """Flags of `harness run` for a candidate that is judged now."""

    judge: Annotated[str | None, AS_IN_RUN] = None
    jury: Annotated[str | None, AS_IN_RUN] = None
    audit: Annotated[str | None, AS_IN_RUN] = None
    backend: Annotated[str | None, AS_IN_RUN] = None
    edition: Annotated[str | None, AS_IN_RUN] = None
    limit: Annotated[int | None, AS_IN_RUN] = None
    config: Annotated[Path | None, AS_IN_RUN] = None


class GateFlags(JsonFlags, ResultsFlags, MirrorFlags):
    candidate: Annotated[str | None, typer.Option(help="Run folder, card or model; with --live a MODEL.")] = None
    candidates: Annotated[
        str | None,
        typer.Option(help="Several judged models (comma list): which of them pass, and which of those is best."),
    ] = None
    baseline: Annotated[
        str | None, typer.Option(help="Run folder, card, model, or a name in baselines.yaml.  [default: default]")
    ] = None
    policy: Annotated[Path | None, typer.Option(help="gate.yaml; default: the suites' own checks and margins.")] = None
    population: Annotated[
        Population | None,
        typer.Option(
            help="Decide for these questions only (these), or for others like them (all); default: policy, or all."
        ),
    ] = None
    sequential: Annotated[
        bool, typer.Option("--sequential", help="Stop judging as soon as the verdict is safe; replayed on judged runs.")
    ] = False
    live: Annotated[bool, typer.Option("--live", help="Serve, ask and judge the candidate first, as in run.")] = False
    force: Annotated[bool, typer.Option("--force", help="Gate runs even if their protocols differ.")] = False
    json_file: Annotated[Path | None, typer.Option("--json-file", help="Write the report as JSON.")] = None
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None
    summary: Annotated[
        Path | None, typer.Option(help="Append Markdown, as to $GITHUB_STEP_SUMMARY.", envvar="GITHUB_STEP_SUMMARY")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of question order, bootstrap and permutations.")] = 0
    live_run: LiveFlags = LiveFlags()

    def settings(self, suites: list[str]) -> FileSpec:
        """Return harness.yaml with these flags over it, for a live run of the candidate."""
        file = read_config(self.live_run.config)
        # The gate judges its own questions, live; anchors, batches and devices of the file are for other runs.
        file = file.model_copy(update={"anchors": None, "transport": None, "judge_devices": None})
        flags = self.live_run.model_dump(exclude={"config"}) | {"model": self.candidate, "suite": ",".join(suites)}
        return overlaid(file, flags | {"results": str(self.results), "mirror": self.mirror})


class PromoteFlags(ResultsFlags):
    run: Annotated[str, typer.Argument(help="Run folder, card.json or model that becomes the baseline.")]
    why: Annotated[str, typer.Option(help="The reason, kept in baselines.yaml.")]
    name: Annotated[str, typer.Option(help="The baseline's name.")] = DEFAULT
    by: Annotated[str | None, typer.Option(help="Who decided; default: this account's name.")] = None
    suite: Annotated[str | None, typer.Option(help="Only these suites (comma list).")] = None


class SlopesFlags(ResultsFlags, JsonFlags):
    pass


class PowerFlags(ResultsFlags, JsonFlags):
    baseline: Annotated[str, typer.Option(help="Run folder, card or model.")]
    candidate: Annotated[list[str] | None, typer.Option(help="Paired with it (repeatable); default: all runs.")] = None
    policy: Annotated[Path | None, typer.Option(help="gate.yaml, for margins and alpha.")] = None
    trials: Annotated[int, typer.Option(min=10, help="Simulated gates per drop and pair.")] = 400
    questions: Annotated[int | None, typer.Option(min=2, help="Questions per gate; default: all there are.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulations.")] = 0


@gate_app.callback()
@command
def gate(context: typer.Context, flags: GateFlags) -> None:
    """Is the candidate no worse than the baseline? Exit 0 pass, 1 fail, 3 inconclusive, 4 invalid.

    Examples: harness gate --candidate new-model --baseline old-model --policy gate.yaml --junit gate.xml;
    harness gate --candidate ./ckpt --live --sequential --judge gpt-5.4
    """
    if context.invoked_subcommand is not None:
        return
    if (flags.candidate is None) == (flags.candidates is None):
        raise ConfigError("give one of --candidate RUN or MODEL, and --candidates A,B,C")
    if flags.candidates is not None and flags.live:
        raise ConfigError("--candidates are judged runs: drop --live, or gate one --candidate")
    if not flags.live:
        for name, value in flags.live_run.model_dump(exclude_none=True).items():
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} {str(value)!r} is for --live: add it, or drop {flag}")
    policy = read_policy(flags.policy)
    if flags.population is not None:
        policy = policy.model_copy(update={"population": flags.population})
    if flags.sequential and policy.population == "these":
        raise ConfigError(
            "--sequential judges ever more questions, so it decides about all; drop it or --population these"
        )
    options = GateOptions(
        results=flags.results, force=flags.force, sequential=flags.sequential, seed=flags.seed, mirror=flags.mirror
    )
    if flags.candidates is not None:
        several = gate_candidates(comma_list(flags.candidates), flags.baseline, policy, options)
        write_files(flags, several, several.reports, candidates_markdown(several))
        show_several(several, as_json=flags.as_json)
        raise typer.Exit(several.exit_code)
    assert flags.candidate is not None, "one of the two is given"
    if flags.live:
        report = judge_candidate(flags, policy, options)
    else:
        report = gate_runs(flags.candidate, flags.baseline, policy, options)
    write_files(flags, report, [report], gate_markdown(report))
    show(report, as_json=flags.as_json)
    raise typer.Exit(report.exit_code)


def judge_candidate(flags: GateFlags, policy: GatePolicy, options: GateOptions) -> GateReport:
    """Serve, ask and judge the candidate on the suites of the policy, or else of the baseline."""
    set_up_logging()
    suites = policy.suites
    played = [suite for suite in suites if suite_of_games(suite) is not None]
    if played:
        raise ConfigError(f"{played[0]} needs the answers of both models first: gate it without --live")
    runs_of_baseline = baseline_runs(flags.baseline, flags.results, suites)
    refuse_unknown_metrics(policy, [run.card for run in runs_of_baseline])
    suites = suites or list(dict.fromkeys(run.card.suite for run in runs_of_baseline))
    spec = resolve(live_settings(flags, suites, runs_of_baseline))
    run_plan = plan(spec)
    baselines = baselines_of(run_plan, runs_of_baseline, force=options.force)
    if not checks_of(policy, {suite: rows.card for suite, rows in baselines.items()}):
        raise ConfigError(
            f"no check for {', '.join(baselines)}, so nothing would be decided: give --policy a file with checks, or a "
            "suite of your own its margin:"
        )
    return work(
        run_plan,
        lambda runs, on_progress: gate_live(run_plan, runs, baselines, policy, options, on_progress=on_progress),
    )


def live_settings(flags: GateFlags, suites: Sequence[str], baselines: Sequence[StoredRun]) -> FileSpec:
    """Return the candidate's settings, with the suites and comparison answers copied in the baseline run's folder."""
    folders = {run.card.suite: run.folder for run in reversed(baselines) if run.folder is not None}
    copies = {suite: folder / SUITE_COPY for suite, folder in folders.items() if (folder / SUITE_COPY).is_file()}
    named = [f"{plugin_name(suite)}:{copies[suite]}" if suite in copies else suite for suite in suites]
    settings = flags.settings(named)
    opponents = {suite: folder / BASELINE_ROWS for suite, folder in folders.items() if suite in suites}
    answers = {suite: str(file) for suite, file in opponents.items() if file.is_file()}
    return settings.model_copy(update={"baseline": answers}) if answers else settings


def write_files(
    flags: GateFlags, report: GateReport | CandidatesReport, reports: Sequence[GateReport], markdown: str
) -> None:
    """Write the files that were asked for; `reports` has one report per candidate."""
    if flags.json_file is not None:
        write_atomic(flags.json_file, dump_json(report.model_dump(mode="json")))
    if flags.junit_file is not None:
        write_atomic(flags.junit_file, junit(reports))
    summary = flags.summary
    if summary is not None:
        earlier = summary.read_bytes() + b"\n" if summary.is_file() and summary.stat().st_size else b""
        write_bytes(summary, earlier + markdown.encode("utf-8"))


def show(report: GateReport, *, as_json: bool) -> None:
    """Print the checks, exceeded limits and notes, and last the verdict."""
    if as_json:
        print(dump_json(report.model_dump(mode="json")), end="")
        print(summary_line(report), file=sys.stderr)
        return
    console = stdout_console()
    console.print(Text(POPULATION_LINES[report.policy.population]))
    print_tables(rich_checks(report))
    for limit in report.limits:
        if not limit.kept:
            console.print(Text(plain(f"over its limit: {limit.suite} {limit.name} of {limit.run}: {limit.value:.1%}")))
    for line in (*map(sequential_line, report.sequential), *report.notes):
        console.print(Text(plain(line)))
    print(summary_line(report))


def show_several(report: CandidatesReport, *, as_json: bool) -> None:
    """Print each candidate's checks and verdict, who may be the best of those that pass, and last what to ship."""
    if as_json:
        print(dump_json(report.model_dump(mode="json")), end="")
        print(shipping_line(report), file=sys.stderr)
        return
    console, count = stdout_console(), len(report.reports)
    for row in report.reports:
        console.print(rich_checks(row, row.candidate))
    print_hidden(console, [rich_checks(row) for row in report.reports])
    for row in report.reports:
        console.print(Text(candidate_line(row, count)))
    for best in report.best:
        console.print(Text(plain(best_sentence(best))))
    print(shipping_line(report))


@gate_app.command("promote")
@command
def promote_command(flags: PromoteFlags) -> None:
    """Make runs the default baseline.

    Writes to results/baselines.yaml, per suite, who did so, when and why.

    Example: harness gate promote new-model --why "release 1.2"
    """
    stored_runs = find_runs(flags.run, flags.results, comma_list(flags.suite))
    runs = [(run.card, run.folder) for run in stored_runs if run.folder is not None]
    keys = [f"{card.suite}@{card.suite_version}" for card, _ in runs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        listed = ", ".join(run.described for run in stored_runs if "@".join(run.key) == twice)
        raise ConfigError(f"{flags.run!r} has several runs of {twice}; promote the folder of one: {listed}")
    if not runs:
        raise ConfigError(f"{flags.run!r} is a card without a run; promote a run's folder")
    promote(flags.results, runs, name=flags.name, by=flags.by or _account(), why=flags.why)
    for card, _ in runs:
        print(plain(f"{flags.name}: {card.suite} ({card.suite_version}) is now {card.model}"))
    print(baselines_file(flags.results))


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container whose user has no entry in /etc/passwd
        raise ConfigError("this account has no name: state with --by who decided") from None


@gate_app.command("slopes")
@command
def slopes_command(flags: SlopesFlags) -> None:
    """Fit how two suites move together.

    Over the models of the results folder, for `slopes` of a pooled check.

    Example: harness gate slopes --results results
    """
    rows = slopes_of(read_card(file) for file in find_cards(flags.results))
    if flags.as_json:
        print(json_text("slopes", rows), end="")
        return
    if not rows:
        raise ConfigError(
            f"no two suites under {flags.results} have {FEWEST_MODELS} models in common, each measured in one way"
        )
    print_tables(rich_slopes(rows))


@gate_app.command("power")
@command
def power(flags: PowerFlags) -> None:
    """Count how often the gate errs.

    Puts known drops into real paired judgments and counts the gate's verdicts.

    Example: harness gate power --baseline old-model
    """
    rows = power_of(
        flags.baseline,
        flags.candidate or [],
        read_policy(flags.policy),
        flags.results,
        PowerOptions(flags.trials, flags.questions, flags.seed),
    )
    if flags.as_json:
        print(dump_json({"power": [row.model_dump(mode="json") for row in rows]}), end="")
        return
    print_tables(rich_power(rows))
