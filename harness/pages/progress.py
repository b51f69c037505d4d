"""Show how far a run is while it works: as bars on a terminal, as plain lines elsewhere.

>>> _clock_text(38), _clock_text(3725)
('0:38', '1:02:05')

The rate counts from the first row, so that a server's start is not part of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ..judging.cost import dollars
from ..records import Preference
from ..records.facts import Metric, facts_of
from ..running.pipeline import Progress as Step
from ..running.pipeline import ProgressCallback

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two plain lines."""


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
