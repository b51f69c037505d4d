"""What the leaderboard page's script needs of a table, as JSON: rows, their categories, and every pair. Pure.

The script draws the figures and compares the rows that a reader chooses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from pydantic import JsonValue

from ..analysis.games import BoardGames
from ..analysis.leaderboard import Table
from ..analysis.pairs import BoardPair
from ..records import Score
from ..records.facts import facts_of
from .charts import axes
from .text import visible

NO_PAIRS: Mapping[str, Sequence[BoardPair]] = {}
NO_GAMES: Mapping[str, Sequence[BoardGames]] = {}
NO_FOLDERS: Mapping[str, str] = {}


@dataclass(frozen=True)
class PageFacts:
    """What a page says besides its tables."""

    title: str = "Leaderboard"
    made: str = ""
    """Day, YYYY-MM-DD."""
    version: str = ""
    """Of the harness."""
    viewer: str = ""
    """Address of a `harness view`, or of its exported pages on a web server; empty: runs are named, not linked."""
    pairs: Mapping[str, Sequence[BoardPair]] = field(default_factory=lambda: NO_PAIRS)
    """`Table.anchor` -> pairs of its rows."""
    games: Mapping[str, Sequence[BoardGames]] = field(default_factory=lambda: NO_GAMES)
    """`Table.anchor` -> direct games of its rows."""
    folders: Mapping[str, str] = field(default_factory=lambda: NO_FOLDERS)
    """Run id -> MODEL/SUITE@VERSION/ID."""

    def links(self, table: Table) -> dict[str, str]:
        """Return run id -> the run's page in the viewer; empty without a viewer."""
        folders = {row.run_id: self.folders[row.run_id] for row in table.rows if self.folders.get(row.run_id)}
        start = self.viewer.rstrip("/")
        return {run: f"{start}/run/{quote(folder, safe='/@')}" for run, folder in folders.items() if start}


def page_data(tables: Iterable[Table], facts: PageFacts) -> JsonValue:
    """Return the JSON of all tables: `{"viewer": ..., "tables": {anchor: {...}}}`."""
    return {"viewer": facts.viewer.rstrip("/"), "tables": {table.anchor: _table(table, facts) for table in tables}}


def _table(table: Table, facts: PageFacts) -> JsonValue:
    position = {row.run_id: at for at, row in enumerate(table.rows)}
    across = axes(table)
    games = [
        _games(position, game)
        for game in facts.games.get(table.anchor, ())
        if game.run in position and game.other in position
    ]
    return {
        "suite": visible(table.suite),
        "metric": visible(table.headline),
        "decimals": facts_of(table.suite).metric(table.headline).decimals,
        "better": {True: 1, False: -1, None: 0}[table.higher_is_better],  # the sign of a gain; 0: unknown
        "categoryMetric": visible(table.category_metric),
        "axes": [{"key": key, "label": label} for key, label in across.items()],
        "rows": [
            {
                "run": row.run_id,
                "model": visible(row.model),
                "folder": visible(facts.folders.get(row.run_id, "")),
                "score": _score(row.score),
                "categories": {visible(name): _score(score) for name, score in row.categories.items()},
                **{key: value for key in across if (value := getattr(row, key)) is not None},
            }
            for row in table.rows
        ],
        "pairs": [
            _pair(position, pair)
            for pair in facts.pairs.get(table.anchor, ())
            if pair.run in position and pair.other in position
        ],
        **({"games": games} if games else {}),
    }


def _score(score: Score) -> JsonValue:
    """Return [value, low, high], with null for what is unknown."""
    return [None if value is None else round(value, 6) for value in (score.value, score.ci_low, score.ci_high)]


def _games(position: Mapping[str, int], game: BoardGames) -> JsonValue:
    """Return [row, other row, win rate, low, high, p, won, tied, lost, judge, apart]; rounded as in `_pair`."""
    numbers = [round(value, 2) + 0.0 for value in (game.win_rate, game.ci_low, game.ci_high)]
    return [
        position[game.run],
        position[game.other],
        *numbers,
        float(f"{game.p:.8g}"),
        game.won,
        game.tied,
        game.lost,
        visible(game.judge),
        int(not game.ci_low <= 50 <= game.ci_high),
    ]


def _pair(position: Mapping[str, int], pair: BoardPair) -> JsonValue:
    """Return [row, other row, difference, low, high, p, won, lost, questions, paired, apart].

    Differences are rounded here: JavaScript rounds ties up where Python rounds them to even, and the page must print
    what `harness compare` prints. `apart` is whether the interval leaves out 0, which a rounded end may not tell.
    """
    step = pair.difference
    numbers = [round(value, 2) + 0.0 for value in (step.difference, step.ci_low, step.ci_high)]
    places = [position[pair.run], position[pair.other]]
    return [
        *places,
        *numbers,
        float(f"{step.p:.8g}"),
        pair.won,
        pair.lost,
        pair.n,
        int(step.paired),
        int(step.is_apart),
    ]
