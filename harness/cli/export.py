"""`harness export`: write a run as the files of the original tool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..judging.jury import CardProtocol
from ..records.errors import ConfigError
from ..records.facts import facts_of
from ..running.pipeline import current_judgments
from ..running.plan import suite_of_card
from ..store import read_card, write_atomic
from ..store.runs import find_run, read_rows
from ..suites.exchange import FinishedRun, exporter, formats, with_format
from .console import refuse_overwriting
from .options import MirrorFlags, ResultsFlags, command


class ExportFlags(ResultsFlags, MirrorFlags):
    run: Annotated[str, typer.Argument(help="A run's folder, its card.json, or a model's name.")]
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(formats('export'))}.")]
    out: Annotated[Path, typer.Option(help="Folder for the files.")]
    references: Annotated[str, typer.Option(help="The FILE of reference answers, if the run had its own.")] = ""


@command
def export(flags: ExportFlags) -> None:
    """Write a run's answers, judgments and, if the original tool keeps one, its leaderboard row as that tool's files.

    Example: harness export my-model --format fastchat --out fastchat-files
    """
    suites = tuple(facts.name for facts, _ in with_format(flags.file_format, "export"))
    folder = find_run(flags.run, flags.results, suites)
    card = read_card(folder / "card.json")
    export_run = exporter(flags.file_format, card.suite)
    suite = suite_of_card(card, folder, references=flags.references, mirror=flags.mirror)
    if CardProtocol.read(card.protocol).jury is not None:
        raise ConfigError(
            f"{card.judge} is a jury, which {flags.file_format} files cannot express; export a run with a single judge"
        )
    if CardProtocol.read(card.protocol).auditor is not None:
        raise ConfigError(
            f"the scores are estimates from two judges ({card.judge}), which {flags.file_format} files cannot express; "
            "export a run with a single judge"
        )
    answers, judgments = read_rows(folder)
    if not answers and not judgments:
        raise ConfigError(f"{folder} has only a card: without answers.jsonl or judgments.jsonl nothing can be exported")
    finished = FinishedRun(card, suite, tuple(answers), tuple(current_judgments(answers, iter(judgments))))
    file_format = facts_of(card.suite).format(flags.file_format)
    if file_format is not None and file_format.first_draw_only and any(answer.index for answer in answers):
        message = f"{flags.file_format} files have room for one answer per prompt: only the first draw is written"
        print(f"harness: {message}", file=sys.stderr)
    files = {flags.out / name: text for name, text in export_run(finished).items()}
    refuse_overwriting(files)  # a folder of the original tool may have other models' judgments under the same name
    for path, text in files.items():
        write_atomic(path, text)
        print(f"wrote {path}")
