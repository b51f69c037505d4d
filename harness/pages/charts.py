"""Draw the figures of a leaderboard table as SVG: forest plot, differences, score against length or cost, categories.

Names are written in full, so a figure is as wide as the longest name needs. All text is escaped. A figure has no
colours of its own: the page that contains it styles the CSS classes (light and dark), and `standalone` adds print
colours.

>>> axis([0.0, 100.0], start=0, end=200, pad=0.1).ticks()
[0.0, 50.0, 100.0]
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from ..analysis.leaderboard import BoardRow, Table
from ..records import Score
from .text import interval, visible

COLOURS = ("#0b6e75", "#bd5217", "#5b4fa8", "#2f7d32", "#b0306a", "#7a6a00", "#1f5fb4", "#6b6b6b")
"""Marks 1 to 8: each has at least 4.5:1 contrast on white; shapes differ too."""
PRINT_STYLE = (
    "text{font:12px 'DejaVu Sans','Helvetica Neue',Arial,sans-serif;fill:#1c1e21}"
    ".small{font-size:10.5px}.muted{fill:#5c6169}.title{font-size:13px;font-weight:bold}"
    ".grid{stroke:#e3e5e8}.axis{stroke:#8a9099}.whisker{stroke:#0b6e75;stroke-width:1.5}.mark{fill:#0b6e75}"
    ".line{fill:none;stroke-width:1.75}"
    + "".join(
        f".m{number}{{fill:{colour};stroke:{colour}}}.l{number}{{fill:none;stroke:{colour};stroke-width:1.5}}"
        for number, colour in enumerate(COLOURS, start=1)
    )
    + ".thin{stroke-width:.75;opacity:.4}"
)
CHARACTER = 6.7
"""Estimated width of a character at 12 px, about the mean of DejaVu Sans over letters and digits (6.9)."""


def _coordinate(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def width_of(text: str) -> float:
    return CHARACTER * len(text)


@dataclass
class Drawing:
    """A figure being drawn; lengths in pixels, y downwards."""

    width: float
    height: float
    title: str
    """Label for screen readers."""
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, *, css: str = "", anchor: str = "start") -> None:
        style = f' class="{css}"' if css else ""
        position = f'x="{_coordinate(x)}" y="{_coordinate(y)}" text-anchor="{anchor}"'
        self.parts.append(f"<text {position}{style}>{escape(visible(text))}</text>")

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        ends = f'x1="{_coordinate(x1)}" y1="{_coordinate(y1)}" x2="{_coordinate(x2)}" y2="{_coordinate(y2)}"'
        self.parts.append(f'<line {ends} class="{css}"/>')

    def path(self, points: list[tuple[float, float]], css: str) -> None:
        steps = " ".join(f"{_coordinate(x)},{_coordinate(y)}" for x, y in points)
        self.parts.append(f'<polyline points="{steps}" class="{css}"/>')

    def mark(self, x: float, y: float, kind: int = 0, *, hint: str = "", css: str = "mark") -> None:
        """Draw a circle, square, diamond or triangle by `kind` (modulo 4), with a hint that shows on hovering."""
        size = 4.0
        shapes = (
            f'<circle cx="{_coordinate(x)}" cy="{_coordinate(y)}" r="{size}" class="{css}">',
            f'<rect x="{_coordinate(x - 3.6)}" y="{_coordinate(y - 3.6)}" width="7.2" height="7.2" class="{css}">',
            f'<path d="M{_coordinate(x)} {_coordinate(y - 5)}l5 5l-5 5l-5 -5z" class="{css}">',
            f'<path d="M{_coordinate(x)} {_coordinate(y - 5)}l5 9h-10z" class="{css}">',
        )
        shape = shapes[kind % 4]
        tag = shape[1:].split(" ", 1)[0]
        self.parts.append(f"{shape}<title>{escape(visible(hint))}</title></{tag}>" if hint else f"{shape}</{tag}>")

    def inline(self) -> str:
        """Return the figure for a page that styles the classes."""
        return self._document("")

    def standalone(self) -> str:
        """Return a file of its own, on white, in print colours."""
        return self._document(f'<style>{PRINT_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>')

    def _document(self, head: str) -> str:
        size = f'width="{_coordinate(self.width)}" height="{_coordinate(self.height)}"'
        box = f'viewBox="0 0 {_coordinate(self.width)} {_coordinate(self.height)}"'
        label = escape(visible(self.title), quote=True)
        opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} role="img" aria-label="{label}">'
        return f"{opening}{head}{''.join(self.parts)}</svg>"


@dataclass(frozen=True)
class Axis:
    """A linear scale from values low..high to pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round numbers inside low..high, in steps of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / max(count, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        # rounding must not lose a tick that lies on an end of the axis
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(step * index, 10) for index in range(first, last + 1)]


