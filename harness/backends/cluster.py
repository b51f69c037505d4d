"""Give work to free remote workers, and start such workers as actors of a Ray cluster.

>>> Need(cpus=2, gpus=1).fits({"CPU": 8.0, "GPU": 2.0})
2

The first part is the pool, the second the cluster. The pool knows neither Ray nor models: a worker is anything that
starts, works and stops, and whose exceptions tell whether it may come back. The work of a worker that died goes to
another one. Ray is imported only when a cluster is entered: the cluster of RAY_ADDRESS is joined; without one, this
machine alone becomes a cluster, stopped later.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import logging
import os
import socket
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from ..records.errors import ConfigError, HarnessError, MissingPackageError, ServerError, first_error, one_line
from ..records.providers import HUB, is_secret
from ..store.provenance import install_command

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

ADDRESS = "RAY_ADDRESS"
PROBE_LIMIT = 10.0
"""Seconds an address may take to accept a connection; Ray itself would try for some ten minutes (2.60)."""
STORE_BYTES = 256 << 20
"""Object store of a cluster started here; it suffices for prompts and answers, and /dev/shm is often small."""
RESTARTS = 20
"""Restarts of one actor in a run, on any node with room; each may cost an engine's start-up."""
ACTOR_ENV = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""Without it, an actor that Ray ends, or whose driver dies, would kill its model server's warden with SIGKILL, and the
warden could no longer stop the engine. With it, the warden notices that the actor is gone and stops everything."""
NO_RAY = "backend 'ray' and `reward: {workers: …}` need the package ray: "


class WorkerLostError(ServerError):
    """The worker died or cannot be reached; it may come back."""


class WorkerGoneError(HarnessError):
    """The worker will never work again; the message states why."""


class Worker(Protocol[Taken, Given]):
    """One worker, wherever it runs.

    Its calls raise WorkerLostError and WorkerGoneError; any other error of `work` goes to the caller of `ask`.
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
        self._capacity = capacity
        self._patience = patience
        self._queue: asyncio.PriorityQueue[_Job[Work, Result]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._open: set[asyncio.Future[Result]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._first = asyncio.Event()
        self._failed: Exception | None = None
        self._alarm: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._alarm_without_workers()
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
        await asyncio.gather(*(self._stop_worker(worker) for worker in self._workers))

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
                self._worker_ready()
                try:
                    await self._feed(worker)
                finally:
                    self.working -= 1
                    self._alarm_without_workers()
            except WorkerLostError as error:  # while starting
                log.debug("%s: %s", self.name, error)
            except WorkerGoneError as error:
                return self._worker_gone(error)
            except BaseExceptionGroup as errors:
                gone, rest = errors.split(WorkerGoneError)
                if gone is not None:
                    return self._worker_gone(first_error(gone))
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
            self._requeue(job)  # unless it has its result

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
                    if load >= self._capacity:
                        room.clear()
                    task = group.create_task(self._finish(worker, job))
                    task.add_done_callback(lambda _, job=job: ended(job))  # type: ignore[misc]  # mypy: lambda's default

            group.create_task(give())

    async def _finish(self, worker: Worker[Work, Result], job: _Job[Work, Result]) -> None:
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

    def _requeue(self, job: _Job[Work, Result]) -> None:
        if job.future.done():
            return
        lost = 1 - job.rank
        if lost >= ATTEMPTS:
            job.future.set_exception(WorkerLostError(f"{lost} workers were lost with it in flight"))
            return
        self._queue.put_nowait(_Job(-lost, job.number, job.work, job.weight, job.future))

    async def _stop_worker(self, worker: Worker[Work, Result]) -> None:
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await worker.stop()
        except TimeoutError:
            log.warning("%s: a worker did not stop within %.0f s", self.name, STOP_LIMIT)

    # which workers can work

    def _worker_ready(self) -> None:
        self.working += 1
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._first.set()
        log.info("%s: %d of %d workers can work", self.name, self.working, len(self._workers))

    def _alarm_without_workers(self) -> None:
        if self.working == 0 and self._alarm is None:
            words = f"{self.name}: no worker for {self._patience:.0f} s: none found room, or none started"
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(self._patience, self._fail, ServerError(words))

    def _worker_gone(self, error: HarnessError) -> None:
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


@dataclass(frozen=True)
class Need:
    """What one worker reserves, on a single node."""

    cpus: float = 1.0
    gpus: float = 0.0

    def fits(self, resources: Mapping[str, float]) -> int:
        """Return how many workers fit into these resources."""
        amounts = [(resources.get("CPU", 0.0), self.cpus), (resources.get("GPU", 0.0), self.gpus)]
        return min((int(available // wanted) for available, wanted in amounts if wanted), default=1 << 20)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU and {self.gpus:g} GPU"


@dataclass(frozen=True)
class ActorRefusal:
    """What an actor returns instead of a result if a HarnessError stops it for good.

    Ray cannot pass on exceptions whose constructors take more than a message.
    """

    message: str
    node: str


class RayCluster:
    """Ray for the duration of a `with`. Raise ConfigError without Ray, ServerError if no cluster answers."""

    def __init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingPackageError(NO_RAY + install_command("ray"))
        self._ours = False

    def __enter__(self) -> Self:
        # Ray reads these once, when it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            address = os.environ.get(ADDRESS, "")
            _probe(address)
            target: dict[str, Any] = (
                {"address": address} if address else {"address": "local", "object_store_memory": STORE_BYTES}
            )
            log.info("joining the Ray cluster %s" if address else "starting Ray on this machine%s", address)
            try:
                # workers write to Ray's own logs; what the harness needs to know they return
                ray.init(**target, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
                raise ServerError(f"no Ray cluster at {address or 'this machine'}: {one_line(error)}") from None
            self._ours = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if self._ours and ray.is_initialized():
            ray.shutdown()
        self._ours = False

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of every live node, in use or not."""
        import ray

        return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def actors(
        self,
        kind: type,
        arguments: Sequence[tuple[object, ...]],
        need: Need,
        *,
        calls: int,
        environment: Mapping[str, str] | None = None,
    ) -> list[Any]:
        """Start one actor per tuple of arguments; Ray places it where there is room, and again if it dies.

        `calls`: simultaneous calls of one actor. `environment`: variables that the actors get besides Ray's. Raise
        ConfigError if one never fits on any node.
        """
        import ray

        check_room(need, self.nodes(), len(arguments))
        options = {
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            "max_restarts": RESTARTS,
            "max_concurrency": calls,
            "runtime_env": {"env_vars": {**ACTOR_ENV, **(environment or {})}},
        }
        return [ray.remote(**options)(kind).remote(*parameters) for parameters in arguments]

    def has_gpus(self) -> bool:
        return any(node.get("GPU", 0) for node in self.nodes())


def no_secrets() -> dict[str, str]:
    """Return variables for actors that serve a model: keys and passwords that Ray passes on from here, emptied.

    Ray's own token stays, as an actor joins the cluster with it, and the Hub's, as an actor may download the model.
    """
    secrets = (name for name in os.environ if is_secret(name) and name not in HUB and not name.startswith("RAY_"))
    return dict.fromkeys(secrets, "")


def check_room(need: Need, nodes: Sequence[Mapping[str, float]], count: int) -> None:
    """Raise ConfigError if no node has what one worker needs; warn if not all workers have room at once."""
    room = [need.fits(node) for node in nodes]
    if not any(room):
        largest = ", ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes[:8])
        raise ConfigError(
            f"a worker needs {need} on one node, and no node of the Ray cluster has that (they have: "
            f"{largest or 'none'}); change tensor_parallel, ray.cpus or ray.gpus, or add a node"
        )
    if sum(room) < count:
        log.warning("the Ray cluster has room for %d of %d workers; the others wait for room", sum(room), count)


class ActorWorker(Generic[Work, Result]):
    """An actor as a worker of a pool: it has methods `start`, `work` and `stop`, which may return an ActorRefusal."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._started = False

    async def start(self) -> None:
        self._started = False
        await self._result(self._actor.start.remote(), starting=True)
        self._started = True

    async def work(self, work: Work) -> Result:
        result: Result = await self._result(self._actor.work.remote(work), starting=False)
        return result

    async def stop(self) -> None:
        """Wait until what the actor started is gone, so that the next engine finds its GPU free, then end it."""
        import ray

        try:
            if self._started:
                with suppress(HarnessError):
                    await self._result(self._actor.stop.remote(), starting=False)
        finally:
            ray.kill(self._actor)

    async def _result(self, reference: Awaitable[Any], *, starting: bool) -> Any:
        from ray.exceptions import ActorDiedError, RayError, RayTaskError

        try:
            result = await reference
        except RayTaskError:
            raise  # a bug in the actor's code, with its traceback
        except RayError as error:
            reason = one_line(error)
            # an actor that can be restarted is "unavailable"; "died" is final only during a start
            if starting and isinstance(error, ActorDiedError):
                raise WorkerGoneError(f"a worker died for good: {reason}") from None
            raise WorkerLostError(f"a worker was lost: {reason}") from None
        if isinstance(result, ActorRefusal):
            raise WorkerGoneError(f"worker on node {result.node}: {result.message}")
        return result


def whole_path(text: str) -> str:
    """Return the absolute path of a file or folder, as an actor runs in another folder; any other text unchanged."""
    return os.path.abspath(text) if os.path.exists(text) else text


def node_name() -> str:
    """Return the address of this actor's node, for messages."""
    import ray

    return str(ray.util.get_node_ip_address())


def _probe(address: str) -> None:
    """Raise ServerError if nothing listens at a cluster's address: Ray would retry for minutes."""
    if not address:
        return
    if "://" in address:
        raise ConfigError(
            f"{ADDRESS}={address!r}: give the cluster's HOST:PORT, from one of its nodes; Ray Client is not used"
        )
    cluster = _current() if address == "auto" else address
    host, _, port = cluster.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_LIMIT):
            return
    except (OSError, ValueError) as error:
        raise ServerError(
            f"no Ray cluster at {cluster or 'this machine'} ({ADDRESS}={address!r}: {error}); start one with "
            f"`ray start --head`, or unset {ADDRESS} to have one started on this machine alone"
        ) from None


def _current() -> str:
    """Return HOST:PORT of the cluster that `ray start` last started or joined here, from Ray's own note, or ""."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"
    try:
        return (folder / "ray_current_cluster").read_text("utf-8").strip()
    except OSError:
        return ""
