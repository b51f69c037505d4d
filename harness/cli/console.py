"""What commands share while they work: logging, progress, Ctrl-C, and what the judges cost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..judging.cost import dollars
from ..records import ScoreCard
from ..records.errors import IncompleteError
from ..running.estimate import Estimate
from ..running.pipeline import Progress as Step
from ..running.pipeline import ProgressCallback

log = logging.getLogger(__name__)
T = TypeVar("T")

STDERR = Console(stderr=True)
"""Log lines and bars share it, so that a line does not tear a bar apart."""
EVERY = 10.0
"""Seconds between two plain lines."""


def set_up_logging(*, verbose: bool = False) -> None:
    """Log INFO to stderr: through the console on a terminal, as plain timed lines elsewhere."""
    handler: logging.Handler
    if STDERR.is_terminal:
        handler = RichHandler(console=STDERR, show_path=False, show_level=False, markup=False, highlighter=None)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    for noisy in ("asyncio", "urllib3", "filelock", "httpx", "httpx2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def stdout_console(width: int = 140) -> Console:
    """Return a console for tables; `width` columns wide if stdout is not a terminal."""
    return Console(width=None if os.isatty(1) else width)


def json_text(name: str, records: Iterable[BaseModel], **more: Iterable[BaseModel]) -> str:
    """Return the one JSON object that `--json` prints: records under a name, and `more` of them under theirs."""
    lists = {name: records, **more}
    text = json.dumps({key: [row.model_dump(mode="json") for row in rows] for key, rows in lists.items()}, indent=2)
    return text + "\n"


def until_stopped(job: Coroutine[Any, Any, T]) -> T:
    """Run the job; Ctrl-C and SIGTERM cancel it, so that it stores what is finished, and raise IncompleteError."""
    try:
        return asyncio.run(_stoppable(job))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise IncompleteError(
            "stopped; finished answers and judgments are kept: run the same command again to resume"
        ) from None


async def _stoppable(job: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await job


@contextmanager
def progress(console: Console, totals: Mapping[tuple[str, str], int]) -> Iterator[ProgressCallback]:
    """Yield the pipeline's callback, which shows bars or plain lines. `totals`: (suite, stage) -> open rows."""
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
    """Log a line every ten seconds, and one when a stage is done."""

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
            log.info("%s", ", ".join(self._part(stage) for stage in self._done if not finished or stage == key))

    def _part(self, key: tuple[str, str]) -> str:
        failed = f" ({self._failed[key]} failed)" if self._failed[key] else ""
        return f"{key[0]} {key[1]} {self._done[key]}/{self._totals.get(key, 0)}{failed}"


def announce(estimates: Sequence[Estimate]) -> None:
    """Log who judges and what that costs, before the first call."""
    for part in estimates:
        cost = "" if part.judge_cost_open is None else f", about {dollars(part.judge_cost_open)} to pay"
        known = f" ({part.judge_calls_done} done, {part.judge_calls_cached} cached)"
        log.info(
            "%s: %d prompts, %d generation calls; judge %s, %d calls%s%s",
            part.suite,
            part.prompts,
            part.generation_calls,
            part.judge,
            part.judge_calls,
            known if part.judge_calls_done or part.judge_calls_cached else "",
            cost,
        )


def print_estimate(estimates: Sequence[Estimate], self_scored: Sequence[str] = (), *, as_json: bool) -> None:
    """Print what a run would ask. `self_scored`: suites that ask and score by themselves; their counts are unknown."""
    if as_json:
        rows = [{"suite": name, "judge": "none"} for name in self_scored]
        print(json.dumps({"dry_run": [part.as_dict() for part in estimates] + rows}, indent=2))
        return
    table = Table(title="Dry run: nothing is asked, nothing is written", title_justify="left")
    names = ("suite", "judge", "prompts", "generation calls", "judge calls", "done", "cached", "cost", "still to pay")
    widest = max((len(name) for name in (*self_scored, *(part.suite for part in estimates))), default=0)
    for name in names:
        width = min(widest, 40) if name == "suite" else None
        table.add_column(
            name, justify="left" if name in ("suite", "judge") else "right", min_width=width, overflow="fold"
        )
    for part in estimates:
        counts = (part.prompts, part.generation_calls, part.judge_calls, part.judge_calls_done, part.judge_calls_cached)
        costs = (_shown(part.judge_cost), _shown(part.judge_cost_open))
        table.add_row(*(Text(text) for text in (part.suite, part.judge, *map(str, counts), *costs)))
        for name, share in part.by_judge.items():
            cells = ("", f"  {name}", "", "", str(share.calls), "", "", _shown(share.cost), "")
            table.add_row(*(Text(text) for text in cells))
    for name in self_scored:
        table.add_row(*(Text(text) for text in (name, "none", *["-"] * 7)))
    if len(estimates) > 1 and all(part.judge_cost is not None for part in estimates):
        totals = (sum(part.judge_cost or 0 for part in estimates), sum(part.judge_cost_open or 0 for part in estimates))
        table.add_row("total", *[""] * 6, *map(dollars, totals))
    console = stdout_console()
    console.print(table)
    if not estimates:
        return
    ways = ", ".join(dict.fromkeys(part.tokens_by for part in estimates))
    console.print(Text(f"dollars are estimates: tokens by {ways}, 400 per verdict in words"), soft_wrap=True)


def print_cost(cards: Sequence[ScoreCard]) -> None:
    """Print a line per judged suite: what this run paid, and what its verdicts cost when they were first asked for."""
    for card in cards:
        if "judgment_calls" not in card.usage:
            continue
        worth, paid, calls = (card.usage.get(f"judgment_{name}") for name in ("cost", "paid", "calls"))
        print(f"{card.suite}: {calls} judge calls, {_shown(paid)} paid; the verdicts are worth {_shown(worth)}")


def _shown(amount: object) -> str:
    return dollars(amount) if isinstance(amount, int | float) else "unknown"
