"""`harness import`: answers, judgments and results made elsewhere, as runs of our own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..pages.judge_text import judging_table
from ..pages.tables import card_table
from ..pages.text import plain
from ..records import ScoreCard
from ..records.errors import ConfigError
from ..records.facts import facts_of, load_function
from ..records.protocols import Suite, SuiteOptions
from ..run.importing import Origin, judgments_card, write_numbers, write_script
from ..run.plan import suite_for_rows
from ..suites.exchange import Imported, ImportRequest, formats, with_format
from ..suites.files import SourceFile, read_files


def import_(
    files: Annotated[list[Path], typer.Argument(help="Files (.json, .jsonl, also .xz, .gz), folders or tars.")],
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(formats('read', 'numbers'))}.")],
    model: Annotated[str, typer.Option(help="The model's name, here and, where they hold several, in the files.")],
    suite: Annotated[str | None, typer.Option(help="Default: the format's own.")] = None,
    judge: Annotated[str | None, typer.Option(help="Whose judgments, where the files hold several judges'.")] = None,
    baseline: Annotated[str | None, typer.Option(help="FastChat's pair files: against whom, of several.")] = None,
    edition: Annotated[str, typer.Option(help="official or pocket.")] = "official",
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
) -> None:
    """Bring in answers (judge them with `harness run --backend scripted`), judgments, or lm-eval results.

    Example: harness import gpt-4_single.jsonl --format fastchat --model my-model
    """
    [(_, first), *_] = with_format(file_format, "read", "numbers")
    origin = Origin(file_format, tuple(files))
    cards: list[ScoreCard] = []
    next_steps: list[str] = []
    if first.numbers:
        read_numbers = load_function(first.numbers)
        cards = [write_numbers(results, model, numbers, origin) for numbers in read_numbers(files)]
    else:
        sources = list(read_files(files))
        options = SuiteOptions(edition=edition, mirror=mirror)
        suites = [
            suite_for_rows(name, options) for name in ([suite] if suite else suites_in(file_format, sources, model))
        ]
        parts: list[tuple[Suite, Imported]] = [
            (part, reader_of(file_format, part.name)(sources, ImportRequest(part.prompts(), model, judge, baseline)))
            for part in suites
        ]
        if not any(rows.answers or rows.judgments for _, rows in parts):
            raise ConfigError(f"no answer and no judgment in {file_format} format in these files")
        cards = [judgments_card(results, model, part, rows, origin) for part, rows in parts if rows.judgments]
        for part, rows in parts:
            if rows.answers:
                script = write_script(results, model, part.name, rows, origin)
                next_steps.append(judging_command(script, part.name, edition))
    show(cards, next_steps, as_json=as_json)


def suites_in(file_format: str, sources: Sequence[SourceFile], model: str) -> list[str]:
    """Return the suites that the files have verdicts of, of several those that name the model; else the first."""
    readable = with_format(file_format, "read")
    functions = {facts.name: files.judged for facts, files in readable if files.judged}
    judged = {name: models for name, function in functions.items() if (models := load_function(function)(sources))}
    if len(judged) > 1:
        judged = {name: models for name, models in judged.items() if model in models}
    return list(judged) or [readable[0][0].name]


def reader_of(file_format: str, suite: str) -> Callable[..., Imported]:
    """Return the suite's reader of the format; a suite that states none gets that of the format's first suite."""
    readers = {facts.name: files.read for facts, files in with_format(file_format, "read")}
    return load_function(readers.get(suite) or next(iter(readers.values())))


def judging_command(script: Path, suite: str, edition: str) -> str:
    """Return the command that has imported answers judged."""
    name = ":".join(part for part in (suite, facts_of(suite).argument) if part)
    return f"harness run --backend scripted --model {script} --suite {name} --edition {edition} --judge JUDGE"


def show(cards: list[ScoreCard], next_steps: list[str], *, as_json: bool) -> None:
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
    for next_step in next_steps:
        print(f"to have the answers judged: {next_step}")
