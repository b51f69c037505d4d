"""What a person sees while a run works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..judging.cost import dollars
from ..records import ScoreCard
from ..run.estimate import Estimate
from ..run.pipeline import Progress as Step
from ..run.pipeline import ProgressCallback

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two plain lines."""


def set_up_logging(console: Console, *, verbose: bool) -> None:
    """INFO to stderr: through the console on a terminal (bars stay whole), as plain timed lines elsewhere."""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, markup=False, highlighter=None)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in ("asyncio", "urllib3", "filelock", "httpx", "httpx2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@contextmanager
def progress(console: Console, totals: Mapping[tuple[str, str], int]) -> Iterator[ProgressCallback]:
    """Yields the pipeline's callback. `totals`: (suite, stage) -> rows still to come."""
    if not console.is_terminal:
        yield PlainProgress(totals)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks = {key: bars.add_task(" ".join(key), total=total) for key, total in totals.items() if total}

        def step(done: Step) -> None:
            task = tasks.get((done.suite, done.stage))
            if task is not None:
                bars.advance(task)

        yield step


class PlainProgress:
    """One line every ten seconds, and one when a stage is done."""

    def __init__(self, totals: Mapping[tuple[str, str], int]) -> None:
        self._totals = dict(totals)
        self._done = dict.fromkeys(totals, 0)
        self._failed = dict.fromkeys(totals, 0)
        self._last = time.monotonic()

    def __call__(self, step: Step) -> None:
        key = (step.suite, step.stage)
        self._done[key] = self._done.get(key, 0) + 1
        self._failed[key] = self._failed.get(key, 0) + (not step.ok)
        finished = self._done[key] == self._totals.get(key)
        if finished or time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            log.info("%s", ", ".join(self._part(other) for other in self._done if finished is False or other == key))

    def _part(self, key: tuple[str, str]) -> str:
        failed = f" ({self._failed[key]} failed)" if self._failed[key] else ""
        return f"{key[0]} {key[1]} {self._done[key]}/{self._totals.get(key, 0)}{failed}"


# ----------------------------------------------------------------------------------------------------
# What a run will cost, before it; what it cost, after it.


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
