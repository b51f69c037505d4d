"""`harness ls`: the runs of a results folder, or what is installed under an entry-point group."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..records.errors import ConfigError, did_you_mean
from ..records.judge_choice import judge_files
from ..records.protocols import Group, installed
from .console import stdout_console
from .options import JsonFlags, ResultsFlags, command

GROUPS: dict[str, Group] = {name: name for name in ("backends", "suites", "judges", "rewards", "checks")}


RUNS, SUITES = "runs", "suites"


class LsFlags(ResultsFlags, JsonFlags):
    group: Annotated[str, typer.Argument(help="runs, backends, suites, judges, rewards or checks.")]
    wide: Annotated[bool, typer.Option("--wide", help="Of runs and suites: show all columns.")] = False


@command
def ls(flags: LsFlags) -> None:
    """List runs, finished or not; or what is installed: suites, judges, backends, rewards, checks.

    Examples: harness ls runs; harness ls suites
    """
    if flags.group == RUNS:
        show_runs(flags)
        return
    if flags.group not in GROUPS:
        known = (RUNS, *GROUPS)
        raise ConfigError(f"no group {flags.group!r}{did_you_mean(flags.group, known)}; known: {', '.join(known)}")
    if flags.group == SUITES and not flags.as_json:
        show_suites(flags)
        return
    rows = [
        {"name": name, "object": point.value, "package": point.dist.name if point.dist else ""}
        for name, point in installed(GROUPS[flags.group]).items()
    ]
    if flags.as_json:
        print(json.dumps({flags.group: rows}, indent=2))
        return
    for row in rows:
        print(f"{row['name']:<16} {row['object']:<50} {row['package']}")
    if flags.group == "judges":
        print(f"configured: {', '.join(judge_files())} (harness judge list)")


def show_suites(flags: LsFlags) -> None:
    """Print the suites with the benchmark that each one is, its headline and its size."""
    from ..pages.terminal import hidden_line
    from ..pages.text import rich_table
    from ..records.facts import facts_of

    head = ("suite", "benchmark", "headline", "questions", "package")
    cells = []
    for name, point in installed(GROUPS[SUITES]).items():
        facts = facts_of(name)
        title = facts.title or name
        cells.append(
            [name, title, facts.headline or "-", str(facts.questions or "-"), point.dist.name if point.dist else ""]
        )
    table = rich_table("", head, cells, ("suite", "benchmark", "headline", "package"), (*head[:4],), 3)
    console = stdout_console(wide=flags.wide)
    console.print(table)
    if sentence := hidden_line([table], console.width):
        print(sentence)


def show_runs(flags: LsFlags) -> None:
    """Print the runs of the results folder, the latest last."""
    from ..pages.terminal import hidden_line
    from ..pages.text import rich_table
    from ..running.listing import list_runs

    runs = list_runs(flags.results)
    if flags.as_json:
        print(json.dumps({RUNS: [run.as_dict() for run in runs]}, indent=2))
        return
    if not runs:
        print(f"no runs under {flags.results / 'runs'}; `harness run --model DIR` makes one")
        return
    head = ("model", "suite", "state", "score", "answers", "judgments", "changed", "run")
    cells = [
        [run.model, run.suite, run.state, run.score, str(run.answers), str(run.judgments), run.changed, run.run_id]
        for run in runs
    ]
    order = ("state", "suite", "model", "score", "changed", "answers", "judgments")
    table = rich_table("", head, cells, ("model", "suite", "state"), order, 4)
    console = stdout_console(wide=flags.wide)
    console.print(table)
    if sentence := hidden_line([table], console.width):
        print(sentence)
    open_runs = sum(run.state != "finished" for run in runs)
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    print(f"{count}, {open_runs} not finished" + ("; the same `harness run` resumes one" if open_runs else ""))
