"""`harness compare`: two or more runs on the same questions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..analysis.comparison import Comparison
from ..analysis.finished_runs import compare_models, matched
from ..pages.comparison_text import (
    games_markdown,
    games_verdict,
    markdown,
    other_lines,
    rich_comparison,
    rich_games,
    verdict,
)
from ..pages.text import plain
from ..records import ScoreCard
from ..records.errors import ConfigError
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
    head_to_head: Annotated[
        bool, typer.Option("--head-to-head", help="Have a judge compare their answers directly, in both orders.")
    ] = False,
    judge: Annotated[str | None, typer.Option(help="With --head-to-head: as in harness run.")] = None,
    config: Annotated[Path | None, typer.Option(help="With --head-to-head: as in harness run.")] = None,
) -> None:
    """Compare models with the first on the same questions: difference, interval, p-value, and what could be seen.

    Examples: harness compare base-model new-model --suite arena_hard;
    harness compare base-model new-model --head-to-head --judge gpt-4.1
    """
    chosen = "json" if as_json else file_format
    if chosen not in FORMATS:
        raise ConfigError(f"no format {chosen!r}; known: {', '.join(FORMATS)}")
    if len(runs) < 2:
        raise ConfigError(f"compare needs two runs or more, got {runs[0]!r} alone")
    suites = tuple(part.strip() for part in suite.split(",")) if suite else ()
    if head_to_head:
        show_games(play(runs, suites, results, judge, config, mirror), chosen, out)
        return
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


def play(
    names: list[str],
    suites: tuple[str, ...],
    results: Path,
    judge: str | None,
    config: Path | None,
    mirror: str | None,
) -> list[ScoreCard]:
    """Every model's answers against the first's: a run of its own each, suite by suite."""
    from ..analysis.finished_runs import head_to_head_plan
    from ..run.estimate import estimate
    from .console import announce, set_up_logging
    from .run import work

    console = Console(stderr=True)
    set_up_logging(console, verbose=False)
    plans = [
        head_to_head_plan(found[0], other, judge, results, config=config, mirror=mirror)
        for found in matched(names, results, suites)
        for other in found[1:]
    ]
    cards = []
    for made in plans:
        estimates = estimate(made)
        announce(estimates)
        cards += work(made, console, estimates, fresh=False)
    return cards


def show_games(cards: list[ScoreCard], chosen: str, out: Path | None) -> None:
    """Win rates of direct games, and last in words."""
    text = None
    if chosen == "json":
        text = json.dumps({"head_to_head": [card.model_dump(mode="json") for card in cards]}, indent=2) + "\n"
    elif chosen == "md" or out is not None:
        text = games_markdown(cards)
    if out is not None and text is not None:
        write_atomic(out, text)
    elif text is not None:
        print(text, end="")
    else:
        console = Console(width=None if os.isatty(1) else 140)
        console.print(rich_games(cards))
        for card in cards:
            for note in card.notes:
                console.print(Text(plain(f"{card.suite}: {note}")), soft_wrap=True)
        for card in cards:
            console.print(Text(plain(games_verdict(card)), style="bold"), soft_wrap=True)
