"""Score with several Ray workers, each with its own scorer: `reward: {workers: N}`.

The answers of one call are split into the same batches as without Ray, so it does not matter which worker scores a
batch. If a worker dies, another one scores its batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Self

from pydantic import JsonValue

from harness.backends.cluster import ActorRefusal, ActorWorker, Need, RayCluster, WorkerPool, node_name, whole_path
from harness.records.errors import ConfigError, HarnessError, IncompleteError
from harness.records.protocols import RewardOptions
from harness.records.settings import ServeSpec, checked

from .scorer import Outcome, RewardItem, Scorer

ROUNDS = 8
"""Batches per worker in one call. All workers wait for the slowest one at the end of each call."""


@dataclass(frozen=True)
class ScoringFailure:
    """The reward itself failed, so another worker would fail too."""

    message: str


class ScorerActor:
    """Runs in a Ray worker and contains one scorer, entered by `start`."""

    def __init__(self, options: RewardOptions, identity: dict[str, JsonValue]) -> None:
        self._options = options
        self._identity = identity
        self._scorer: Scorer | None = None

    def start(self) -> ActorRefusal | None:
        """Enter the scorer, or return why this node cannot run it."""
        if self._scorer is not None:
            return None
        try:
            if self._options.log_dir is not None:
                self._options.log_dir.mkdir(parents=True, exist_ok=True)
            scorer = Scorer(self._options)
            if scorer.identity() != self._identity:
                raise ConfigError(f"the {scorer.kind} reward on this node differs from the one where the recipe runs")
            self._scorer = scorer.__enter__()
        except HarnessError as error:
            return ActorRefusal(str(error), node_name())
        except OSError as error:
            return ActorRefusal(f"cannot write the log: {error}", node_name())
        return None

    def work(self, items: Sequence[RewardItem]) -> list[Outcome] | ScoringFailure:
        """Return one outcome per item, or the failure of the reward itself."""
        assert self._scorer is not None, "start first"
        try:
            return self._scorer.score(items)
        except HarnessError as error:
            return ScoringFailure(str(error))

    def stop(self) -> None:
        if self._scorer is not None:
            self._scorer.__exit__(None, None, None)


class RayScorer(Scorer):
    """Scores in Ray workers. Files of the reward (weights, a function's module) must exist on every node."""

    def __init__(self, options: RewardOptions, *, workers: int, cpus: float, gpus: float | None) -> None:
        """Create the scorer. Each worker reserves `cpus` and `gpus`; None means one GPU if the cluster has any."""
        RayCluster()  # raises if Ray is not installed
        super().__init__(options)
        self.at_once = workers * ROUNDS * options.batch_size
        self._options = options
        self._workers = workers
        self._cpus, self._gpus = cpus, gpus
        self._patience = float(checked(ServeSpec, options.serve, "reward: serve").start_timeout)
        self._pool: WorkerPool[Sequence[RewardItem], list[Outcome] | ScoringFailure] | None = None
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._opened())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._runner.run(self._stack.aclose())
        finally:
            self._runner.close()

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """Return one outcome per item. Raise IncompleteError if the reward fails."""
        size = self._options.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [outcome for batch in self._runner.run(self._score_batches(batches)) for outcome in batch]

    async def _opened(self) -> None:
        async with AsyncExitStack() as stack:
            cluster = stack.enter_context(RayCluster())
            gpus = float(cluster.has_gpus()) if self._gpus is None else self._gpus
            arguments = [(self._of_worker(rank), self.identity()) for rank in range(self._workers)]
            # one call at a time, because rewards need not be thread-safe
            actors = cluster.actors(ScorerActor, arguments, Need(self._cpus, gpus), calls=1)
            workers = [ActorWorker[Sequence[RewardItem], list[Outcome] | ScoringFailure](actor) for actor in actors]
            pool = WorkerPool(f"{self.kind} reward on Ray", workers, capacity=2, patience=self._patience)
            self._pool = await stack.enter_async_context(pool)
            self._stack = stack.pop_all()

    def _of_worker(self, rank: int) -> RewardOptions:
        """Return the options of one worker: its own log folder, and absolute paths because it runs elsewhere."""
        serve = dict(self._options.serve)
        if isinstance(template := serve.get("chat_template"), str):
            serve["chat_template"] = whole_path(template)
        options = replace(self._options, model=_whole(self._options.model), serve=serve)
        folder = options.log_dir
        return options if folder is None else replace(options, log_dir=folder.resolve() / f"worker-{rank}")

    async def _score_batches(self, batches: Sequence[Sequence[RewardItem]]) -> list[list[Outcome]]:
        pool = self._pool
        assert pool is not None, "use `with`"
        replies = await asyncio.gather(*(pool.ask(batch) for batch in batches))
        for reply in replies:
            if isinstance(reply, ScoringFailure):
                raise IncompleteError(reply.message)
        return [reply for reply in replies if not isinstance(reply, ScoringFailure)]


def _whole(model: str | None) -> str | None:
    """Return a folder or `FILE.py:NAME` with its absolute path, and any other model as it is."""
    if model is None:
        return None
    file, colon, name = model.partition(".py:")
    return whole_path(file + ".py") + ":" + name if colon else whole_path(model)
