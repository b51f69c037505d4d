"""`harness import`: store answers, judgments and results made elsewhere as runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..pages.judge_text import judging_table
from ..pages.tables import card_table
from ..pages.text import plain
from ..records import ScoreCard
from ..records.errors import ConfigError
from ..records.facts import facts_of, load_function
from ..records.protocols import Suite, SuiteOptions
from ..running.importing import Origin, judgments_card, numbers_of_models, write_numbers, write_script
from ..running.plan import suite_for_rows
from ..suites.exchange import FirstRows, Imported, ImportRequest, formats, with_format
from ..suites.files import SourceFile, read_files
from .console import json_text, stdout_console
from .options import JsonFlags, MirrorFlags, ResultsFlags, command


class ImportFlags(ResultsFlags, MirrorFlags, JsonFlags):
    files: Annotated[list[Path], typer.Argument(help="Files (.json, .jsonl, also .xz, .gz), folders or tars.")]
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(formats('read', 'numbers'))}.")]
    model: Annotated[
        str | None,
        typer.Option(
            help="The model's name, here and, if they have several, in the files; not needed if lm-eval's results "
            "state it."
        ),
    ] = None
    suite: Annotated[str | None, typer.Option(help="Default: the format's own.")] = None
    judge: Annotated[str | None, typer.Option(help="Whose judgments, if the files have several judges.")] = None
    baseline: Annotated[str | None, typer.Option(help="Which baseline, if the files have several.")] = None
    edition: Annotated[str, typer.Option(help="official or pocket.")] = "official"


@command
def import_(flags: ImportFlags) -> None:
    """Import answers (judge them with `harness run --backend scripted`), judgments, or lm-eval results.

    Example: harness import gpt-4_single.jsonl --format fastchat --model my-model
    """
    [(_, first_format), *_] = with_format(flags.file_format, "read", "numbers")
    results, model, origin = flags.results, flags.model, Origin(flags.file_format, tuple(flags.files))
    if first_format.numbers:
        numbers = numbers_of_models(load_function(first_format.numbers)(flags.files), model)
        show([write_numbers(results, name, part, origin) for name, part in numbers], [], flags)
        return
    if model is None:
        raise ConfigError(f"import of {flags.file_format} files needs the model's name: pass --model NAME")
    parts = read_parts(flags, model)
    cards = [judgments_card(results, model, suite, rows, origin) for suite, rows in parts if rows.judgments]
    next_steps = [
        judging_command(write_script(results, model, suite.name, rows, origin), suite.name, flags.edition)
        for suite, rows in parts
        if rows.answers
    ]
    show(cards, next_steps, flags)


def read_parts(flags: ImportFlags, model: str) -> list[tuple[Suite, Imported]]:
    """Return the rows of each suite in the files. Raise ConfigError if there are none."""
    sources = list(read_files(flags.files))
    names = [flags.suite] if flags.suite else suites_in(flags.file_format, sources, model)
    options = SuiteOptions(edition=flags.edition, mirror=flags.mirror)
    parts = []
    for suite in [suite_for_rows(name, options) for name in names]:
        request = ImportRequest(suite.prompts(), model, flags.judge, flags.baseline, flags.mirror)
        parts.append((suite, reader_of(flags.file_format, suite.name)(sources, request)))
    if not any(rows.answers or rows.judgments for _, rows in parts):
        contents = FirstRows(sources)
        list(contents)
        raise ConfigError(f"no {flags.file_format} answer or judgment in {contents.described(flags.file_format)}")
    return parts


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


def show(cards: list[ScoreCard], next_steps: list[str], flags: ImportFlags) -> None:
    """Print the cards, then how to have the imported answers judged."""
    if flags.as_json:
        print(json_text("cards", cards), end="")
        return
    console = stdout_console()
    if cards:
        console.print(card_table(cards))
    judging = judging_table(cards)
    if judging is not None:
        console.print(judging)
    for card in cards:
        for note in card.notes:
            console.print(Text(plain(f"{card.suite}: {note}")), soft_wrap=True)
    for next_step in next_steps:
        print(f"to have the answers judged: {next_step}")
