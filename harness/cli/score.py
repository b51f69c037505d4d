"""`harness score`: judgment files made by the original tools, as score cards."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.text import Text

from ..pages.tables import card_table
from ..pages.text import plain
from ..records import ScoreCard
from ..records.errors import ConfigError
from ..records.facts import load_function
from ..stats.length_control import FoldOrder
from ..suites.exchange import formats, with_format
from ..suites.files import ScoreOptions, read_files


def score(
    files: Annotated[list[Path], typer.Argument(help="Judgment files (.json, .jsonl, also .xz, .gz), folders, tars.")],
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(formats('score'))}.")],
    answers: Annotated[list[Path] | None, typer.Option(help="The judged answers, in the benchmark's format.")] = None,
    strict_reference: Annotated[
        bool, typer.Option("--strict-reference", help="Score whatever the reference would, broken rows included.")
    ] = False,
    fold_order: Annotated[str, typer.Option(help="AlpacaEval's folds: published or stable.")] = "published",
    intervals: Annotated[bool, typer.Option(help="Bootstrap our intervals.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    mirror: Annotated[str | None, typer.Option(help="Folder or URL of the pinned official files.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Arena-Hard: the baseline's name, if not the official.")] = None,
    style_control: Annotated[str | None, typer.Option(help="Arena-Hard: v0.1, v2, length or markdown.")] = None,
    pool: Annotated[
        bool, typer.Option("--pool", help="Arena-Hard: also one Bradley-Terry fit over all models and baselines.")
    ] = False,
    unanchored: Annotated[
        bool, typer.Option("--unanchored", help="Arena-Hard: the reference's interval as with a custom baseline.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score judgments that FastChat, AlpacaEval or Arena-Hard wrote.

    Example: harness score gpt-4_single.jsonl --format fastchat --json
    """
    score_files = load_function(with_format(file_format, "score")[0][1].score)
    if fold_order not in get_args(FoldOrder):
        raise ConfigError(f"no fold order {fold_order!r}; known: {', '.join(get_args(FoldOrder))}")
    options = ScoreOptions(
        answers=tuple(answers or ()),
        strict_reference=strict_reference,
        fold_order=cast(FoldOrder, fold_order),
        intervals=intervals,
        seed=seed,
        mirror=mirror,
        baseline=baseline,
        style_control=style_control,
        unanchored=unanchored,
        pool=pool,
    )
    with _uncollected():
        cards: list[ScoreCard] = score_files(read_files(files), options)
    if as_json:
        print(json.dumps({"cards": [card.model_dump(mode="json") for card in cards]}, indent=2))
        return
    show(cards)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cycle collector: rows are millions of objects that live to the end, and looking through them again
    and again takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def show(cards: list[ScoreCard]) -> None:
    """A table of all cards, then each card's notes."""
    console = Console(width=None if os.isatty(1) else 140)
    console.print(card_table(cards))
    for card in cards:
        for note in card.notes:
            console.print(Text(plain(f"{card.model}: {note}")))
