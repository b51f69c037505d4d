"""Write the leaderboard as one HTML file that needs no network, and its figures as SVG and PNG.

Names and texts are untrusted: they are autoescaped, and invisible characters are shown. The page's own
Content-Security-Policy allows its one script and one style by their hashes, and nothing else. The viewer and the
recipes' report share the template environment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import JsonValue

from ..analysis.games import BoardGames
from ..analysis.leaderboard import BoardRow, HeadlineDifference, Table
from ..analysis.read_board import BoardPair
from ..analysis.reported import ReportedTable
from ..records import Score
from ..records.errors import ConfigError
from ..records.facts import facts_of
from ..store.checkpoint import Fusion
from ..store.provenance import install_command
from . import charts
from .charts import ChartPoint, Drawing, axes
from .summary import summary
from .tables import against_name, cells, certainty, count_line, measured, notes_of, reported_columns, shown_metrics
from .text import interval, marked, number, visible

# -------------------------------------------------------------------------------------------- data of the page's script
# The script draws the figures and compares the rows that a reader chooses, so it needs every pair, not only the shown.


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
        """Return run id -> the run's page in the viewer, or nothing without a viewer."""
        folders = {row.run_id: self.folders[row.run_id] for row in table.rows if self.folders.get(row.run_id)}
        start = self.viewer.rstrip("/")
        return {run: f"{start}/run/{quote(folder, safe='/@')}" for run, folder in folders.items() if start}


def page_data(tables: Iterable[Table], facts: PageFacts) -> JsonValue:
    """Return the JSON of all tables: `{"viewer": ..., "tables": {anchor: {...}}}`."""
    return {"viewer": facts.viewer.rstrip("/"), "tables": {table.anchor: _table(table, facts) for table in tables}}


def _table(table: Table, facts: PageFacts) -> JsonValue:
    position = {row.run_id: index for index, row in enumerate(table.rows)}
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
    indices = [position[pair.run], position[pair.other]]
    return [
        *indices,
        *numbers,
        float(f"{step.p:.8g}"),
        pair.won,
        pair.lost,
        pair.n,
        int(step.paired),
        int(step.is_apart),
    ]


# ------------------------------------------------------------------------------------------------------------- the page


ZOOM = 300 / 96
"""PNG pixels per pixel of the drawing: 300 dots per inch instead of CSS's 96."""


@dataclass(frozen=True)
class Figure:
    name: str
    """File name without suffix."""
    drawing: Drawing


@dataclass(frozen=True)
class TableColumn:
    name: str
    numeric: bool = True
    first: str = ""
    """First sorting direction, "ascending" or "descending"; empty: not sortable."""
    wide: bool = False
    """Full width on a phone."""
    strong: bool = False
    texts: Mapping[str, str] | None = None
    """Run id -> text, of a column that is measured rather than scored; collected once, as it takes all rows."""


@dataclass(frozen=True)
class Cell:
    text: str
    key: str = ""
    """Sort key; empty: last."""
    small: str = ""
    span: str = ""
    """The interval."""


def page(tables: Sequence[Table], reported: Sequence[ReportedTable], about: PageFacts = PageFacts()) -> str:
    """Return the whole file; `reported` are the tables of figures that others published."""
    style, script = asset("style.css") + asset("board.css"), asset("board.js")
    return (
        environment()
        .get_template("leaderboard.html")
        .render(
            tables=tables,
            reported=reported,
            about=about,
            overview=summary(tables) if len(tables) > 1 else None,
            data=page_data(tables, about),
            style=style,
            script=script,
            policy=content_policy(style, script),
        )
        + "\n"
    )


def content_policy(style: str, script: str) -> str:
    """Return a Content-Security-Policy for a page with only this style and this script."""
    allowed = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def asset(name: str) -> str:
    """Return the text of a file in the templates folder."""
    return files("harness.pages").joinpath("templates", name).read_text("utf-8")


