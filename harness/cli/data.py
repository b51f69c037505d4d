"""`harness data`: list, fetch and verify the pinned files of the official suites."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from ..pages.text import rich_table
from ..records.errors import DataError
from ..records.facts import OfficialFile, all_facts
from ..store import official
from ..store.files import cache_folder
from .console import print_tables
from .options import JsonFlags, command, command_group

data_app = command_group("Official benchmark files: list, pull, verify.")

MANY = 5
"""Files of a suite above which they are one row of a table."""
WITH_FILES = ", ".join(facts.name for facts in all_facts() if facts.files)


class DataFlags(JsonFlags):
    suites: Annotated[list[str] | None, typer.Argument(help=f"Suites ({WITH_FILES}); none: all.")] = None


class PullFlags(JsonFlags):
    suites: Annotated[
        list[str] | None, typer.Argument(help=f"Suites ({WITH_FILES}); none: what `harness run --suite all` needs.")
    ] = None
    mirror: Annotated[
        str | None, typer.Option(help="Folder or URL with the same paths; tried before upstream (also HARNESS_MIRROR).")
    ] = None


@data_app.command("list", epilog="Example: harness data list arena_hard --json")
@command
def list_files(flags: DataFlags) -> None:
    """List the pinned files: upstream address, licence, size, sha256, and whether they are in the cache."""
    files = official.files_of(flags.suites or ())
    state = {file.name: "cached" if official.cached_path(file).is_file() else "missing" for file in files}
    _show(files, state, as_json=flags.as_json, names_each=bool(flags.suites))


@data_app.command("pull", epilog="Example: harness data pull mt_bench --mirror /media/usb/mirror")
@command
def pull(flags: PullFlags) -> None:
    """Fetch what is not in the cache yet, from a mirror or from upstream, and check its sha256."""
    files = official.files_of(flags.suites) if flags.suites else official.usual_files()
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, size: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=size)
            bars.update(tasks[name], completed=done)

        state = {file.name: _pull_file(file, flags.mirror, advance, required=bool(flags.suites)) for file in files}
    _show(files, state, as_json=flags.as_json, names_each=bool(flags.suites))
    for suite, group in groupby((file for file in files if state[file.name] == "skipped"), lambda file: file.suite):
        first, *rest = group
        more = f" (and {len(rest)} more files of {suite})" if rest else ""
        print(f"harness: skipped{more}: {official.skipped(first)}", file=sys.stderr)


def _pull_file(file: OfficialFile, mirror: str | None, advance: official.Progress, *, required: bool) -> str:
    """Fetch the file and return its state. An optional file that is not available fails the pull only if `required`."""
    if official.is_skipped(file, mirror):
        return "skipped"
    try:
        official.ensure([file.name], mirror, progress=advance)
    except DataError as error:
        if required or not file.optional:
            raise
        print(f"harness: optional, left out: {error}", file=sys.stderr)
        return "missing"
    return "ok"


@data_app.command("verify", epilog="Example: harness data verify --json")
@command
def verify(flags: DataFlags) -> None:
    """Read every cached file completely and compare its sha256; exit 2 if one is missing or wrong."""
    files = official.files_of(flags.suites or ())
    state = {file.name: official.verify(file) for file in files}
    _show(files, state, as_json=flags.as_json, names_each=bool(flags.suites))
    usual = set() if flags.suites else {file.name for file in official.usual_files()}
    tolerated = {name for name, status in state.items() if status == "missing" and usual and name not in usual}
    bad = [f"{name} ({status})" for name, status in state.items() if status != "ok" and name not in tolerated]
    if bad:
        raise DataError(f"not as pinned: {', '.join(bad)}; `harness data pull` fetches them")


def _show(files: Iterable[OfficialFile], state: dict[str, str], *, as_json: bool, names_each: bool) -> None:
    """Print a row per file; unless `names_each`, files of a suite that has many are one row."""
    if as_json:
        rows = [
            {
                "name": file.name,
                "suite": file.suite,
                "state": state[file.name],
                "path": str(official.cached_path(file)),
                "url": file.url,
                "mirror_path": file.path,
                "sha256": official.expected_sha256(file),
                "optional": file.optional,
                "bytes": file.size,
                "licence": file.licence,
            }
            for file in files
        ]
        print(json.dumps({"files": rows}, indent=2))
        return
    head = ("file", "state", "bytes", "licence", "sha256")
    cells = []
    by_suite: dict[str, list[OfficialFile]] = {}
    for file in files:
        by_suite.setdefault(file.suite, []).append(file)
    for suite, group in by_suite.items():
        if len(group) > MANY and not names_each:
            counts = Counter(state[file.name] for file in group)
            states = ", ".join(f"{count} {word}" for word, count in counts.items())
            sizes = [file.size for file in group if file.size is not None]
            total = f"{sum(sizes):,}" if len(sizes) == len(group) else "unknown"
            licences = ", ".join(dict.fromkeys(file.licence for file in group))
            cells.append((f"{suite} ({len(group)} files)", states, total, licences, ""))
            continue
        for file in group:
            size = "unknown" if file.size is None else f"{file.size:,}"
            sha = (official.expected_sha256(file) or "none")[:13]
            cells.append((file.name, state[file.name], size, file.licence, sha))
    print_tables(rich_table("", head, cells, ("file", "state", "licence", "sha256")))
    print(f"cache: {cache_folder() / 'data'}")
