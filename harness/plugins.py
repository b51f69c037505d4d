"""Entry points: the only dynamic import. A new suite, backend or judge is one file and one line in its package."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from .errors import PluginError

Group = Literal["backends", "suites", "judges", "judge_configs", "rewards", "commands"]


def installed(group: Group) -> dict[str, EntryPoint]:
    """Return name -> entry point of `fusion_harness.<group>`, sorted by name, without importing any."""
    points = entry_points(group=f"fusion_harness.{group}")
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def load_plugin(group: Group, name: str) -> Any:
    """Import and return the named plugin. Raise PluginError for an unknown name; import errors propagate."""
    known = installed(group)
    if name not in known:
        raise PluginError(f"no {group[:-1]} named {name!r}; installed: {', '.join(known) or 'none'}")
    return known[name].load()
