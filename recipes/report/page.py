"""Write a recipe's report as one HTML file that needs no network: leaderboard of variants, curves, data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader

from harness.pages.board import asset, content_policy, environment
from harness.pages.charts import WIDTH, Drawing, axis, whisker, width_of

from .data import DataReport, data_grids
from .tables import HEAD, ModelRow, Section, TextGrid, VariantBoard, at, grids, score_text, verdict_grid

ROW = 22.0
TICK = 5.0
"""Height of the tick above the whisker that marks one seed's mean."""


def page(board: VariantBoard, data: DataReport, curves: Sequence[Drawing], sections: Sequence[Section] = ()) -> str:
    """Return the HTML of the report; `sections` follow the leaderboard. Names are untrusted and escaped."""
    style, script = asset("style.css"), asset("report.js")
    template = _environment().get_template("recipe.html")
    html = template.render(
        board=board,
        head=HEAD,
        verdicts=verdict_grid(board),
        tables={temperature: _tables(board, temperature) for temperature in board.temperatures},
        forests={temperature: forest(board.rows(temperature), temperature) for temperature in board.temperatures},
        curves=curves,
        sections=sections,
        data=data_grids(data),
        style=style,
        script=script,
        policy=content_policy(style, script),
    )
    return html + "\n"


@cache
def _environment() -> Environment:
    jinja = environment().overlay()
    jinja.loader = PackageLoader("recipes.report")
    jinja.globals = {**jinja.globals, "at": at}
    return jinja


def _tables(board: VariantBoard, temperature: float) -> list[TextGrid]:
    only = board.model_copy(
        update={
            "models": tuple(board.rows(temperature)),
            "differences": tuple(
                difference for difference in board.differences if difference.temperature == temperature
            ),
        }
    )
    return grids(only)


def forest(rows: Sequence[ModelRow], temperature: float) -> Drawing:
    """Draw each model's mean reward with its interval, and above it one tick per seed."""
    scored = [row for row in rows if row.reward.value is not None]
    left = min(max((width_of(row.model) for row in scored), default=0.0) + 24, 300)
    right = 160.0
    ends = [
        end
        for row in scored
        for end in (row.reward.ci_low, row.reward.value, row.reward.ci_high, *row.by_seed.values())
    ]
    scale = axis([end for end in ends if end is not None], left, WIDTH - right)
    height = 24 + ROW * len(scored)
    drawing = Drawing(WIDTH, height + 28, f"Mean test reward with 95 % intervals, {at(temperature)}")
    drawing.text(left, 14, "mean test reward, 95 % interval; ticks are seeds", css="title")
    for tick in scale.ticks(6):
        drawing.line(scale(tick), 24, scale(tick), height, "grid")
        drawing.text(scale(tick), height + 16, f"{tick:g}", anchor="middle", css="small muted")
    drawing.line(scale.start, height, scale.end, height, "axis")
    for position, row in enumerate(scored):
        y = 24 + ROW * (position + 0.5)
        name = row.model if len(row.model) <= 40 else row.model[:39] + "…"
        drawing.text(left - 12, y + 4, name, anchor="end", css="" if row.complete else "muted")
        whisker(drawing, scale, row.reward, y, hint=f"{row.model}: {score_text(row.reward)}")
        for value in row.by_seed.values():
            drawing.line(scale(value), y - 5 - TICK, scale(value), y - 5, "line l2")
        drawing.text(WIDTH - 4, y + 4, score_text(row.reward), anchor="end", css="small muted")
    return drawing
