"""Score with several copies of the reward: in processes on the GPUs of this machine, or in workers of a Ray cluster.

The answers of one call are split into the same batches as by one `Scorer`, so it does not matter which copy scores a
batch. `ReplicaScorer` has as many processes as the step's GPUs allow. `RayScorer` has `reward: {workers: N}`, and if
one of them dies, another scores its batch.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

from pydantic import JsonValue

from harness.backends.cluster import ActorRefusal, ActorWorker, Need, RayCluster, WorkerPool, node_name, whole_path
from harness.backends.devices import VISIBLE
from harness.records.errors import ConfigError, HarnessError, IncompleteError, UsageError
from harness.records.protocols import RewardOptions
from harness.records.settings import ServeSpec, checked

from ..schedule import end_with_parent
from ..steps import log_to_terminal
from .scorer import Outcome, RewardItem, Scorer

ROUNDS = 8
"""Batches per process or worker in one call. All wait for the slowest one at the end of each call, so more batches
mean less waiting, and fewer mean that a kill loses less."""
GRACE = 30.0
"""Seconds for a process to end, e.g. to stop its server, before it is killed."""


# -------------------------------------------------------------------------------------------- processes of this machine


class ReplicaScorer(Scorer):
    """Scores in one process per entry of `devices`, the CUDA_VISIBLE_DEVICES of that process."""

    def __init__(self, options: RewardOptions, devices: Sequence[str]) -> None:
        super().__init__(options)
        self._batch = self.at_once
        self.at_once = len(devices) * ROUNDS * self._batch
        self._options = options
        self._devices = tuple(devices)
        self.replicas = len(devices)
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for rank, devices in enumerate(self._devices):
            local, remote = context.Pipe()
            process = context.Process(target=_serve, args=(self._of(rank), devices, os.getpid(), remote))
            process.start()
            remote.close()
            self._pipes.append(local)
            self._processes.append(process)
        try:
            for pipe in self._pipes:
                self._received(pipe)  # the reward is loaded
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join(GRACE)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []

    def score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """Return one outcome per item. Raise IncompleteError if the reward fails or a process dies."""
        batches = [items[start : start + self._batch] for start in range(0, len(items), self._batch)]
        outcomes: dict[int, list[Outcome]] = {}
        idle, pending, following = list(self._pipes), dict[Connection, int](), 0
        while len(outcomes) < len(batches):
            while idle and following < len(batches):
                pipe = idle.pop()
                with suppress(OSError):  # a process that has died is noticed when its reply is read
                    pipe.send(batches[following])
                pending[pipe] = following
                following += 1
            for pipe in [pipe for pipe in pending if pipe in wait(list(pending))]:
                outcomes[pending.pop(pipe)] = self._received(pipe)
                idle.append(pipe)
        return [outcome for number in range(len(batches)) for outcome in outcomes[number]]

    def _of(self, rank: int) -> RewardOptions:
        folder = self._options.log_dir
        return self._options if folder is None else replace(self._options, log_dir=folder / f"replica-{rank}")

    def _received(self, pipe: Connection) -> list[Outcome]:
        try:
            reply: list[Outcome] | UsageError | IncompleteError = pipe.recv()
        except (EOFError, OSError):
            process = self._processes[self._pipes.index(pipe)]
            process.join()
            raise IncompleteError(
                f"a process of the {self.kind} reward ended with exit code {process.exitcode}; earlier rewards are "
                "kept, and the same command resumes"
            ) from None
        if isinstance(reply, UsageError | IncompleteError):
            raise reply
        return reply


def _serve(options: RewardOptions, devices: str, parent: int, pipe: Connection) -> None:
    """Score what comes through the pipe until None comes, and send back outcomes or the error that ends this."""
    os.environ[VISIBLE] = devices  # before anything initialises CUDA
    end_with_parent(parent)
    log_to_terminal()
    try:
        if options.log_dir is not None:
            options.log_dir.mkdir(parents=True, exist_ok=True)
        with Scorer(options) as scorer:
            pipe.send([])
            while (items := pipe.recv()) is not None:
                pipe.send(scorer.score(items))
    except (UsageError, IncompleteError) as error:
        pipe.send(error)
    except EOFError:
        return  # the step's process has gone


# ------------------------------------------------------------------------------------------------------- workers of Ray


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
