"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .measure import Promise
from .sides import Side


def promises_table(found: Sequence[Promise]) -> str:
    lines = ["| what | measured | promised | |", "|---|---|---|---|"]
    for one in found:
        bound = "at most" if one.at_most else "at least"
        mark = "holds" if one.holds else "**broken**"
        lines.append(f"| {one.name} | {one.value:.2f} {one.unit} | {bound} {one.limit:.4g} | {mark} |")
    return "\n".join(lines) + "\n"


def peers_table(found: Sequence[Side]) -> str:
    """Each with its ratios to ours, the first."""
    ours = found[0]
    head = "| tool | calls | wall s | ratio | CPU ms per call | ratio | peak MB | ratio | connections |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for one in found:
        if one.missing is not None:
            lines.append(f"| {one.name} | {one.missing} | | | | | | | |")
            continue
        # a peer that makes half the calls is compared with half our time
        wall = one.wall / one.calls / (ours.wall / ours.calls)
        cells = (
            f"{one.calls:,}",
            f"{one.wall:.1f}",
            f"{wall:.1f} x",
            f"{one.cpu_per_call:.2f}",
            f"{one.cpu_per_call / ours.cpu_per_call:.1f} x",
            f"{one.memory:.0f}",
            f"{one.memory / ours.memory:.1f} x",
            f"{one.connections:.0f}",
        )
        lines.append(f"| {one.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
