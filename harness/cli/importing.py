"""`harness import`: store answers, judgments and results made elsewhere as runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..pages.judge_text import judging_table
from ..pages.tables import card_table, headline_table
from ..pages.text import plain
from ..records import ScoreCard
from ..records.asking import refuse_unprintable_name
from ..records.errors import ConfigError, IncompleteError, first_names
from ..records.facts import facts_of, load_function
from ..records.protocols import Suite, SuiteOptions
from ..running.importing import Origin, judgments_card, numbers_of_models, write_numbers, write_script
from ..running.plan import suite_for_rows
from ..suites.exchange import FirstRows, Imported, ImportRequest, detected_format, formats, with_format
from ..suites.files import SourceFile, read_files, stream_files
from .console import json_text, stdout_console
from .options import JsonFlags, MirrorFlags, ResultsFlags, command

log = logging.getLogger(__name__)


class ImportFlags(ResultsFlags, MirrorFlags, JsonFlags):
    files: Annotated[list[Path], typer.Argument(help="Files (.json, .jsonl, also .xz, .gz), folders or tars.")]
    file_format: Annotated[str, typer.Option("--format", help=f"auto, {', '.join(formats('read', 'numbers'))}.")] = (
        "auto"
    )
    model: Annotated[
        str | None,
        typer.Option(
            help="The model's name, here and, if they have several, in the files; default: import every model that "
            "the files judge, by its own name."
        ),
    ] = None
    suite: Annotated[str | None, typer.Option(help="Default: the format's own.")] = None
    judge: Annotated[str | None, typer.Option(help="Whose judgments, if the files have several judges.")] = None
    baseline: Annotated[str | None, typer.Option(help="Which baseline, if the files have several.")] = None
    edition: Annotated[str, typer.Option(help="official or pocket.")] = "official"


@command
def import_(flags: ImportFlags) -> None:
    """Import answers (judge them with `harness run --backend scripted`), judgments, or results of other tools.

    Without --model, every model of the files becomes a run. Examples: harness import gpt-4_single.jsonl; harness
    import gpt-4_single.jsonl --format fastchat --model my-model
    """
    if flags.model is not None:
        refuse_unprintable_name(flags.model, "--model")
    flags = flags.model_copy(update={"file_format": format_of(flags)})
    [(_, first_format), *_] = with_format(flags.file_format, "read", "numbers")
    results, model, origin = flags.results, flags.model, Origin(flags.file_format, tuple(flags.files))
    if first_format.numbers:
        numbers = numbers_of_models(load_function(first_format.numbers)(flags.files), model)
        show([write_numbers(results, name, part, origin) for name, part in numbers], [], flags)
        return
    # kept in memory: the rows are read once per model and suite
    sources = list(read_files(flags.files))
    if model is None:
        import_all(flags, sources, origin)
        return
    parts = read_parts(flags, model, sources)
    cards = [judgments_card(results, model, suite, rows, origin) for suite, rows in parts if rows.judgments]
    next_steps = [
        judging_command(write_script(results, model, suite.name, rows, origin), suite.name, flags.edition)
        for suite, rows in parts
        if rows.answers
    ]
    show(cards, next_steps, flags)


def format_of(flags: ImportFlags) -> str:
    """Return the format of the flag, or that of the files. Raise ConfigError if the files have no known format."""
    if flags.file_format != "auto":
        return flags.file_format
    try:
        return detected_format(stream_files(flags.files))
    except ConfigError:
        for name in formats("numbers"):
            [(_, file_format), *_] = with_format(name, "numbers")
            try:
                load_function(file_format.numbers)(flags.files)
            except ConfigError:
                continue
            return name
        raise


def import_all(flags: ImportFlags, sources: Sequence[SourceFile], origin: Origin) -> None:
    """Import the judgments of every model in the files, and print a line per card.

    Raise ConfigError if the files judge no model or none could be read, IncompleteError if some could not.
    """
    models = judged_models(flags.file_format, sources)
    if not models:
        contents = FirstRows(sources)
        list(contents)
        needs = next((match.needs for _, match in with_format(flags.file_format, "read")), "")
        raise ConfigError(
            f"{contents.first_keys()}, but a {flags.file_format} judgment has {needs}; of answers, or of a file "
            "without a model's name, pass --model NAME"
        )
    cards, failures = [], []
    for model in models:
        try:
            parts = read_parts(flags, model, sources)
        except ConfigError as error:
            failures.append(f"{model}: {error}")
            continue
        cards += [judgments_card(flags.results, model, suite, rows, origin) for suite, rows in parts if rows.judgments]
    # nothing was written, so this is bad input (exit 2); with some cards it is an incomplete import (exit 4)
    if not cards and failures:
        raise ConfigError(failures[0])
    if flags.as_json:
        print(json_text("cards", cards), end="")
    else:
        console = stdout_console()
        console.print(headline_table(cards))
        for line in notes_of(cards):
            console.print(Text(plain(line)))
        console.print(f"imported {len(cards)} runs of {len(models)} models; next: harness leaderboard")
    if failures:
        raise IncompleteError(f"{len(failures)} of {len(models)} models were not imported: {'; '.join(failures)}")


def notes_of(cards: Sequence[ScoreCard]) -> list[str]:
    """Return each note of several models' cards once, with its suite and, unless it is of all cards, its models."""
    models: dict[tuple[str, str], list[str]] = {}
    for card in cards:
        for note in card.notes:
            models.setdefault((card.suite, note), []).append(card.model)
    count = Counter(card.suite for card in cards)
    return [
        f"{suite}: {note}" if len(names) == count[suite] else f"{suite}, {first_names(names)}: {note}"
        for (suite, note), names in models.items()
    ]


def judged_models(file_format: str, sources: Sequence[SourceFile]) -> list[str]:
    """Return the models that the files have verdicts of, in any suite of the format."""
    functions = [load_function(files.judged) for _, files in with_format(file_format, "read") if files.judged]
    return sorted({model for function in functions for model in function(sources)})


def read_parts(flags: ImportFlags, model: str, sources: Sequence[SourceFile]) -> list[tuple[Suite, Imported]]:
    """Return the rows of each suite in the files. Raise ConfigError if there are none."""
    names = [flags.suite] if flags.suite else suites_in(flags.file_format, sources, model)
    options = SuiteOptions(edition=flags.edition, mirror=flags.mirror)
    parts = []
    for suite in [suite_for_rows(name, options) for name in names]:
        request = ImportRequest(suite.prompts(), model, flags.judge, flags.baseline, flags.mirror)
        imported = reader_of(flags.file_format, suite.name)(sources, request)
        for note in imported.notes:
            log.warning("%s: %s", suite.name, note)
        parts.append((suite, imported))
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
    # one file may have verdicts on several suites' questions, of which this model answered only some
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
            console.print(Text(plain(f"{card.suite}: {note}")))
    for next_step in next_steps:
        print(f"to have the answers judged: {next_step}")
