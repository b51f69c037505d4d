"""A bounded queue per judge, so that a slow judge, or one at its rate limit, does not block the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ..protocols import Judge

Item = TypeVar("Item")
MAX_WORKERS = 256
"""Most workers per judge."""


class JudgeQueue(Generic[Item]):
    """One judge's tasks. `batch`: the queue is unbounded, and one worker per task starts once all tasks are there."""

    def __init__(self, judge: Judge, *, batch: bool = False) -> None:
        self.judge = judge
        workers = min(judge.spec.concurrency, MAX_WORKERS)
        self.workers = 0 if batch else workers
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=0 if batch else 2 * workers)


class JudgeQueues(Generic[Item]):
    """The queues of the judges that are asked while answers still arrive."""

    def __init__(self, judges: Iterable[Judge], *, batch: bool) -> None:
        self._batch = batch
        self._queues: dict[int, JudgeQueue[Item]] = {id(judge): JudgeQueue(judge, batch=batch) for judge in judges}

    async def put(self, judge: Judge, item: Item) -> None:
        """Put an item into a judge's queue once there is room; ignore judges that are asked after the answers."""
        queue = self._queues.get(id(judge))
        if queue is not None:
            await queue.items.put(item)

    def start(self, start_worker: Callable[[asyncio.Queue[Item | None]], object]) -> None:
        """Start the workers that take tasks as they arrive; none for a batch."""
        for queue in self._queues.values():
            for _ in range(queue.workers):
                start_worker(queue.items)

    async def end(self, start_worker: Callable[[asyncio.Queue[Item | None]], object]) -> None:
        """Signal that no more tasks come: start a batch's workers, and let every worker end after the last task."""
        for queue in self._queues.values():
            if self._batch:
                queue.workers = queue.items.qsize()
                for _ in range(queue.workers):
                    start_worker(queue.items)
            for _ in range(queue.workers):
                await queue.items.put(None)
