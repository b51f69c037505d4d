"""`harness ls`: what is installed under an entry-point group."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..records.errors import ConfigError
from ..records.judge_choice import judge_files
from ..records.protocols import Group, installed
from .options import JsonFlags, command

GROUPS: dict[str, Group] = {name: name for name in ("backends", "suites", "judges", "rewards", "checks")}


class LsFlags(JsonFlags):
    group: Annotated[str, typer.Argument(help="backends, suites, judges, rewards or checks.")]


@command
def ls(flags: LsFlags) -> None:
    """List installed plug-ins: name, object, package.

    Example: harness ls suites
    """
    if flags.group not in GROUPS:
        raise ConfigError(f"no group {flags.group!r}; known: {', '.join(GROUPS)}")
    rows = [
        {"name": name, "object": point.value, "package": point.dist.name if point.dist else ""}
        for name, point in installed(GROUPS[flags.group]).items()
    ]
    if flags.as_json:
        print(json.dumps({flags.group: rows}, indent=2))
        return
    for row in rows:
        print(f"{row['name']:<16} {row['object']:<50} {row['package']}")
    if flags.group == "judges":
        print(f"configured: {', '.join(judge_files())} (harness judge list)")
