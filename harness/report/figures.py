"""A leaderboard's figures as files for a paper: SVG as drawn, PNG at 300 dots per inch through resvg."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..errors import ConfigError
from ..install import install_command
from ..leaderboard.ranking import Table
from . import charts
from .svg import Drawing

ZOOM = 300 / 96
"""Pixels of a PNG for one of the drawing's: 300 dots per inch where CSS has 96."""


@dataclass(frozen=True)
class Figure:
    name: str
    """Of its files, without suffix."""
    drawing: Drawing


def figures(tables: Iterable[Table]) -> Iterator[Figure]:
    """Forest plot, length against score, categories and scaling of each table, as far as it has the numbers."""
    for table in tables:
        drawings = {
            "forest": charts.forest(table),
            "length": charts.length_against_score(table),
            "categories": charts.categories(table),
        }
        drawings |= {f"scaling-{number}": found for number, found in enumerate(charts.scaling(table), start=1)}
        yield from (Figure(f"{table.anchor}-{kind}", found) for kind, found in drawings.items() if found is not None)


def png(drawing: Drawing) -> bytes:
    """The figure on white. Raises ConfigError where resvg is not installed."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise ConfigError(f"PNG figures need resvg: {install_command('plots')}") from None
    return bytes(svg_to_bytes(svg_string=drawing.standalone(), zoom=ZOOM, background="#ffffff"))
