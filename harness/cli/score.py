"""`harness score`: turn judgment files made by the original tools into score cards."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.text import Text

from ..pages.tables import card_table
from ..pages.text import plain
from ..records import ScoreCard
from ..records.errors import ConfigError
from ..records.facts import all_facts, load_function
from ..stats.length_control import FoldOrder
from ..suites.exchange import formats, with_format
from ..suites.files import ScoreOptions, stream_files
from .console import json_text, stdout_console
from .options import JsonFlags, MirrorFlags, command


def _readers() -> dict[str, dict[str, str]]:
    """Return the flags that only some formats read -> format -> help, as the formats' facts state it."""
    readers: dict[str, dict[str, str]] = {}
    for file_format in (item for facts in all_facts() for item in facts.formats):
        for flag, text in file_format.score_flags.items():
            readers.setdefault(flag, {})[file_format.name] = text
    return readers


def _for_formats(flag: str) -> str:
    return "; ".join(f"{name}: {text}" for name, text in _readers()[flag].items()) + "."


class ScoreFlags(MirrorFlags, JsonFlags):
    files: Annotated[list[Path], typer.Argument(help="Judgment files (.json, .jsonl, also .xz, .gz), folders, tars.")]
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(formats('score'))}.")]
    answers: Annotated[list[Path] | None, typer.Option(help="The judged answers, in the benchmark's format.")] = None
    strict_reference: Annotated[
        bool, typer.Option("--strict-reference", help="Score all that the reference scores, broken rows included.")
    ] = False
    fold_order: Annotated[str, typer.Option(help=_for_formats("fold_order"))] = "published"
    intervals: Annotated[bool, typer.Option(help="Add our intervals, which the original tools lack.")] = True
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0
    baseline: Annotated[str | None, typer.Option(help=_for_formats("baseline"))] = None
    style_control: Annotated[str | None, typer.Option(help=_for_formats("style_control"))] = None
    pool: Annotated[bool, typer.Option("--pool", help=_for_formats("pool"))] = False
    unanchored: Annotated[bool, typer.Option("--unanchored", help=_for_formats("unanchored"))] = False

    def options(self) -> ScoreOptions:
        """Return the options of the formats' modules. Raise ConfigError for a flag that the format does not read."""
        for flag, texts in _readers().items():
            if self.file_format not in texts and getattr(self, flag) != type(self).model_fields[flag].default:
                raise ConfigError(
                    f"--{flag.replace('_', '-')} is for --format {' or '.join(texts)}, not {self.file_format}: drop it"
                )
        if self.fold_order not in get_args(FoldOrder):
            raise ConfigError(f"no fold order {self.fold_order!r}; known: {', '.join(get_args(FoldOrder))}")
        values = {field.name: getattr(self, field.name) for field in fields(ScoreOptions)}
        return ScoreOptions(**values | {"answers": tuple(self.answers or ())})


@command
def score(flags: ScoreFlags) -> None:
    """Score judgments that a benchmark's original tool wrote.

    Example: harness score gpt-4_single.jsonl --format fastchat --json
    """
    score_files = load_function(with_format(flags.file_format, "score")[0][1].score)
    options = flags.options()
    with _no_garbage_collection():
        cards: list[ScoreCard] = score_files(stream_files(flags.files), options)
    if flags.as_json:
        print(json_text("cards", cards), end="")
        return
    console = stdout_console()
    console.print(card_table(cards))
    for card in cards:
        for note in card.notes:
            console.print(Text(plain(f"{card.model}: {note}")))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch the cycle collector off: scanning millions of rows that live to the end takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
