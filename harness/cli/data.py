"""`harness data`: what the official suites are made of, and how it gets here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from ..records.errors import DataError
from ..records.facts import OfficialFile, all_facts
from ..store import official
from ..store.files import cache_folder
from .groups import command_group

data_app = command_group("Official benchmark files: list, pull, verify.")

WITH_FILES = ", ".join(facts.name for facts in all_facts() if facts.files)
Suites = Annotated[list[str] | None, typer.Argument(help=f"Suites ({WITH_FILES}); none: all.")]
Mirror = Annotated[
    str | None,
    typer.Option(help="Folder or URL that holds the same paths; tried before upstream (also HARNESS_MIRROR)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@data_app.command("list", epilog="Example: harness data list arena_hard --json")
def list_files(suites: Suites = None, as_json: AsJson = False) -> None:
    """List the pinned files: upstream address, licence, size, sha256, and whether they are in the cache."""
    files = official.files_of(suites or ())
    state = {file.name: "cached" if official.cached_path(file).is_file() else "missing" for file in files}
    _show(files, state, as_json)


@data_app.command("pull", epilog="Example: harness data pull mt_bench --mirror /media/usb/mirror")
def pull(suites: Suites = None, mirror: Mirror = None, as_json: AsJson = False) -> None:
    """Fetch what is not in the cache yet, from a mirror or from upstream, and check its sha256."""
    files = official.files_of(suites or ())
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

        state = {file.name: _pull_one(file, mirror, advance, named=bool(suites)) for file in files}
    _show(files, state, as_json)


def _pull_one(file: OfficialFile, mirror: str | None, advance: official.Progress, *, named: bool) -> str:
    """The file's state. One that few need stops a pull only where its suite is named."""
    try:
        official.ensure([file.name], mirror, progress=advance)
    except DataError as error:
        if named or not file.optional:
            raise
        print(f"harness: optional, left out: {error}", file=sys.stderr)
        return "missing"
    return "ok"


@data_app.command("verify", epilog="Example: harness data verify --json")
def verify(suites: Suites = None, as_json: AsJson = False) -> None:
    """Read every cached file whole and compare its sha256; exit 2 when one is missing or wrong."""
    files = official.files_of(suites or ())
    state = {file.name: official.verify(file) for file in files}
    _show(files, state, as_json)
    left_out = {file.name for file in files if file.optional and not suites and state[file.name] == "missing"}
    bad = [f"{name} ({found})" for name, found in state.items() if found != "ok" and name not in left_out]
    if bad:
        raise DataError(f"not as pinned: {', '.join(bad)}; `harness data pull` fetches them")


def _show(files: Iterable[OfficialFile], state: dict[str, str], as_json: bool) -> None:
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
    table = Table(box=None)
    for name in ("file", "state", "bytes", "licence", "sha256"):
        table.add_column(name, overflow="fold", justify="right" if name == "bytes" else "left")
    for file in files:
        size = "unknown" if file.size is None else f"{file.size:,}"
        sha = (official.expected_sha256(file) or "at first pull")[:13]
        table.add_row(file.name, state[file.name], size, file.licence, sha)
    console = Console()
    console.print(table)
    console.print(f"cache: {cache_folder() / 'data'}", soft_wrap=True, highlight=False)
