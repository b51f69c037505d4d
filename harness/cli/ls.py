"""`harness ls`: list the runs of a results folder, or what is installed under an entry-point group."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..records.errors import ConfigError, did_you_mean
from ..records.judge_choice import judge_files
from ..records.protocols import Group, installed
from ..store import read_card
from ..store.files import is_hidden
from .console import stdout_console
from .options import JsonFlags, ResultsFlags, command

# ------------------------------------------------------------------------------------------------- the runs of a folder
# They are read from manifests and cards. No row is parsed, because a folder may have thousands of runs.


State = Literal["finished", "incomplete", "unfinished", "unreadable"]
"""finished: a complete card. incomplete: a card with under 90 % scored. unfinished: rows, but no card yet."""


@dataclass(frozen=True)
class ListedRun:
    model: str
    suite: str
    """`SUITE@VERSION`."""
    run_id: str
    state: State
    score: str
    """The headline, or a dash."""
    answers: int
    judgments: int
    """Lines of the files: rows that were retried count again."""
    changed: str
    """UTC, YYYY-MM-DD HH:MM, of the newest file."""
    folder: str

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)


def list_runs(results: Path) -> list[ListedRun]:
    """Return every run under `results/runs`, the one that changed last at the end; without archived ones."""
    folders = {
        path.parent
        for name in ("manifest.json", "card.json")
        for path in (results / "runs").glob(f"*/*@*/*/{name}")
        if not is_hidden(path.relative_to(results))
    }
    return [run for _, run in sorted(((_changed(folder), _listed(folder)) for folder in folders), key=_by_time)]


def _by_time(item: tuple[float, ListedRun]) -> tuple[float, str]:
    return item[0], item[1].folder


def _listed(folder: Path) -> ListedRun:
    model, score = folder.parents[1].name, "-"
    state: State = "unfinished"
    if (folder / "card.json").exists():
        try:
            card = read_card(folder / "card.json")
        except ConfigError:
            state = "unreadable"
        else:
            value = card.scores[card.headline].value
            model, score = card.model, "-" if value is None else f"{value:.2f}"
            state = "finished" if card.complete else "incomplete"
    return ListedRun(
        model=model,
        suite=folder.parent.name,
        run_id=folder.name,
        state=state,
        score=score,
        answers=_lines(folder / "answers.jsonl"),
        judgments=_lines(folder / "judgments.jsonl"),
        changed=time.strftime("%Y-%m-%d %H:%M", time.gmtime(_changed(folder))),
        folder=str(folder),
    )


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            # lines are counted in blocks of 1 MiB: a file of rows may have gigabytes
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))
    except OSError:
        return 0


def _changed(folder: Path) -> float:
    return max((file.stat().st_mtime for file in folder.iterdir() if file.is_file()), default=0.0)


# ---------------------------------------------------------------------------------------------------------- the command

GROUPS: dict[str, Group] = {name: name for name in ("backends", "suites", "judges", "rewards", "checks")}
RUNS, SUITES = "runs", "suites"


class LsFlags(ResultsFlags, JsonFlags):
    group: Annotated[str, typer.Argument(help="runs, backends, suites, judges, rewards or checks.")] = "runs"
    wide: Annotated[bool, typer.Option("--wide", help="Of runs and suites: show all columns.")] = False


@command
def ls(flags: LsFlags) -> None:
    """List runs, finished or not, or what is installed: suites, judges, backends, rewards, checks.

    Examples: harness ls; harness ls suites
    """
    if flags.group == RUNS:
        show_runs(flags)
        return
    if flags.group not in GROUPS:
        groups = (RUNS, *GROUPS)
        raise ConfigError(f"no group {flags.group!r}{did_you_mean(flags.group, groups)}; known: {', '.join(groups)}")
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
    from ..pages.text import hidden_line, rich_table
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
    from ..pages.text import hidden_line, rich_table

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
