"""Score with several processes of this machine, each with a copy of the reward and GPUs of its own.

The answers of one call are split into the same batches as in one process, so it does not matter which process scores a
batch. A step has as many processes as its GPUs allow; Ray is not needed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Self

from harness.backends.devices import VISIBLE
from harness.records.errors import IncompleteError, UsageError
from harness.records.protocols import RewardOptions

from ..schedule import end_with_parent
from ..steps import log_to_terminal
from .scorer import Outcome, RewardItem, Scorer

ROUNDS = 8
"""Batches per process in one call. All wait for the slowest one at the end of each call."""
GRACE = 30.0
"""Seconds for a process to end, e.g. to stop its server, before it is killed."""


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
