"""`harness export`: a run as the files of the original tool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..formats.export import EXPORTERS, exporter, suites_of
from ..formats.export_rows import FinishedRun
from ..judging.jury import jury_of
from ..pipeline import current_judgments
from ..plan import suite_of_card
from ..runs import find_run, read_rows
from ..store import read_card, write_atomic


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, its card.json, or a model's name.")],
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(EXPORTERS)}.")],
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    references: Annotated[str, typer.Option(help="The FILE of reference answers, where the run had its own.")] = "",
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
) -> None:
    """Write a run's answers, judgments and (AlpacaEval) leaderboard row for FastChat, AlpacaEval or Arena-Hard.

    Example: harness export my-model --format fastchat --out fastchat-files
    """
    folder = find_run(run, results, suites_of(file_format))
    card = read_card(folder / "card.json")
    make = exporter(file_format, card.suite)
    suite = suite_of_card(card, references=references, mirror=mirror)
    if jury_of(card.protocol) is not None:
        raise ConfigError(
            f"{card.judge} is a jury, which {file_format} files have no place for; export a run of one judge"
        )
    answers, judgments = read_rows(folder)
    if not answers and not judgments:
        raise ConfigError(
            f"{folder} holds a card alone: without answers.jsonl or judgments.jsonl nothing can be exported"
        )
    finished = FinishedRun(card, suite, tuple(answers), tuple(current_judgments(answers, iter(judgments))))
    if card.suite.startswith("arena_hard") and any(answer.index for answer in answers):
        print("harness: Arena-Hard's files hold one answer a prompt: only the first draw is written", file=sys.stderr)
    for name, text in make(finished).items():
        write_atomic(out / name, text)
        print(f"wrote {out / name}")
