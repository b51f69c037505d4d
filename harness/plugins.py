"""Entry points: the only dynamic import. A new suite, backend or judge is a new file and one line in its package."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from .errors import PluginError

Group = Literal["backends", "suites", "judges", "judge_configs", "rewards", "commands"]


def installed(group: Group) -> dict[str, EntryPoint]:
    """Name -> entry point of `fusion_harness.<group>`, sorted by name; nothing is imported."""
    points = entry_points(group=f"fusion_harness.{group}")
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def load_plugin(group: Group, name: str) -> Any:
    """The object behind a name. Raises PluginError for an unknown name; a plugin that fails to import raises as is."""
    known = installed(group)
    if name not in known:
        raise PluginError(f"no {group[:-1]} named {name!r}; installed: {', '.join(known) or 'none'}")
    return known[name].load()