def axis(values: list[float], start: float, end: float, *, pad: float = 0.05) -> Axis:
    """Return an axis over the values with some room at both ends; never of width zero."""
    # a single value would give an axis of width zero
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * pad or max(abs(high) * pad, 0.5)
    return Axis(low - room, high + room, start, end)


WIDTH = 680.0
"""Of figures whose names lie below them."""
PLOT = 360.0
"""Width between the names and the numbers."""
NUMBERS = 150.0
"""Width of `57.99 [54.10, 61.82]`, small."""
ROW = 22.0
SERIES = len(COLOURS)
"""Models that colour and shape can tell apart in one figure."""


@dataclass(frozen=True)
class ChartPoint:
    """One mark, with its 95 % interval if there is one."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


def forest(table: Table) -> Drawing | None:
    """Draw value and 95 % interval of each row, best at the top, or None without a value."""
    rows = [row for row in table.rows if row.score.value is not None]
    if not rows:
        return None
    left = _names_width(row.model for row in rows)
    width = left + PLOT + NUMBERS
    scale = axis(_ends([row.score for row in rows]), left, left + PLOT)
    drawing = Drawing(width, 52 + ROW * len(rows), f"{table.column} with 95 % intervals: {table.title}")
    drawing.text(left, 14, f"{table.column}, 95 % interval", css="title")
    _x_axis(drawing, scale, 24, 24 + ROW * len(rows))
    for index, row in enumerate(rows):
        y = 24 + ROW * (index + 0.5)
        drawing.text(left - 12, y + 4, row.model, anchor="end", css="" if row.rank else "muted")
        whisker(drawing, scale, row.score, y, hint=f"{row.model}: {interval(row.score)}")
        drawing.text(width - 4, y + 4, interval(row.score), anchor="end", css="small muted")
    return drawing


def whisker(drawing: Drawing, scale: Axis, score: Score, y: float, *, hint: str = "") -> None:
    """Draw the interval as a line and the value as a dot."""
    if score.ci_low is not None and score.ci_high is not None:
        low, high = scale(score.ci_low), scale(score.ci_high)
        drawing.line(low, y, high, y, "whisker")
        for end in (low, high):
            drawing.line(end, y - 4, end, y + 4, "whisker")
    if score.value is not None:
        drawing.mark(scale(score.value), y, hint=hint)


def differences(rows: Sequence[ChartPoint], metric: str, first: str) -> Drawing | None:
    """Draw each model's difference from the first (`x`) with its 95 % interval, and a line at zero.

    None without rows.
    """
    if not rows:
        return None
    left = _names_width(row.label for row in rows)
    width = left + PLOT + NUMBERS
    bottom = 24 + ROW * len(rows)
    ends = [end for row in rows for end in (row.low, row.x, row.high) if end is not None]
    scale = axis([0.0, *ends], left, left + PLOT)
    drawing = Drawing(width, 28 + bottom, f"{metric}, difference from {first}, with 95 % intervals")
    drawing.text(8, 14, f"{metric}, difference from {first}, 95 % interval", css="title")
    _x_axis(drawing, scale, 24, bottom)
    drawing.line(scale(0.0), 24, scale(0.0), bottom, "axis")
    for index, row in enumerate(rows):
        y = 24 + ROW * (index + 0.5)
        span = "" if row.low is None else f" [{row.low:+.2f}, {row.high:+.2f}]"
        drawing.text(left - 12, y + 4, row.label, anchor="end")
        if row.low is not None and row.high is not None:
            drawing.line(scale(row.low), y, scale(row.high), y, "whisker")
        drawing.mark(scale(row.x), y, hint=f"{row.label}: {row.x:+.2f}{span}")
        drawing.text(width - 4, y + 4, f"{row.x:+.2f}{span}", anchor="end", css="small muted")
    return drawing


def cell(row: BoardRow, scale: Axis) -> str:
    """Return a row's interval on the table's common axis, for a table cell next to the numbers."""
    drawing = Drawing(scale.end + 6, 20, interval(row.score))
    for tick in scale.ticks(4):
        drawing.line(scale(tick), 0, scale(tick), 20, "grid")
    whisker(drawing, scale, row.score, 10)
    return drawing.inline()


def cell_head(scale: Axis) -> str:
    """Return the axis of the interval column, for its head: a few ticks with their numbers."""
    drawing = Drawing(scale.end + 6, 18, "axis of the intervals")
    for tick in scale.ticks(4):
        drawing.line(scale(tick), 13, scale(tick), 18, "axis")
        drawing.text(scale(tick), 10, f"{tick:g}", anchor="middle", css="small muted")
    drawing.line(scale.start, 17.5, scale.end, 17.5, "axis")
    return drawing.inline()


def cell_axis(table: Table) -> Axis:
    return axis(_ends([row.score for row in table.rows]), 6, 174)


def axes(table: Table) -> dict[str, str]:
    """Return what a score can be drawn against: field of a row -> its label, if at least two rows differ in it."""
    labels = {
        "length": f"mean answer length, {table.length_unit}",
        "generated": "tokens generated per answer, with reasoning",
        "cost": "dollars for judging",
        "tokens_per_second": "tokens per second of answering",
    }
    return {key: label for key, label in labels.items() if len({getattr(row, key) for row in table.rows} - {None}) > 1}


def against(table: Table, key: str, across: str) -> Drawing | None:
    """Draw the headline against a field of `axes`, or None with fewer than two rows that have both."""
    points = [
        ChartPoint(row.model, x, row.score.value, row.score.ci_low, row.score.ci_high)
        for row in table.rows
        if (x := getattr(row, key)) is not None and row.score.value is not None
    ]
    return (
        scatter(points, f"{table.column} against {across}: {table.title}", across, table.column) if points[1:] else None
    )


def scatter(points: Sequence[ChartPoint], title: str, across: str, upwards: str, *, by: str = "") -> Drawing:
    """Draw labelled marks with vertical intervals. `by`: what lies across, in the heading, if not `across`."""
    height, right = 360.0, 56 + PLOT + 110
    names = max(width_of(point.label) for point in points) * 0.9 + 12
    drawing = Drawing(right + names, height, title)
    x = axis([point.x for point in points], 56, right, pad=0.08)
    y = axis([end for point in points for end in (point.low, point.y, point.high) if end is not None], height - 52, 28)
    _x_axis(drawing, x, 28, height - 52)
    _y_axis(drawing, y, 56, right)
    drawing.text(56, 14, f"{upwards} by {by or across}", css="title")
    drawing.text((56 + right) / 2, height - 8, across, anchor="middle", css="muted")
    taken = TakenPlaces()
    for point in points:
        ends = [y(value) for value in (point.low, point.y, point.high) if value is not None]
        taken.reserve(x(point.x) - 5, min(ends) + 4, max(ends) + 4, 10)
    # from top to bottom, because a label that finds no room moves down
    for point in sorted(points, key=lambda point: -point.y):
        at_x, at_y = x(point.x), y(point.y)
        if point.low is not None and point.high is not None:
            drawing.line(at_x, y(point.low), at_x, y(point.high), "whisker")
        drawing.mark(at_x, at_y, hint=f"{point.label}: {point.x:g}, {point.y:.2f}")
        place_x, place_y = taken.place_beside(at_x, at_y + 4, width_of(point.label) * 0.9, (60, height - 60))
        if abs(place_y - at_y - 4) > TakenPlaces.HEIGHT:
            drawing.line(at_x, at_y, at_x, place_y - 4, "grid")
        drawing.text(place_x, place_y, point.label, css="small")
    return drawing


class TakenPlaces:
    """Where labels are, by bands of a label's height: a label can only overlap those of its own and the next bands."""

    HEIGHT = 12.0

    def __init__(self) -> None:
        self._bands: dict[int, list[tuple[float, float, float]]] = defaultdict(list)

    def reserve(self, x: float, top: float, bottom: float, width: float) -> None:
        """Keep labels away from a mark and its interval."""
        y = top
        while y < bottom + self.HEIGHT:
            level = min(y, bottom)
            self._bands[self._band(level)].append((level, x, x + width))
            y += self.HEIGHT

    def place_beside(self, x: float, y: float, width: float, limits: tuple[float, float]) -> tuple[float, float]:
        """Return where a mark's label covers nothing, and take that place: to the right or left, then above or below.

        `limits`: least x and largest y. If nothing is free, it is the nearest free height below.
        """
        for shift in (0, -1, 1, -2, 2, -3, 3, -4, 4):
            for at_x in (x + 8, x - 8 - width):
                at_y = y + shift * self.HEIGHT
                if limits[0] <= at_x and at_y <= limits[1] and self._overlapped(at_x, at_y, width) is None:
                    self._bands[self._band(at_y)].append((at_y, at_x, at_x + width))
                    return at_x, at_y
        return x + 8, self.take(x + 8, y, width)

    def take(self, x: float, y: float, width: float) -> float:
        """Return the nearest height downwards at which a label of this width overlaps no earlier one; it is taken."""
        while (below := self._overlapped(x, y, width)) is not None:
            while y - below < self.HEIGHT:
                y += 4
        self._bands[self._band(y)].append((y, x, x + width))
        return y

    def _overlapped(self, x: float, y: float, width: float) -> float | None:
        """Return the height of a label that this one would overlap."""
        band = self._band(y)
        for number in (band - 1, band, band + 1):
            for taken_y, start, end in self._bands.get(number, ()):
                if abs(y - taken_y) < self.HEIGHT and x < end and start < x + width:
                    return taken_y
        return None

    def _band(self, y: float) -> int:
        return math.floor(y / self.HEIGHT)


