"""Draw SVG elements from numbers and texts, and axes with round ticks. All text is escaped; CSS classes set the looks.

A figure has no colours of its own: the page that contains it styles the classes (light and dark), and `standalone` adds
print colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

from .text import visible

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


def number(value: float) -> str:
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
        position = f'x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"'
        self.parts.append(f"<text {position}{style}>{escape(visible(text))}</text>")

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
        self.parts.append(f'<line {ends} class="{css}"/>')

    def path(self, points: list[tuple[float, float]], css: str) -> None:
        steps = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(f'<polyline points="{steps}" class="{css}"/>')

    def mark(self, x: float, y: float, kind: int = 0, *, hint: str = "", css: str = "mark") -> None:
        """A circle, square, diamond or triangle by `kind` (modulo 4), with a hint that shows on hovering."""
        size = 4.0
        shapes = (
            f'<circle cx="{number(x)}" cy="{number(y)}" r="{size}" class="{css}">',
            f'<rect x="{number(x - 3.6)}" y="{number(y - 3.6)}" width="7.2" height="7.2" class="{css}">',
            f'<path d="M{number(x)} {number(y - 5)}l5 5l-5 5l-5 -5z" class="{css}">',
            f'<path d="M{number(x)} {number(y - 5)}l5 9h-10z" class="{css}">',
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
        size = f'width="{number(self.width)}" height="{number(self.height)}"'
        box = f'viewBox="0 0 {number(self.width)} {number(self.height)}"'
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

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return about `wanted` round numbers inside low..high, in steps of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / max(wanted, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(step * index, 10) for index in range(first, last + 1)]


def axis(values: list[float], start: float, end: float, *, pad: float = 0.05) -> Axis:
    """Return an axis over the values with some room at both ends; never of width zero."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * pad or max(abs(high) * pad, 0.5)
    return Axis(low - room, high + room, start, end)
