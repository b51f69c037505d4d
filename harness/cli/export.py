"""`harness export`: a run as the files of the original tool."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..judging.jury import CardProtocol
from ..records.errors import ConfigError
from ..records.facts import facts_of
from ..run.pipeline import current_judgments
from ..run.plan import suite_of_card
from ..store import read_card, write_atomic
from ..store.runs import find_run, read_rows
from ..suites.exchange import FinishedRun, exporter, formats, with_format


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, its card.json, or a model's name.")],
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(formats('export'))}.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    references: Annotated[str, typer.Option(help="The FILE of reference answers, where the run had its own.")] = "",
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
) -> None:
    """Write a run's answers, judgments and (AlpacaEval) leaderboard row for FastChat, AlpacaEval or Arena-Hard.

    Example: harness export my-model --format fastchat --out fastchat-files
    """
    folder = find_run(run, results, tuple(facts.name for facts, _ in with_format(file_format, "export")))
    card = read_card(folder / "card.json")
    make = exporter(file_format, card.suite)
    suite = suite_of_card(card, references=references, mirror=mirror)
    if CardProtocol.read(card.protocol).jury is not None:
        raise ConfigError(
            f"{card.judge} is a jury, which {file_format} files have no place for; export a run of one judge"
        )
    answers, judgments = read_rows(folder)
    if not answers and not judgments:
        raise ConfigError(
            f"{folder} holds a card alone: without answers.jsonl or judgments.jsonl nothing can be exported"
        )
    finished = FinishedRun(card, suite, tuple(answers), tuple(current_judgments(answers, iter(judgments))))
    known = facts_of(card.suite).format(file_format)
    if known is not None and known.first_draw_only and any(answer.index for answer in answers):
        message = f"{file_format} files have room for one answer per prompt: only the first draw is written"
        print(f"harness: {message}", file=sys.stderr)
    files = {out / name: text for name, text in make(finished).items()}
    _check_overwrites(files)
    for path, text in files.items():
        write_atomic(path, text)
        print(f"wrote {path}")


def _check_overwrites(files: Mapping[Path, str]) -> None:
    """Raise ConfigError if one of the files exists with other content: a folder of the original tool may have other
    models' judgments under the same name."""
    for path, text in files.items():
        if path.is_file() and path.read_bytes() != text.encode("utf-8"):
            raise ConfigError(f"{path} exists and differs; move it away, or give another --out")
