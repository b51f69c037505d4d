"""What a person sees while a run works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..pipeline import Progress as Step
from ..pipeline import ProgressCallback

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
