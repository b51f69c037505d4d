"""Save a leaderboard's figures as files for a paper: SVG as drawn, PNG at 300 dots per inch through resvg."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import ConfigError
from ..install import install_command
from ..leaderboard.ranking import Table
from . import charts
from .svg import Drawing

ZOOM = 300 / 96
"""PNG pixels per pixel of the drawing: 300 dots per inch instead of CSS's 96."""


@dataclass(frozen=True)
class Figure:
    name: str
    """File name without suffix."""
    drawing: Drawing


def figures(tables: Iterable[Table]) -> Iterator[Figure]:
    """Yield forest plot, length against score, categories and scaling of each table, if it has the numbers."""
    for table in tables:
        drawings = {
            "forest": charts.forest(table),
            "length": charts.length_against_score(table),
            "categories": charts.categories(table),
        }
        drawings |= {f"scaling-{number}": drawing for number, drawing in enumerate(charts.scaling(table), start=1)}
        yield from (
            Figure(f"{table.anchor}-{kind}", drawing) for kind, drawing in drawings.items() if drawing is not None
        )


def png(drawing: Drawing) -> bytes:
    """Return the figure on white as PNG; raise ConfigError if resvg is not installed."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise ConfigError(f"PNG figures need resvg: {install_command('plots')}") from None
    return bytes(svg_to_bytes(svg_string=drawing.standalone(), zoom=ZOOM, background="#ffffff"))
