"""What a run will cost, before it; what it cost, after it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..estimate import Estimate
from ..judging.budget import dollars
from ..records import ScoreCard

log = logging.getLogger(__name__)


def announce(found: Sequence[Estimate]) -> None:
    """Says who judges and what that costs, before the first call."""
    for part in found:
        cost = "" if part.judge_cost_open is None else f", about {dollars(part.judge_cost_open)} to pay"
        there = f" ({part.judge_calls_done} done, {part.judge_calls_cached} cached)"
        log.info(
            "%s: %d prompts, %d generation calls; judge %s, %d calls%s%s",
            part.suite,
            part.prompts,
            part.generation_calls,
            part.judge,
            part.judge_calls,
            there if part.judge_calls_done or part.judge_calls_cached else "",
            cost,
        )


def print_estimate(found: Sequence[Estimate], own: Sequence[str] = (), *, as_json: bool) -> None:
    """`own`: suites that ask and score by themselves, of which no number is known before."""
    if as_json:
        by_themselves = [{"suite": name, "judge": "none"} for name in own]
        print(json.dumps({"dry_run": [part.as_dict() for part in found] + by_themselves}, indent=2))
        return
    table = Table(title="Dry run: nothing is asked, nothing is written", title_justify="left")
    names = ("suite", "judge", "prompts", "generation calls", "judge calls", "done", "cached", "cost", "still to pay")
    widest = max((len(name) for name in (*own, *(part.suite for part in found))), default=0)
    for name in names:
        width = min(widest, 40) if name == "suite" else None
        table.add_column(
            name, justify="left" if name in ("suite", "judge") else "right", min_width=width, overflow="fold"
        )
    for part in found:
        counts = (part.prompts, part.generation_calls, part.judge_calls, part.judge_calls_done, part.judge_calls_cached)
        costs = (_shown(part.judge_cost), _shown(part.judge_cost_open))
        table.add_row(*(Text(text) for text in (part.suite, part.judge, *map(str, counts), *costs)))
    for name in own:
        table.add_row(*(Text(text) for text in (name, "none", *["-"] * 7)))
    if len(found) > 1 and all(part.judge_cost is not None for part in found):
        totals = (sum(part.judge_cost or 0 for part in found), sum(part.judge_cost_open or 0 for part in found))
        table.add_row("in all", *[""] * 6, *map(dollars, totals))
    console = Console(width=None if os.isatty(1) else 140)
    console.print(table)
    if not found:
        return
    ways = ", ".join(dict.fromkeys(part.tokens_by for part in found))
    console.print(Text(f"dollars are estimates: tokens by {ways}, 400 a verdict in words"), soft_wrap=True)


def print_cost(cards: Sequence[ScoreCard]) -> None:
    """One line a judged suite: what its verdicts cost when they were asked for, and what this run paid."""
    for card in cards:
        if "judgment_calls" not in card.usage:
            continue
        worth, paid, calls = (card.usage.get(f"judgment_{name}") for name in ("cost", "paid", "calls"))
        print(f"{card.suite}: {calls} judge calls, {_shown(paid)} paid; the verdicts are worth {_shown(worth)}")


def _shown(amount: object) -> str:
    return dollars(amount) if isinstance(amount, int | float) else "unknown"
