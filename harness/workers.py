"""A pool of remote workers: work goes to a free worker, and the work of a worker that died goes to another one.

It decides which worker does what, and how long it waits if there is none. It knows neither Ray nor models: a worker is
anything that starts, works and stops, and whose exceptions tell whether it may come back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

from .errors import HarnessError, ServerError, first_error

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Workers that may die while they do one piece of work. A node is rarely lost more than once in a run, and the engine's
own backend detects a prompt that kills the engine by asking it alone."""
LOOK_AGAIN = 0.5
"""Seconds between two checks whether a lost worker is back."""
STOP_LIMIT = 15.0
"""Seconds a worker may take to stop: a model server's processes get 7 s before they are killed."""

Work = TypeVar("Work")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Given = TypeVar("Given", covariant=True)


class WorkerLostError(ServerError):
    """The worker died or cannot be reached; it may come back."""


class WorkerGoneError(HarnessError):
    """The worker will never work again; the message states why."""


class Worker(Protocol[Taken, Given]):
    """One worker, wherever it runs.

    Its calls raise WorkerLostError and WorkerGoneError; any other error of `work` belongs to the work and goes to the
    caller of `ask`.
    """

    async def start(self) -> None:
        """Wait until it can work; return at once if it can already."""

    async def work(self, work: Taken) -> Given: ...

    async def stop(self) -> None:
        """End it, whether it is alive or dead."""


@dataclass(order=True)
class _Job(Generic[Work, Result]):
    """A piece of work, sorted so that the most often lost comes first, then by arrival."""

    rank: int
    number: int
    work: Work = field(compare=False)
    weight: float = field(compare=False)
    future: asyncio.Future[Result] = field(compare=False)


class WorkerPool(Generic[Work, Result]):
    """A pool that is entered when the first worker can work; the others join later.

    `capacity`: a worker takes more work while the weights of its work in flight add up to less. `patience`: seconds
    without any worker, at the start or later, after which all waiting work fails with ServerError.
    """

    def __init__(self, name: str, workers: Sequence[Worker[Work, Result]], *, capacity: int, patience: float) -> None:
        self.name = name
        self.working = 0
        """Workers that can work now."""
        self._workers = workers
        self._left = len(workers)
        self._places = capacity
        self._patience = patience
        self._queue: asyncio.PriorityQueue[_Job[Work, Result]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._open: set[asyncio.Future[Result]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._first = asyncio.Event()
        self._failed: Exception | None = None
        self._alarm: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._nobody_works()
        self._tasks = [asyncio.create_task(self._run(worker)) for worker in self._workers]
        for task in self._tasks:
            task.add_done_callback(self._ended)
        try:
            await self._first.wait()
            if self._failed is not None:
                raise self._failed
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._stopped(worker) for worker in self._workers))

    async def ask(self, work: Work, *, weight: float = 1.0) -> Result:
        """Return a worker's result for `work`.

        Raise WorkerLostError if ATTEMPTS workers were lost with it in flight, ServerError if no worker is left.
        """
        if self._failed is not None:
            raise self._failed
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        self._queue.put_nowait(_Job(0, next(self._numbers), work, weight, future))
        return await future

    # one worker's life

    async def _run(self, worker: Worker[Work, Result]) -> None:
        while True:
            try:
                await worker.start()
                self._works()
                try:
                    await self._feed(worker)
                finally:
                    self.working -= 1
                    self._nobody_works()
            except WorkerLostError as error:  # while starting
                log.debug("%s: %s", self.name, error)
            except WorkerGoneError as error:
                return self._leaves(error)
            except BaseExceptionGroup as errors:
                gone, rest = errors.split(WorkerGoneError)
                if gone is not None:
                    return self._leaves(first_error(gone))
                lost, rest = errors.split(WorkerLostError)
                if rest is not None:
                    raise
                log.warning("%s: %s; what it had in flight is asked again", self.name, lost and first_error(lost))
            await asyncio.sleep(LOOK_AGAIN)

    async def _feed(self, worker: Worker[Work, Result]) -> None:
        """Give the worker work as long as it lives; ends with WorkerLostError or WorkerGoneError in a group."""
        load, room = 0.0, asyncio.Event()
        room.set()

        def ended(job: _Job[Work, Result]) -> None:
            nonlocal load
            load -= job.weight
            room.set()
            self._again(job)  # requeue it if it was lost or never started

        async with asyncio.TaskGroup() as group:
            # a separate task: the group must notice a lost worker while this loop waits for work
            async def give() -> None:
                nonlocal load
                while True:
                    await room.wait()
                    job = await self._queue.get()
                    if job.future.done():
                        continue  # the caller no longer waits
                    load += job.weight
                    if load >= self._places:
                        room.clear()
                    task = group.create_task(self._one(worker, job))
                    task.add_done_callback(lambda _, job=job: ended(job))  # type: ignore[misc]  # mypy: lambda's default

            group.create_task(give())

    async def _one(self, worker: Worker[Work, Result], job: _Job[Work, Result]) -> None:
        try:
            result = await worker.work(job.work)
        except (WorkerLostError, WorkerGoneError):
            raise
        except Exception as error:  # the boundary between caller and worker: raise it in the caller, not here
            if not job.future.done():
                job.future.set_exception(error)
        else:
            if not job.future.done():
                job.future.set_result(result)

    def _again(self, job: _Job[Work, Result]) -> None:
        if job.future.done():
            return
        lost = 1 - job.rank
        if lost >= ATTEMPTS:
            job.future.set_exception(WorkerLostError(f"{lost} workers were lost with it in flight"))
            return
        self._queue.put_nowait(_Job(-lost, job.number, job.work, job.weight, job.future))

    async def _stopped(self, worker: Worker[Work, Result]) -> None:
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await worker.stop()
        except TimeoutError:
            log.warning("%s: a worker did not stop within %.0f s", self.name, STOP_LIMIT)

    # which workers can work

    def _works(self) -> None:
        self.working += 1
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._first.set()
        log.info("%s: %d of %d workers can work", self.name, self.working, len(self._workers))

    def _nobody_works(self) -> None:
        if self.working == 0 and self._alarm is None:
            words = f"{self.name}: no worker for {self._patience:.0f} s: none found room, or none started"
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self._patience, self._fail, ServerError(words))

    def _leaves(self, error: HarnessError) -> None:
        self._left -= 1
        if self._left:
            log.warning("%s: a worker is gone for good, %d are left: %s", self.name, self._left, error)
        else:
            self._fail(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Raise an unexpected error of a worker's task in all callers."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        failure = ServerError(f"{self.name}: {error}") if isinstance(error, WorkerGoneError) else error
        self._failed = failure
        self._first.set()
        for future in list(self._open):
            if not future.done():
                future.set_exception(failure)
