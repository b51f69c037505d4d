"""Show what commands have in common while they work: logging, progress, Ctrl-C, and what the judges cost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ..judging.cost import dollars
from ..pages.text import UNLIMITED, FittedTable, hidden_line, rich_table
from ..records import Preference, ScoreCard
from ..records.errors import StoppedRunError
from ..records.facts import Metric, facts_of
from ..running.estimate import Estimate
from ..running.pipeline import Progress as Step
from ..running.pipeline import ProgressCallback

log = logging.getLogger(__name__)
T = TypeVar("T")

STDERR = Console(stderr=True)
"""Log lines and bars share it, so that a line does not tear a bar apart."""
DRY_RUN_HEAD = (
    *("suite", "judge", "prompts", "generation calls", "judge calls"),
    *("done", "cached", "cost", "still to pay"),
)
EVERY = 10.0
"""Seconds between two plain lines."""


class _LinesThatStay(RichHandler):
    """Leaves records marked `transient` to the progress display."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "transient", False):
            super().emit(record)


def set_up_logging(*, verbose: bool = False) -> None:
    """Log INFO to stderr, through the console on a terminal and as plain timed lines otherwise."""
    handler: logging.Handler
    if STDERR.is_terminal:
        handler = _LinesThatStay(console=STDERR, show_path=False, show_level=False, markup=False, highlighter=None)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    # these log every request at INFO, which would bury the progress
    for noisy in ("asyncio", "urllib3", "filelock", "httpx", "httpx2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def stdout_console(*, wide: bool = False) -> Console:
    """Return a console for results: as wide as the terminal, or as the content needs if `wide` or not a terminal."""
    return Console(width=None if os.isatty(1) and not wide else UNLIMITED)


def print_tables(*tables: FittedTable, more: str = "--json has them") -> None:
    """Print tables as wide as the terminal; `more`: how to see the columns for which it is too narrow."""
    console = stdout_console()
    for table in tables:
        console.print(table)
    print_hidden(console, tables, more)


def print_hidden(console: Console, tables: Sequence[FittedTable], more: str = "--json has them") -> None:
    """Print which columns of the tables the terminal is too narrow for, if any, and how to see them."""
    if sentence := hidden_line(tables, console.width, more):
        console.print(Text(sentence, style="dim"))


def json_text(name: str, records: Iterable[BaseModel], **more: Iterable[BaseModel]) -> str:
    """Return the one JSON object that `--json` prints: records under a name, and `more` of them under theirs."""
    lists = {name: records, **more}
    text = json.dumps({key: [row.model_dump(mode="json") for row in rows] for key, rows in lists.items()}, indent=2)
    return text + "\n"


def until_stopped(job: Coroutine[Any, Any, T]) -> T:
    """Run the job; Ctrl-C and SIGTERM cancel it, so that it stores what is finished, and raise StoppedRunError."""
    try:
        return asyncio.run(_stoppable(job))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise StoppedRunError(
            "stopped; finished answers and judgments are kept: run the same command again to resume"
        ) from None


async def _stoppable(job: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    # schedulers send SIGTERM before they kill: cancelled like Ctrl-C, the job closes its files and servers
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await job


class StageTally:
    """What has happened to the rows of one suite and stage: count, failures, rate, mean verdict, dollars."""

    def __init__(self, name: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.total = total
        self.done = self.failed = 0
        self._clock = clock
        self._begin: float | None = None
        self._verdicts = 0
        self._sum = 0.0
        self._rating: Metric | None = None
        """What a mean of ratings is; None: verdicts are preferences."""
        self._paid = 0.0

    def add(self, step: Step) -> None:
        # the first row starts the clock, so that a server's start is not part of the rate
        self._begin = self._clock() if self._begin is None else self._begin
        self.done += 1
        self.failed += not step.ok
        self._paid += step.paid
        if step.verdict is not None:
            if not isinstance(step.verdict, Preference):
                self._rating = facts_of(step.suite).metric(step.headline)
            self._verdicts += 1
            self._sum += step.verdict.value

    def details(self) -> str:
        """Return `2 failed, 3.2/s, 0:38 left, mean rating 7.42, $0.31`, as far as it is known."""
        parts = [f"{self.failed} failed"] if self.failed else []
        elapsed = 0.0 if self._begin is None else self._clock() - self._begin
        if self.done > 1 and elapsed >= 1:  # rows that arrive together have no rate
            rate = (self.done - 1) / elapsed
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")
            if self.done < self.total:
                parts.append(f"{_clock_text((self.total - self.done) / rate)} left")
        if self._verdicts:
            parts.append(self._mean_text(self._sum / self._verdicts))
        if self._paid:
            parts.append(dollars(self._paid))
        return ", ".join(parts)

    def _mean_text(self, mean: float) -> str:
        if self._rating is None:
            return f"wins {100 * mean:.1f} %"
        if self._rating.unit == "percent":
            return f"{self._rating.title or self._rating.name} {mean:.1f} %"
        return f"{self._rating.title or 'mean rating'} {mean:.2f}"

    def __str__(self) -> str:
        details = self.details()
        return f"{self.name} {self.done}/{self.total}" + (f" ({details})" if details else "")


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress(console: Console, totals: Mapping[tuple[str, str], int]) -> Iterator[ProgressCallback]:
    """Yield the pipeline's callback, which shows bars or plain lines. `totals`: (suite, stage) -> open rows."""
    if not console.is_terminal:
        yield PlainProgress(totals)
        return
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[info]}"))
    with Progress(*columns, console=console, transient=True) as bars:
        tallies = {key: StageTally(" ".join(key), total) for key, total in totals.items() if total}
        tasks = {key: bars.add_task(tally.name, total=tally.total, info="") for key, tally in tallies.items()}
        waiting = _WaitingLine(bars)

        def step(event: Step) -> None:
            # a row arrived, so whatever was waited for is there
            waiting.remove()
            key = event.suite, event.stage
            if key in tasks:
                tallies[key].add(event)
                bars.update(tasks[key], advance=1, info=tallies[key].details())

        logging.getLogger().addHandler(waiting)
        try:
            yield step
        finally:
            logging.getLogger().removeHandler(waiting)


class _WaitingLine(logging.Handler):
    """Shows log records marked `transient`, such as "waiting for a server", in one line that each replaces."""

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self._bars = bars
        self._task: TaskID | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "transient", False):
            text = record.getMessage()
            if self._task is None:
                self._task = self._bars.add_task(text, total=None, info="")
            self._bars.update(self._task, description=text)

    def remove(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


class PlainProgress:
    """Log a line every ten seconds, and one when a stage is done."""

    def __init__(self, totals: Mapping[tuple[str, str], int]) -> None:
        self._tallies = {key: StageTally(" ".join(key), total) for key, total in totals.items()}
        self._last = time.monotonic()

    def __call__(self, step: Step) -> None:
        key = (step.suite, step.stage)
        tally = self._tallies.setdefault(key, StageTally(" ".join(key), 0))
        tally.add(step)
        finished = tally.done == tally.total
        if finished or time.monotonic() - self._last >= EVERY:
            self._last = time.monotonic()
            log.info("%s", tally if finished else ", ".join(map(str, self._tallies.values())))


def announce(estimates: Sequence[Estimate]) -> None:
    """Log who judges and what that costs, before the first call."""
    for part in estimates:
        cost = "" if part.judge_cost_open is None else f", about {dollars(part.judge_cost_open)} to pay"
        reused = f" ({part.judge_calls_done} done, {part.judge_calls_cached} cached)"
        log.info(
            "%s: %d prompts, %d generation calls; judge %s, %d calls%s%s",
            part.suite,
            part.prompts,
            part.generation_calls,
            part.judge,
            part.judge_calls,
            reused if part.judge_calls_done or part.judge_calls_cached else "",
            cost,
        )


def estimate_rows(estimates: Sequence[Estimate], self_scored: Sequence[str] = ()) -> list[dict[str, JsonValue]]:
    """Return the rows of a dry run as `--json` prints them."""
    self_rows: list[dict[str, JsonValue]] = [{"suite": name, "judge": "none"} for name in self_scored]
    return [part.as_dict() for part in estimates] + self_rows


def print_estimate(estimates: Sequence[Estimate], self_scored: Sequence[str] = (), *, as_json: bool) -> None:
    """Print what a run would ask. `self_scored`: suites that ask and score by themselves; their counts are unknown."""
    if as_json:
        print(json.dumps({"dry_run": estimate_rows(estimates, self_scored)}, indent=2))
        return
    lines: list[list[str]] = []
    for part in estimates:
        counts = (part.prompts, part.generation_calls, part.judge_calls, part.judge_calls_done, part.judge_calls_cached)
        lines.append(
            [part.suite, part.judge, *map(str, counts), _amount(part.judge_cost), _amount(part.judge_cost_open)]
        )
        for name, share in part.by_judge.items():
            lines.append(["", f"  {name}", "", "", str(share.calls), "", "", _amount(share.cost), ""])
    lines += [[name, "none", *["-"] * 7] for name in self_scored]
    if len(estimates) > 1 and all(part.judge_cost is not None for part in estimates):
        totals = (sum(part.judge_cost or 0 for part in estimates), sum(part.judge_cost_open or 0 for part in estimates))
        lines.append(["total", *[""] * 6, *map(dollars, totals)])
    order = ("suite", "still to pay", "judge calls", "judge", "prompts", "cost")
    console = stdout_console()
    title = "Dry run: nothing is asked, nothing is written"
    console.print(rich_table(title, DRY_RUN_HEAD, lines, ("suite", "judge"), order, 4))
    if not estimates:
        return
    ways = ", ".join(dict.fromkeys(part.tokens_by for part in estimates))
    console.print(Text(f"dollars are estimates: tokens by {ways}, 400 per verdict in words"))


def print_cost(cards: Sequence[ScoreCard]) -> None:
    """Print a line per judged suite: what this run paid, and what its verdicts cost when they were first asked for."""
    for card in cards:
        if "judgment_calls" not in card.usage:
            continue
        value, paid, calls = (card.usage.get(f"judgment_{name}") for name in ("cost", "paid", "calls"))
        if value is None and paid is None:
            print(f"{card.suite}: {calls} judge calls, of unknown price")
        else:
            print(f"{card.suite}: {calls} judge calls, {_amount(paid)} paid; the verdicts are worth {_amount(value)}")


def _amount(amount: object) -> str:
    return dollars(amount) if isinstance(amount, int | float) else "unknown"
