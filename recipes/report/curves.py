"""Draw a variant's training curves from its logs: losses, rewards of the three answers, margins, alpha.

Each seed is a thin line and their mean a thick one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.pages.charts import Axis, Drawing, axis
from harness.records.errors import ConfigError

from ..training.settings import LOG

PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 340.0, 190.0, 56.0, 42.0, 20.0
POINTS = 300
"""Maximum number of points per line; if there are more, neighbours are averaged."""

Log = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Series:
    """One line of a panel: a metric of the trainer, and its label."""

    label: str
    metric: str


@dataclass(frozen=True)
class Panel:
    """One chart, with the series drawn in it."""

    title: str
    series: tuple[Series, ...]


PANELS = (
    Panel("loss", (Series("training", "loss"), Series("evaluation", "eval_loss"))),
    Panel(
        "implicit rewards",
        (
            Series("source, y_ws", "rewards/source_chosen"),
            Series("target, y_wt", "rewards/target_chosen"),
            Series("rejected, y_l", "rewards/rejected"),
        ),
    ),
    Panel("margin", (Series("weighted chosen less rejected", "rewards/margins"),)),
    Panel("alpha", (Series("weight of the source's answer", "alpha"),)),
)
"""Metrics by the trainer's names. A panel without values is left out (SFT only has a loss)."""


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return the numbers in `training_log.jsonl`, one dict per step; empty if there is no file.

    If a step was logged twice, the last line wins. Raise ConfigError if the file cannot be read.
    """
    path = folder / LOG
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    by_step: dict[float, dict[str, float]] = {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a killed run can leave a torn line; its step was logged again
        numbers = {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}
        if "step" in numbers:
            by_step.setdefault(numbers["step"], {}).update(numbers)
    return [by_step[step] for step in sorted(by_step)]


def training_curves(name: str, logs: Sequence[Log]) -> Drawing | None:
    """Return the curves, two panels per row, or None if no log has a number to draw."""
    panels = [panel for panel in PANELS if any(_line(log, series.metric) for log in logs for series in panel.series)]
    if not panels:
        return None
    pairs = [panels[start : start + 2] for start in range(0, len(panels), 2)]
    heights = [PANEL_HEIGHT + GAP + 18 * max(len(panel.series) for panel in pair) for pair in pairs]
    drawing = Drawing(2 * PANEL_WIDTH, TOP + sum(heights), f"Training curves of {name}")
    drawing.text(LEFT, 16, f"{name}: {len(logs)} seed{'' if len(logs) == 1 else 's'}", css="title")
    for row, pair in enumerate(pairs):
        for column, panel in enumerate(pair):
            _panel(drawing, panel, logs, PANEL_WIDTH * column, TOP + sum(heights[:row]))
    return drawing


def _panel(drawing: Drawing, panel: Panel, logs: Sequence[Log], left: float, top: float) -> None:
    lines = {series.label: [_line(log, series.metric) for log in logs] for series in panel.series}
    lines = {label: drawable for label, each in lines.items() if (drawable := [line for line in each if line])}
    points = [point for each in lines.values() for line in each for point in line]
    across = axis([x for x, _ in points], left + LEFT, left + PANEL_WIDTH - 10, pad=0.0)
    if across.low == across.high:
        across = axis([x for x, _ in points], left + LEFT, left + PANEL_WIDTH - 10)
    bottom = top + PANEL_HEIGHT - 30
    upwards = axis([y for _, y in points], bottom, top + 12)
    drawing.text(left + LEFT, top, panel.title, css="small")
    _axes(drawing, across, upwards)
    for position, (label, each) in enumerate(lines.items()):
        css = f"l{position + 1}"
        if len(each) > 1:
            for line in each:
                drawing.path([(across(x), upwards(y)) for x, y in line], f"line {css} thin")
        drawing.path([(across(x), upwards(y)) for x, y in _mean(each)], f"line {css}")
        y = bottom + 34 + 18 * position
        drawing.line(left + LEFT, y - 4, left + LEFT + 18, y - 4, css)
        drawing.text(left + LEFT + 24, y, label, css="small")


def _axes(drawing: Drawing, across: Axis, upwards: Axis) -> None:
    for tick in upwards.ticks(4):
        drawing.line(across.start, upwards(tick), across.end, upwards(tick), "grid")
        drawing.text(across.start - 6, upwards(tick) + 4, f"{tick:g}", anchor="end", css="small muted")
    for tick in across.ticks(5):
        drawing.text(across(tick), upwards.start + 15, f"{tick:g}", anchor="middle", css="small muted")
    drawing.line(across.start, upwards.start, across.end, upwards.start, "axis")


def _line(log: Log, metric: str) -> list[tuple[float, float]]:
    points = [(row["step"], row[metric]) for row in log if metric in row]
    size = -(-len(points) // POINTS) or 1
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in chunk) / len(chunk), sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]


def _mean(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    maps = [dict(line) for line in lines]
    steps = [x for x, _ in lines[0] if all(x in values for values in maps)]
    return [(x, sum(values[x] for values in maps) / len(maps)) for x in steps]
