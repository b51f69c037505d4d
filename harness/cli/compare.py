"""`harness compare`: two or more runs on the same questions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..comparing import compare_models
from ..comparison import Comparison
from ..errors import ConfigError
from ..report.comparison import markdown, other_lines, rich_comparison, verdict
from ..report.tables import plain
from ..store import write_atomic

FORMATS = ("table", "md", "json")


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="A B [C ...]", help="Run folders, card files or model names.")],
    suite: Annotated[str | None, typer.Option(help="Only these suites (comma list).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare runs of different protocols all the same.")] = False,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    flips: Annotated[int, typer.Option(min=0, help="Flipped questions to list.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of bootstrap and permutations.")] = 0,
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "table",
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write there instead of printing.")] = None,
) -> None:
    """Compare models with the first on the same questions: difference, interval, p-value, and what could be seen.

    Example: harness compare base-model new-model --suite arena_hard
    """
    chosen = "json" if as_json else file_format
    if chosen not in FORMATS:
        raise ConfigError(f"no format {chosen!r}; known: {', '.join(FORMATS)}")
    if len(runs) < 2:
        raise ConfigError(f"compare needs two runs or more, got {runs[0]!r} alone")
    suites = tuple(part.strip() for part in suite.split(",")) if suite else ()
    found = compare_models(runs, results, suites=suites, force=force, mirror=mirror, seed=seed)
    text = None
    if chosen == "json":
        text = json.dumps({"comparisons": [one.model_dump(mode="json") for one in found]}, indent=2) + "\n"
    elif chosen == "md":
        text = markdown(found, flips=flips)
    show(found, text, out, flips=flips)


def show(found: list[Comparison], text: str | None, out: Path | None, *, flips: int) -> None:
    if out is not None:
        write_atomic(out, text if text is not None else markdown(found, flips=flips))
        return
    if text is not None:
        print(text, end="")
        return
    console = Console(width=None if os.isatty(1) else 140)
    for one in found:
        for table in rich_comparison(one, flips=flips):
            console.print(table)
        for line in other_lines(one):
            console.print(Text(plain(line)), soft_wrap=True)
    for one in found:
        console.print(Text(plain(verdict(one)), style="bold"), soft_wrap=True)
