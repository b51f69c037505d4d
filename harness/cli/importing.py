"""`harness import`: answers, judgments and results made elsewhere, as runs of our own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..errors import ConfigError
from ..formats.files import read_files
from ..formats.import_rows import READERS, Wanted
from ..formats.lm_eval import read_results
from ..importing import Origin, judgments_card, write_numbers, write_script
from ..plugins import load_plugin
from ..protocols import Suite, SuiteOptions
from ..records import ScoreCard
from ..report.cells import card_table, plain
from ..report.judging import judging_table

SUITE_OF = {"fastchat": "mt_bench", "alpaca_eval": "alpaca_eval", "arena_hard": "arena_hard"}
FORMATS = (*READERS, "lm_eval")


def import_(
    files: Annotated[list[Path], typer.Argument(help="Files (.json, .jsonl, also .xz, .gz), folders or tars.")],
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")],
    model: Annotated[str, typer.Option(help="The model's name, here and, where they hold several, in the files.")],
    suite: Annotated[str | None, typer.Option(help="Default: the format's own.")] = None,
    judge: Annotated[str | None, typer.Option(help="Whose judgments, where the files hold several judges'.")] = None,
    edition: Annotated[str, typer.Option(help="official or pocket.")] = "official",
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """Bring in answers (judge them with `harness run --backend scripted`), judgments, or lm-eval results.

    Example: harness import gpt-4_single.jsonl --format fastchat --model my-model
    """
    if file_format not in FORMATS:
        raise ConfigError(f"no format {file_format!r}; known: {', '.join(FORMATS)}")
    origin = Origin(file_format, tuple(files))
    next_step = None
    if file_format == "lm_eval":
        cards = [write_numbers(results, model, numbers, origin) for numbers in read_results(files)]
    else:
        name = suite or SUITE_OF[file_format]
        made: Suite = load_plugin("suites", name)(SuiteOptions(edition=edition, mirror=mirror))
        wanted = Wanted(made.prompts(), model, judge)
        found = READERS[file_format](list(read_files(files)), wanted)
        if not found.answers and not found.judgments:
            raise ConfigError(f"no answer and no judgment in {file_format} format in these files")
        cards = [judgments_card(results, model, made, found, origin)] if found.judgments else []
        if found.answers:
            script = write_script(results, model, name, found, origin)
            next_step = (
                f"harness run --backend scripted --model {script} --suite {name} --edition {edition} --judge JUDGE"
            )
    show(cards, next_step, as_json=as_json)


def show(cards: list[ScoreCard], next_step: str | None, *, as_json: bool) -> None:
    """The cards; then how to have the imported answers judged."""
    if as_json:
        print(json.dumps({"cards": [card.model_dump(mode="json") for card in cards]}, indent=2))
        return
    console = Console(width=None if os.isatty(1) else 140)
    if cards:
        console.print(card_table(cards))
    trust = judging_table(cards)
    if trust is not None:
        console.print(trust)
    for card in cards:
        for note in card.notes:
            console.print(Text(plain(f"{card.suite}: {note}")), soft_wrap=True)
    if next_step is not None:
        print(f"to have the answers judged: {next_step}")
