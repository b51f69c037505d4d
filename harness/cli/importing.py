"""`harness import`: answers, judgments and results made elsewhere, as runs of our own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
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
from ..records.protocols import Suite, SuiteOptions, load_plugin
from ..run.importing import Origin, judgments_card, write_numbers, write_script
from ..suites.files import SourceFile, read_files
from ..suites.importing import READERS, ImportRequest, Reader
from ..suites.lm_eval.files import read_results
from ..suites.mt_bench.exchange import paired_models, read_pairs
from ..suites.mt_bench.pairs import without_baseline
from ..suites.mt_bench.rows import is_single

SUITE_OF = {"fastchat": "mt_bench", "alpaca_eval": "alpaca_eval", "arena_hard": "arena_hard"}
PAIRS = "mt_bench_pairs"
FORMATS = (*READERS, "lm_eval")


def import_(
    files: Annotated[list[Path], typer.Argument(help="Files (.json, .jsonl, also .xz, .gz), folders or tars.")],
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")],
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
    if file_format not in FORMATS:
        raise ConfigError(f"no format {file_format!r}; known: {', '.join(FORMATS)}")
    origin = Origin(file_format, tuple(files))
    next_steps = []
    if file_format == "lm_eval":
        cards = [write_numbers(results, model, numbers, origin) for numbers in read_results(files)]
    else:
        sources = list(read_files(files))
        options = SuiteOptions(edition=edition, mirror=mirror)
        names = [suite] if suite else suites_in(file_format, sources, model)
        suites = [suite_named(name, options) for name in names]
        parts = [
            (made, reader_of(file_format, made.name)(sources, ImportRequest(made.prompts(), model, judge, baseline)))
            for made in suites
        ]
        if not any(found.answers or found.judgments for _, found in parts):
            raise ConfigError(f"no answer and no judgment in {file_format} format in these files")
        cards = [judgments_card(results, model, made, found, origin) for made, found in parts if found.judgments]
        for made, found in parts:
            if found.answers:
                script = write_script(results, model, made.name, found, origin)
                against = ":BASELINE.jsonl" if made.name == PAIRS else ""
                words = f"--model {script} --suite {made.name}{against} --edition {edition} --judge JUDGE"
                next_steps.append(f"harness run --backend scripted {words}")
    show(cards, next_steps, as_json=as_json)


def suites_in(file_format: str, sources: Sequence[SourceFile], model: str) -> list[str]:
    """The suites that the files hold verdicts of; of FastChat's two kinds in one folder those that name the model."""
    if file_format != "fastchat":
        return [SUITE_OF[file_format]]
    rated = {str(row["model"]) for source in sources for row in source.rows if is_single(row)}
    paired = paired_models(sources)
    if rated and paired:
        own = [name for name, models in ((SUITE_OF[file_format], rated), (PAIRS, paired)) if model in models]
        return own or [SUITE_OF[file_format]]
    return [PAIRS] if paired else [SUITE_OF[file_format]]


def reader_of(file_format: str, suite: str) -> Reader:
    return read_pairs if (file_format, suite) == ("fastchat", PAIRS) else READERS[file_format]


def suite_named(name: str, options: SuiteOptions) -> Suite:
    """The suite; MT-Bench's pairs without a baseline's answers, which nothing is made of here."""
    made: Suite = without_baseline(options) if name == PAIRS else load_plugin("suites", name)(options)
    return made


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
