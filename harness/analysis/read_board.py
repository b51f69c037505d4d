"""The leaderboard of a results folder: which cards are on it, and every pair compared as `harness compare` does.

read_board(Path("results"), BoardOptions(suites=("mt_bench",))).tables[0].rows[0].model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from ..records import ScoreCard
from ..records.errors import ConfigError, did_you_mean, first_names
from ..store import find_cards
from ..store.checkpoint import read_fusion
from .games import BoardGames, board_games
from .leaderboard import RankOptions, Table, rank, readable, run_id
from .pairs import BoardPair, PairedRuns
from .reported import ReportedTable, load_reported, reported_beside


@dataclass(frozen=True)
class BoardOptions:
    """What is on a board, and how its rows are compared."""

    reported: bool = True
    """Figures of papers and boards for the same suites."""
    paired: bool = True
    """Question by question, if a run's rows exist; False: read nothing but cards."""
    pairs: bool = False
    """Also compare every two rows of a table and find their direct games, for a page on which a reader chooses two."""
    suites: tuple[str, ...] = ()
    """Empty: all."""
    matching: str = ""
    """Only models whose names contain this text, or match it as a pattern with `*` and `?`; case does not count."""
    baseline: str | None = None
    """The model that each row is compared with; None: the row above."""
    rank_incomplete: bool = False
    joint_ranks: bool = False


DEFAULTS = BoardOptions()


@dataclass(frozen=True)
class Board:
    tables: tuple[Table, ...]
    reported: tuple[ReportedTable, ...]
    cards: tuple[ScoreCard, ...]
    broken: tuple[str, ...]
    """One sentence per card that could not be read."""
    pairs: Mapping[str, tuple[BoardPair, ...]] = field(default_factory=dict)
    """`Table.anchor` -> every two rows that can be compared; empty unless asked for."""
    games: Mapping[str, tuple[BoardGames, ...]] = field(default_factory=dict)
    """`Table.anchor` -> direct games between two of its rows; empty unless pairs were asked for."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Run id -> MODEL/SUITE@VERSION/ID, the run's folder below `runs`."""


def read_board(results: Path, options: BoardOptions = DEFAULTS) -> Board:
    """Return the leaderboard of the cards in a results folder.

    Raise ConfigError if there is no card, or no card of the suites, models or baseline asked for.
    """
    paths = find_cards(results)
    if not paths:
        raise ConfigError(f"no score cards under {results / 'runs'}; `harness run --model DIR` creates them")
    readable_cards, broken = readable(paths)
    chosen = [(path, card) for path, card in readable_cards if _is_chosen(card, options)]
    cards = [card for _, card in chosen]
    if readable_cards and not cards:
        raise ConfigError(_nothing_left([card for _, card in readable_cards], options))
    rules = RankOptions(options.rank_incomplete, options.joint_ranks, options.baseline or "")
    runs = PairedRuns({run_id(card): path.parent for path, card in chosen} if options.paired else {})
    fusion = read_fusion(results)
    pairs: dict[str, tuple[BoardPair, ...]] = {}
    if options.pairs:
        ranked = rank(cards, options=replace(rules, difference=lambda card, above: None))
        pairs = runs.of_tables(ranked, cards)
    questions = runs.question_sums(cards) if options.paired else {}
    tables = rank(cards, questions, fusion, replace(rules, difference=runs.difference if options.paired else None))
    beside = reported_beside(cards, load_reported()) if options.reported else []
    folders = {run_id(card): "/".join(path.parts[-4:-1]) for path, card in chosen}
    games = board_games(tables, readable_cards) if options.pairs and options.paired else {}
    return Board(tuple(tables), tuple(beside), tuple(cards), tuple(broken), pairs, games, folders)


def _is_chosen(card: ScoreCard, options: BoardOptions) -> bool:
    is_of_suite = not options.suites or card.suite in options.suites or card.suite.partition(":")[0] in options.suites
    return is_of_suite and (card.model == options.baseline or _matches(card.model, options.matching))


def _matches(model: str, text: str) -> bool:
    name, pattern = model.casefold(), text.casefold()
    return pattern in name or fnmatch(name, pattern)


def _nothing_left(cards: list[ScoreCard], options: BoardOptions) -> str:
    suites = sorted({card.suite for card in cards})
    unknown = [suite for suite in options.suites if suite not in suites]
    if unknown:
        near = "".join(did_you_mean(suite, suites) for suite in unknown)
        return f"no score card of {', '.join(unknown)}{near}; the folder has cards of {', '.join(suites)}"
    models = {card.model for card in cards}
    near = did_you_mean(options.matching, models)
    return f"no model matches {options.matching!r}{near}; models with score cards: {first_names(models)}"
