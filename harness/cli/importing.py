"""`harness import`: store answers, judgments and results made elsewhere as runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..pages.judging import judging_table
from ..pages.tables import card_table, plain
from ..records import ScoreCard
from ..records.errors import ConfigError
from ..records.protocols import Suite, SuiteOptions, load_plugin
from ..run.importing import Origin, judgments_card, write_numbers, write_script
from ..suites.files import SourceFile, read_files
from ..suites.importing import READERS, Imported, ImportRequest, Reader
from ..suites.lm_eval.files import read_results
from ..suites.mt_bench.exchange import paired_models, read_pairs
from ..suites.mt_bench.pairs import without_baseline
from ..suites.mt_bench.rows import is_single
from .console import json_text, stdout_console
from .options import JsonFlags, MirrorFlags, ResultsFlags, command

SUITE_OF = {"fastchat": "mt_bench", "alpaca_eval": "alpaca_eval", "arena_hard": "arena_hard"}
PAIRS = "mt_bench_pairs"
FORMATS = (*READERS, "lm_eval")


class ImportFlags(ResultsFlags, MirrorFlags, JsonFlags):
    files: Annotated[list[Path], typer.Argument(help="Files (.json, .jsonl, also .xz, .gz), folders or tars.")]
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")]
    model: Annotated[str, typer.Option(help="The model's name, here and, if they have several, in the files.")]
    suite: Annotated[str | None, typer.Option(help="Default: the format's own.")] = None
    judge: Annotated[str | None, typer.Option(help="Whose judgments, if the files have several judges.")] = None
    baseline: Annotated[str | None, typer.Option(help="Which baseline, if FastChat's pair files have several.")] = None
    edition: Annotated[str, typer.Option(help="official or pocket.")] = "official"


@command
def import_(flags: ImportFlags) -> None:
    """Import answers (judge them with `harness run --backend scripted`), judgments, or lm-eval results.

    Example: harness import gpt-4_single.jsonl --format fastchat --model my-model
    """
    if flags.file_format not in FORMATS:
        raise ConfigError(f"no format {flags.file_format!r}; known: {', '.join(FORMATS)}")
    results, model, origin = flags.results, flags.model, Origin(flags.file_format, tuple(flags.files))
    if flags.file_format == "lm_eval":
        show([write_numbers(results, model, numbers, origin) for numbers in read_results(flags.files)], [], flags)
        return
    parts = read_parts(flags)
    cards = [judgments_card(results, model, suite, rows, origin) for suite, rows in parts if rows.judgments]
    next_steps = []
    for suite, rows in parts:
        if rows.answers:
            script = write_script(results, model, suite.name, rows, origin)
            against = ":BASELINE.jsonl" if suite.name == PAIRS else ""
            words = f"--model {script} --suite {suite.name}{against} --edition {flags.edition} --judge JUDGE"
            next_steps.append(f"harness run --backend scripted {words}")
    show(cards, next_steps, flags)


def read_parts(flags: ImportFlags) -> list[tuple[Suite, Imported]]:
    """Return the rows of each suite in the files. Raise ConfigError if there are none."""
    sources = list(read_files(flags.files))
    names = [flags.suite] if flags.suite else suites_in(flags.file_format, sources, flags.model)
    options = SuiteOptions(edition=flags.edition, mirror=flags.mirror)
    parts = []
    for suite in [suite_named(name, options) for name in names]:
        request = ImportRequest(suite.prompts(), flags.model, flags.judge, flags.baseline)
        parts.append((suite, reader_of(flags.file_format, suite.name)(sources, request)))
    if not any(rows.answers or rows.judgments for _, rows in parts):
        raise ConfigError(f"no answer and no judgment in {flags.file_format} format in these files")
    return parts


def suites_in(file_format: str, sources: Sequence[SourceFile], model: str) -> list[str]:
    """Return the suites whose verdicts the files contain; of FastChat's two kinds, those that name the model."""
    if file_format != "fastchat":
        return [SUITE_OF[file_format]]
    rated = {str(row["model"]) for source in sources for row in source.rows if is_single(row)}
    paired = paired_models(sources)
    if rated and paired:
        matching = [name for name, models in ((SUITE_OF[file_format], rated), (PAIRS, paired)) if model in models]
        return matching or [SUITE_OF[file_format]]
    return [PAIRS] if paired else [SUITE_OF[file_format]]


def reader_of(file_format: str, suite: str) -> Reader:
    return read_pairs if (file_format, suite) == ("fastchat", PAIRS) else READERS[file_format]


def suite_named(name: str, options: SuiteOptions) -> Suite:
    """Return the suite; MT-Bench's pairs need no baseline's answers to be imported."""
    suite: Suite = without_baseline(options) if name == PAIRS else load_plugin("suites", name)(options)
    return suite


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