def categories(table: Table) -> Drawing | None:
    """Draw one line per category and one mark with its interval per model (the first eight).

    None with fewer than two categories.
    """
    # more series than colours could not be told apart
    rows = [row for row in table.rows if row.categories][:SERIES]
    names = list(dict.fromkeys(name for row in rows for name in row.categories))
    names = [name for name in names if any(_value(row, name) is not None for row in rows)]
    if len(names) < 2 or not rows:
        return None
    left, band = _names_width(names), max(ROW, 8.0 * len(rows) + 6)
    bottom = 24 + band * len(names)
    width = max(left + PLOT + 12, left + 20 + max(width_of(row.model) for row in rows))
    drawing = Drawing(width, bottom + 40 + 18 * len(rows), f"{table.category_metric} by category: {table.title}")
    scale = axis(
        _ends([row.categories[name] for row in rows for name in names if name in row.categories]), left, left + PLOT
    )
    drawing.text(left, 14, f"{table.category_metric} by category, 95 % intervals", css="title")
    _x_axis(drawing, scale, 24, bottom)
    for index, name in enumerate(names):
        top = 24 + band * index
        drawing.line(8, top, left + PLOT, top, "grid")
        drawing.text(left - 12, top + band / 2 + 4, name, anchor="end")
        for series, row in enumerate(rows):
            score = row.categories.get(name)
            if score is None or score.value is None:
                continue
            # one line per model inside the band, so that intervals do not cover each other
            y, css = top + band * (series + 1) / (len(rows) + 1), f"m{series + 1}"
            if score.ci_low is not None and score.ci_high is not None:
                drawing.line(scale(score.ci_low), y, scale(score.ci_high), y, css)
            drawing.mark(scale(score.value), y, series, hint=f"{row.model}, {name}: {interval(score)}", css=css)
    _legend(drawing, [row.model for row in rows], left, bottom + 40)
    return drawing


