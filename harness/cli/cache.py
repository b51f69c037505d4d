"""`harness cache`: show and prune the cache of judges' replies."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import Annotated

import typer

from ..judging import cache
from ..pages.text import rich_table
from ..records.errors import ConfigError
from .console import print_tables
from .options import JsonFlags, command, command_group

cache_app = command_group("Show and prune the cache of judges' replies: stats, prune.")
SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class PruneFlags(JsonFlags):
    older_than: Annotated[str | None, typer.Option(help="Age, e.g. 30d, 12h, 90m, 4w.")] = None
    judge: Annotated[str | None, typer.Option(help="Part of the judge's name or address, as stats shows it.")] = None
    everything: Annotated[bool, typer.Option("--all", help="All replies.")] = False


@cache_app.command("stats", epilog="Example: harness cache stats --json")
@command
def stats(flags: JsonFlags) -> None:
    """Show replies, tokens and age per judge, and where the cache is (HARNESS_REPLY_CACHE)."""
    path = cache.cache_path()
    shares = cache.shares(path)
    size = sum(part.stat().st_size for part in path.parent.glob(path.name + "*"))
    if flags.as_json:
        print(json.dumps({"path": str(path), "bytes": size, "judges": [asdict(share) for share in shares]}, indent=2))
        return
    rows = []
    for share in shares:
        numbers = (f"{number:,}" for number in (share.replies, share.prompt_tokens, share.completion_tokens))
        days = (time.strftime("%Y-%m-%d", time.localtime(when)) for when in (share.oldest, share.newest))
        rows.append((share.judge, *numbers, *days))
    head = ("judge", "replies", "tokens in", "tokens out", "oldest", "newest")
    print_tables(rich_table("", head, rows, ("judge",)))
    print(f"cache: {path}, {size:,} bytes")


@cache_app.command("prune", epilog="Example: harness cache prune --older-than 30d --judge gpt-5.4-mini")
@command
def prune(flags: PruneFlags) -> None:
    """Remove replies by age, by judge, or by both; the next run that needs them pays for them again."""
    if flags.everything == (flags.older_than is not None or flags.judge is not None):
        raise ConfigError("say what to remove: --older-than AGE, --judge NAME, both, or --all alone")
    removed = cache.prune(cache.cache_path(), older_than=_seconds(flags.older_than), judge=flags.judge)
    print(json.dumps({"removed": removed}) if flags.as_json else f"removed {removed:,} replies")


def _seconds(age: str | None) -> float | None:
    if age is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", age)
    if match is None:
        raise ConfigError(f"--older-than {age!r} is not an age; give a number and m, h, d or w, e.g. 30d")
    return float(match[1]) * SECONDS[match[2]]
