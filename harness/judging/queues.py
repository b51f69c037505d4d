"""A bounded queue for each judge: one that is slow, or waits for a rate limit, keeps no other judge from its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ..protocols import Judge

Item = TypeVar("Item")
MAX_WORKERS = 256
"""Of one judge."""


class JudgeQueue(Generic[Item]):
    """One judge's tasks. `batch`: without bound, answered by one worker a task once all are there."""

    def __init__(self, judge: Judge, *, batch: bool = False) -> None:
        self.judge = judge
        workers = min(judge.spec.concurrency, MAX_WORKERS)
        self.workers = 0 if batch else workers
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=0 if batch else 2 * workers)


class JudgeQueues(Generic[Item]):
    """Of the judges that are asked while answers still come."""

    def __init__(self, judges: Iterable[Judge], *, batch: bool) -> None:
        self._batch = batch
        self._queues: dict[int, JudgeQueue[Item]] = {id(judge): JudgeQueue(judge, batch=batch) for judge in judges}

    async def put(self, judge: Judge, item: Item) -> None:
        """Waits for room; a judge that is asked afterwards gets nothing here."""
        queue = self._queues.get(id(judge))
        if queue is not None:
            await queue.items.put(item)

    def start(self, start_worker: Callable[[asyncio.Queue[Item | None]], object]) -> None:
        """Starts the workers that take tasks as they come; none in a batch."""
        for queue in self._queues.values():
            for _ in range(queue.workers):
                start_worker(queue.items)

    async def end(self, start_worker: Callable[[asyncio.Queue[Item | None]], object]) -> None:
        """No more tasks come: a batch's workers start now, and every worker ends after the last task."""
        for queue in self._queues.values():
            if self._batch:
                queue.workers = queue.items.qsize()
                for _ in range(queue.workers):
                    start_worker(queue.items)
            for _ in range(queue.workers):
                await queue.items.put(None)
