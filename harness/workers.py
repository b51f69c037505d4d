"""A pool of workers elsewhere: work goes to whoever is free, and what a worker took with it when it died is given out
again.

It owns who works at what, and for how long nobody may be there. It knows neither Ray nor models: a worker is anything
that starts, works and stops, and says by an exception whether it may come back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

from .errors import HarnessError, ServerError

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""Workers that may die of, or beside, one piece of work. A node is seldom lost more than once in a run; a prompt that
kills an engine is found by the engine's own backend, which asks it alone."""
LOOK_AGAIN = 0.5
"""Seconds between two looks whether a lost worker is back."""
STOP_LIMIT = 15.0
"""Seconds a worker may take to stop: a model server's processes get 7 s before they are killed."""

Work = TypeVar("Work")
Result = TypeVar("Result")
Taken = TypeVar("Taken", contravariant=True)
Given = TypeVar("Given", covariant=True)


class WorkerLostError(ServerError):
    """The worker died or cannot be reached; it may come back."""


class WorkerGoneError(HarnessError):
    """The worker will never work again; the text says why."""


class Worker(Protocol[Taken, Given]):
    """One worker, wherever it runs. Its calls raise WorkerLostError and WorkerGoneError; any other error of `work` is
    the work's own, and goes to whoever asked."""

    async def start(self) -> None:
        """Returns when it can work; at once where it can already."""

    async def work(self, work: Taken) -> Given: ...

    async def stop(self) -> None:
        """Ends it, dead or alive."""


@dataclass(order=True)
class _Job(Generic[Work, Result]):
    """Sorted: what was lost most often first, then first come, first served."""

    rank: int
    number: int
    work: Work = field(compare=False)
    weight: float = field(compare=False)
    future: asyncio.Future[Result] = field(compare=False)


class WorkerPool(Generic[Work, Result]):
    """Entered once the first worker can work; the others join when they can.

    `places`: a worker takes more while what it has in flight weighs less. `patience`: seconds that may pass without any
    worker, at the start as after the loss of all, before everything that waits fails with ServerError.
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
        """What a worker made of it. Raises WorkerLostError where ATTEMPTS workers were lost with it in flight,
        ServerError where no worker is left."""
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
                    return self._leaves(_leaf(gone))
                lost, rest = errors.split(WorkerLostError)
                if rest is not None:
                    raise
                log.warning("%s: %s; what it had in flight is asked again", self.name, lost and _leaf(lost))
            await asyncio.sleep(LOOK_AGAIN)

    async def _feed(self, worker: Worker[Work, Result]) -> None:
        """Gives it work for as long as it lives; ends by WorkerLostError or WorkerGoneError, in a group."""
        load, room = 0.0, asyncio.Event()
        room.set()

        def ended(job: _Job[Work, Result]) -> None:
            nonlocal load
            load -= job.weight
            room.set()
            self._again(job)  # lost, or never begun; what is done is left alone

        async with asyncio.TaskGroup() as group:
            # a task of its own: the group must see a lost worker while this loop waits for work
            async def give() -> None:
                nonlocal load
                while True:
                    await room.wait()
                    job = await self._queue.get()
                    if job.future.done():
                        continue  # whoever asked no longer waits
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
        except Exception as error:  # the edge between who asked and who worked: it rises there, not here
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

    # who is there

    def _works(self) -> None:
        self.working += 1
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._first.set()
        log.info("%s: %d of %d workers can work", self.name, self.working, len(self._workers))

    def _nobody_works(self) -> None:
        if self.working == 0 and self._alarm is None:
            words = f"{self.name}: no worker could work for {self._patience:.0f} s: none found room, or none came up"
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self._patience, self._fail, ServerError(words))

    def _leaves(self, error: HarnessError) -> None:
        self._left -= 1
        if self._left:
            log.warning("%s: a worker is gone for good, %d are left: %s", self.name, self._left, error)
        else:
            self._fail(error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """What no worker may raise is nobody's but the caller's."""
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


def _leaf(errors: BaseExceptionGroup[HarnessError]) -> HarnessError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HarnessError)
    return error