@cache
def environment() -> Environment:
    """Return the template environment: escaping always on, undefined names are errors."""
    templates = Environment(
        loader=PackageLoader("harness.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"visible": visible, "marked": marked, "is_number": is_number, "flat": flat}
    templates.globals |= {
        "columns_of": columns_of,
        "cell_of": cell_of,
        # safe as markup: the SVG is made of numbers alone
        "cell_axis": charts.cell_axis,
        "forest_cell": lambda row, axis: Markup(charts.cell(row, axis)),
        "axis_head": lambda axis: Markup(charts.cell_head(axis)),
        "fusion_text": fusion_text,
        "number_of": number,
        "interval_of": interval,
        "decimals_of": lambda card, name: facts_of(card.suite).metric(name).decimals,
        "notes_of": notes_of,
        "count_line": count_line,
        "scaling_of": charts.scaling,
        "count_of": count_of,
        "newest_of": newest_of,
        "reported_columns": reported_columns,
        "reported_cells": cells,
    }
    return templates


def is_number(text: str) -> bool:
    return re.fullmatch(r"-|[-+]?[\d.]+", text) is not None


def flat(value: Mapping[str, object], above: str = "") -> list[tuple[str, str]]:
    """Return nested settings as rows.

    >>> flat({"judge": {"model": "j", "temperature": 0.0}, "orders": ["ab", "ba"]})
    [('judge.model', 'j'), ('judge.temperature', '0.0'), ('orders', 'ab, ba')]
    """
    rows: list[tuple[str, str]] = []
    for name, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            rows += flat(entry, f"{above}{name}.")
        else:
            rows.append((f"{above}{name}", _setting_text(entry)))
    return rows


def _setting_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(entry, str) for entry in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False)


def columns_of(table: Table) -> list[TableColumn]:
    """Return the columns of the table, without those that no row has a value for."""
    figures = {**dict.fromkeys(shown_metrics(table)), **dict(measured(table)), "n": None}
    return [
        TableColumn("rank", first="ascending"),
        TableColumn("model", numeric=False, first="ascending", wide=True),
        TableColumn(
            table.headline, first="ascending" if table.higher_is_better is False else "descending", strong=True
        ),
        TableColumn("95 % interval", numeric=False, wide=True),
        *([TableColumn(against_name(table), wide=True)] if any(row.above for row in table.rows) else []),
        *(TableColumn(name, first="descending", texts=texts) for name, texts in figures.items()),
        TableColumn("run", numeric=False),
    ]


def cell_of(table: Table, row: BoardRow, column: TableColumn) -> Cell:
    """Return the cell of a row under a column."""
    score, name = row.score, column.name
    if name == "rank":
        span = f"{row.rank_range.low}-{row.rank_range.high}" if row.rank_range else ""
        return Cell("-" if row.rank is None else str(row.rank), "" if row.rank is None else str(row.rank), span)
    if name == table.headline:
        span = "" if score.ci_low is None or score.ci_high is None else f"[{score.ci_low:.2f}, {score.ci_high:.2f}]"
        return Cell(
            number(score, facts_of(table.suite).metric(name).decimals),
            "" if score.value is None else str(score.value),
            span=span,
        )
    if name == against_name(table):
        step = row.above
        if step is None:
            return Cell("-")
        span, _, p = certainty(step).partition("] ")
        return Cell(f"{step.difference:+z.2f}", str(step.difference), p, f"{span}]")
    if name == "n":
        counts = {"unscored": score.unscored, "truncated": row.truncated, "empty": row.empty}
        lost = [f"{count} {kind}" for kind, count in counts.items() if count]
        return Cell(str(score.n), str(score.n), ", ".join(lost))
    if name in row.others:
        metric_score = row.others[name]
        decimals = facts_of(table.suite).metric(name).decimals
        return Cell(number(metric_score, decimals), "" if metric_score.value is None else str(metric_score.value))
    if name == "run":
        return Cell(row.run_id, row.run_id)
    # empty keys sort last in both directions
    texts = column.texts or {}
    return Cell(texts.get(row.run_id, "-"), texts.get(row.run_id, ""))


def count_of(tables: Sequence[Table]) -> str:
    """Return `68 models, 3 suites`."""
    models = len({row.model for table in tables for row in table.rows})
    suites = len({table.suite for table in tables})
    return f"{models} model{'' if models == 1 else 's'}, {suites} suite{'' if suites == 1 else 's'}"


def newest_of(tables: Sequence[Table]) -> str:
    """Return the day of the newest run, or nothing if none is known."""
    return max((row.date for table in tables for row in table.rows if row.date), default="")


def fusion_text(fusion: Fusion) -> str:
    """Return `wrpo, 4 sources, alpha 0.1`."""
    sources = f"{len(fusion.sources)} source{'' if len(fusion.sources) == 1 else 's'}" if fusion.sources else ""
    alpha = "" if fusion.alpha is None else f"alpha {fusion.alpha:g}"
    return ", ".join(part for part in (fusion.method, sources, alpha) if part)


def figures(tables: Iterable[Table], pairs: Mapping[str, Sequence[BoardPair]] = NO_PAIRS) -> Iterator[Figure]:
    """Yield the figures of each table for which it has the numbers.

    These are forest plot, differences from the baseline or the best model, score against length and costs, categories,
    and scaling. `pairs`: `Table.anchor` -> pairs of its rows, without which only a baseline has differences.
    """
    for table in tables:
        drawings = {"forest": charts.forest(table), "differences": _differences(table, pairs.get(table.anchor, ()))}
        drawings |= {
            key.replace("_", "-"): charts.against(table, key, across) for key, across in charts.axes(table).items()
        }
        drawings["categories"] = charts.categories(table)
        drawings |= {f"scaling-{position}": drawing for position, drawing in enumerate(charts.scaling(table), start=1)}
        yield from (
            Figure(f"{table.anchor}-{kind}", drawing) for kind, drawing in drawings.items() if drawing is not None
        )


def _differences(table: Table, pairs: Sequence[BoardPair]) -> Drawing | None:
    """Draw the differences from the baseline, or else from the best row."""
    if table.baseline:
        steps = [(row.model, row.above) for row in table.rows if row.above is not None]
        return charts.differences([_point(model, step, 1) for model, step in steps], table.headline, table.baseline)
    best = next((row for row in table.rows if row.rank == 1), None)
    names = {row.run_id: row.model for row in table.rows}
    if best is None:
        return None
    points = [
        _point(names[pair.other], pair.difference, -1)
        if pair.run == best.run_id
        else _point(names[pair.run], pair.difference, 1)
        for pair in pairs
        if best.run_id in (pair.run, pair.other) and {pair.run, pair.other} <= set(names)
    ]
    return charts.differences(points, table.headline, best.model)


def _point(model: str, step: HeadlineDifference, sign: int) -> ChartPoint:
    low, high = sorted((sign * step.ci_low, sign * step.ci_high))
    return ChartPoint(model, sign * step.difference, 0.0, low, high)


def png(drawing: Drawing) -> bytes:
    """Return the figure on white as PNG. Raise ConfigError if resvg is not installed."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise ConfigError(f"PNG figures need resvg: {install_command('plots')}") from None
    return bytes(svg_to_bytes(svg_string=drawing.standalone(), zoom=ZOOM, background="#ffffff"))
