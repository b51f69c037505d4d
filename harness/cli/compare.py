"""`harness compare`: compare two or more runs on the same questions, from their verdicts or answer against answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..analysis.best import BestOf, best_of_models
from ..analysis.comparison import Comparison, Population, adjusted
from ..analysis.finished_runs import PairOptions, StoredRun, compare_models, head_to_head_plan, matched, run_rows
from ..analysis.games import games_comparison
from ..analysis.population import POPULATION_LINES
from ..pages.comparison_text import (
    best_lines,
    best_markdown,
    best_sentence,
    games_markdown,
    games_verdict,
    markdown,
    other_lines,
    rich_best,
    rich_comparison,
    rich_games,
    verdict,
)
from ..pages.text import plain
from ..records import ScoreCard
from ..records.errors import ConfigError
from .console import json_text, print_hidden, set_up_logging, stdout_console, write_or_print
from .options import MirrorFlags, ResultsFlags, comma_list, command
from .run import ask_and_judge

FORMATS = ("table", "md", "json")


class CompareFlags(ResultsFlags, MirrorFlags):
    runs: Annotated[list[str], typer.Argument(metavar="A B [C ...]", help="Run folders, card files or model names.")]
    suite: Annotated[str | None, typer.Option(help="Only these suites (comma list).")] = None
    population: Annotated[
        Population, typer.Option(help="Decide for these questions only (these), or for others like them (all).")
    ] = "all"
    force: Annotated[bool, typer.Option("--force", help="Compare runs even if their protocols differ.")] = False
    best: Annotated[
        bool, typer.Option("--best", help="Say which of them may be the best: all compared with all, 95 % at once.")
    ] = False
    flips: Annotated[int, typer.Option(min=0, help="Flipped questions to list.")] = 10
    seed: Annotated[int, typer.Option(min=0, help="Seed of bootstrap and permutations.")] = 0
    file_format: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = "table"
    as_json: Annotated[bool, typer.Option("--json", help="Same as --format json.")] = False
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None
    head_to_head: Annotated[
        bool, typer.Option("--head-to-head", help="Have a judge compare their answers directly, in both orders.")
    ] = False
    judge: Annotated[str | None, typer.Option(help="With --head-to-head: as in harness run.")] = None
    config: Annotated[Path | None, typer.Option(help="With --head-to-head: as in harness run.")] = None

    @property
    def chosen_format(self) -> str:
        return "json" if self.as_json else self.file_format

    @property
    def pair_options(self) -> PairOptions:
        return PairOptions(comma_list(self.suite), force=self.force, mirror=self.mirror, seed=self.seed)


@command
def compare(flags: CompareFlags) -> None:
    """Compare models with the first on the same questions: difference, interval, p-value, smallest visible difference.

    Examples: harness compare base-model new-model --suite arena_hard; harness compare --best new-1 new-2 new-3;
    harness compare base-model new-model --head-to-head --judge gpt-5.4
    """
    if flags.chosen_format not in FORMATS:
        raise ConfigError(f"no format {flags.chosen_format!r}; known: {', '.join(FORMATS)}")
    if len(flags.runs) < 2:
        raise ConfigError(f"compare needs two runs or more, got {flags.runs[0]!r} alone")
    for name, value in (("--judge", flags.judge), ("--config", flags.config)):
        if value is not None and not flags.head_to_head:
            raise ConfigError(f"{name} {str(value)!r} is for --head-to-head: add it, or drop {name}")
    if flags.head_to_head and flags.population == "these":
        raise ConfigError("--head-to-head answers for all questions of the kind: drop it or --population these")
    if flags.best and (flags.head_to_head or flags.population == "these"):
        word = "--head-to-head" if flags.head_to_head else "--population these"
        raise ConfigError(
            f"--best compares all models by their scores, for all questions of the kind: drop it or {word}"
        )
    if flags.best:
        show_best(best_of(flags), flags)
        return
    if flags.head_to_head:
        show_games(play(flags), flags)
        return
    show(compare_models(flags.runs, flags.results, flags.pair_options, population=flags.population), flags)


def show(comparisons: Sequence[Comparison], flags: CompareFlags) -> None:
    """Print the comparisons, or write them to a file: as JSON if asked for, otherwise as Markdown."""
    if flags.chosen_format == "json":
        write_or_print(json_text("comparisons", comparisons), flags.out)
        return
    if flags.chosen_format == "md" or flags.out is not None:
        write_or_print(markdown(comparisons, flips=flags.flips), flags.out)
        return
    console = stdout_console()
    console.print(Text(POPULATION_LINES[flags.population]))
    tables = []
    for comparison in comparisons:
        for table in rich_comparison(comparison, flips=flags.flips):
            console.print(table)
            tables.append(table)
        for line in other_lines(comparison):
            console.print(Text(plain(line)))
    print_hidden(console, tables)
    for comparison in comparisons:
        console.print(Text(plain(verdict(comparison)), style="bold"))


def best_of(flags: CompareFlags) -> list[BestOf]:
    return best_of_models(flags.runs, flags.results, flags.pair_options)


def show_best(answers: Sequence[BestOf], flags: CompareFlags) -> None:
    """Print or write which models may be the best: a table and a sentence per model, and last the sets."""
    if flags.chosen_format == "json":
        write_or_print(json_text("best", answers), flags.out)
        return
    if flags.chosen_format == "md" or flags.out is not None:
        write_or_print(best_markdown(answers), flags.out)
        return
    console = stdout_console()
    for best in answers:
        console.print(rich_best(best))
        for line in best_lines(best):
            console.print(Text(plain(line)))
    print_hidden(console, [rich_best(best) for best in answers])
    for best in answers:
        console.print(Text(plain(best_sentence(best)), style="bold"))


def play(flags: CompareFlags) -> list[tuple[ScoreCard, Comparison]]:
    """Judge every model's answers against the first model's, as a separate run per model and suite.

    Return each run's card and its comparison with the first model, with Holm's correction over the models.
    """
    set_up_logging()
    plans = [
        head_to_head_plan(first, contender, flags.judge, flags.results, config=flags.config, mirror=flags.mirror)
        for first, *contenders in matched(flags.runs, flags.results, comma_list(flags.suite))
        for contender in contenders
    ]
    runs = [StoredRun(card, games.suites[0].folder) for games in plans for card in ask_and_judge(games, fresh=False)]
    pairs = adjusted([games_comparison(run_rows(run), seed=flags.seed) for run in runs])
    return [(run.card, pair) for run, pair in zip(runs, pairs, strict=True)]


def show_games(games: Sequence[tuple[ScoreCard, Comparison]], flags: CompareFlags) -> None:
    """Print or write the win rates of direct games, and last a sentence per game."""
    cards, pairs = [card for card, _ in games], [pair for _, pair in games]
    if flags.chosen_format == "json":
        write_or_print(json_text("head_to_head", cards, comparisons=pairs), flags.out)
        return
    if flags.chosen_format == "md" or flags.out is not None:
        write_or_print(games_markdown(cards, pairs), flags.out)
        return
    console = stdout_console()
    console.print(rich_games(cards, pairs))
    for card in cards:
        for note in card.notes:
            console.print(Text(plain(f"{card.suite}: {note}")))
    for card, pair in games:
        console.print(Text(plain(games_verdict(card, pair)), style="bold"))