def curves(series: Sequence[tuple[str, Sequence[ChartPoint]]], title: str, across: str, upwards: str) -> Drawing:
    """Draw lines with marks and intervals, one per series, x in ascending order."""
    height = 300.0 + 18 * len(series)
    bottom = 248.0
    drawing = Drawing(WIDTH, height, title)
    points = [point for _, marks in series for point in marks]
    x = axis([point.x for point in points], 56, WIDTH - 12, pad=0.06)
    y = axis([end for point in points for end in (point.low, point.y, point.high) if end is not None], bottom, 28)
    _x_axis(drawing, x, 28, bottom)
    _y_axis(drawing, y, 56, WIDTH - 12)
    drawing.text(56, 14, f"{upwards} by {across}", css="title")
    drawing.text((56 + WIDTH) / 2, bottom + 36, across, anchor="middle", css="muted")
    for index, (name, marks) in enumerate(series):
        number = index % SERIES + 1
        ordered = sorted(marks, key=lambda point: point.x)
        drawing.path([(x(point.x), y(point.y)) for point in ordered], f"line l{number}")
        for point in ordered:
            if point.low is not None and point.high is not None:
                drawing.line(x(point.x), y(point.low), x(point.x), y(point.high), f"l{number}")
            drawing.mark(x(point.x), y(point.y), index, hint=f"{name}, {point.label}: {point.y:.2f}", css=f"m{number}")
    _legend(drawing, [name for name, _ in series], 56, bottom + 58)
    return drawing


def scaling(table: Table) -> list[Drawing]:
    """Draw the headline against the number of source models and against alpha, for models with a fusion record.

    A line joins models of one method that have the other of the two in common.
    """
    fused = [(row, row.fusion) for row in table.rows if row.fusion is not None and row.score.value is not None]
    by_sources: dict[str, list[ChartPoint]] = {}
    by_alpha: dict[str, list[ChartPoint]] = {}
    for row, fusion in fused:
        count, alpha = len(fusion.sources), fusion.alpha
        if count:
            name = fusion.method if alpha is None else f"{fusion.method}, alpha {alpha:g}"
            by_sources.setdefault(name, []).append(_point(row, count))
        if alpha is not None:
            name = f"{fusion.method}, {count} source{'' if count == 1 else 's'}" if count else fusion.method
            by_alpha.setdefault(name, []).append(_point(row, alpha))
    drawings = []
    for across, series in (("number of source models", by_sources), ("alpha", by_alpha)):
        if len({point.x for points in series.values() for point in points}) > 1:
            title = f"{table.column} against {across}: {table.title}"
            drawings.append(curves(sorted(series.items()), title, across, table.column))
    return drawings


def _point(row: BoardRow, x: float) -> ChartPoint:
    return ChartPoint(row.model, x, row.score.value or 0.0, row.score.ci_low, row.score.ci_high)


def _value(row: BoardRow, category: str) -> float | None:
    return row.categories[category].value if category in row.categories else None


def _ends(scores: Sequence[Score]) -> list[float]:
    return [end for score in scores for end in (score.ci_low, score.value, score.ci_high) if end is not None]


def _names_width(names: Iterable[str]) -> float:
    """Return the width that the longest name needs, with a gap on both sides."""
    return max(width_of(name) for name in names) + 24


def _x_axis(drawing: Drawing, scale: Axis, top: float, bottom: float) -> None:
    for tick in scale.ticks(6):
        drawing.line(scale(tick), top, scale(tick), bottom, "grid")
        drawing.text(scale(tick), bottom + 16, f"{tick:g}", anchor="middle", css="small muted")
    drawing.line(scale.start, bottom, scale.end, bottom, "axis")


def _y_axis(drawing: Drawing, scale: Axis, left: float, right: float) -> None:
    for tick in scale.ticks(6):
        drawing.line(left, scale(tick), right, scale(tick), "grid")
        drawing.text(left - 8, scale(tick) + 4, f"{tick:g}", anchor="end", css="small muted")


def _legend(drawing: Drawing, names: Sequence[str], left: float, top: float) -> None:
    for index, name in enumerate(names):
        y = top + 18 * index
        drawing.mark(left + 4, y - 4, index, css=f"m{index % SERIES + 1}")
        drawing.text(left + 16, y, name, css="small")
