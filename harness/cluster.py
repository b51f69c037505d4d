"""A Ray cluster, joined or started here, and actors on it as workers of a pool.

It owns addresses, resources, and what Ray's errors mean; what the actors do is said by who uses it. Ray is imported
only once a cluster is entered. The cluster of RAY_ADDRESS is joined; without it, one of this machine alone is started,
and stopped again.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from .errors import ConfigError, HarnessError, ServerError
from .install import install_command
from .workers import WorkerGoneError, WorkerLostError

log = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
PROBE_LIMIT = 10.0
"""Seconds an address may take to accept a connection; Ray itself would try for some ten minutes (2.60)."""
STORE_BYTES = 256 << 20
"""Object store of a cluster started here: prompts and answers are small, and /dev/shm often is."""
RESTARTS = 20
"""Of one actor in a run, on whatever node has room; each may cost an engine's start."""
ACTOR_ENV = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""An actor that Ray ends, or whose driver dies, would take its model server's warden with it by SIGKILL, and the warden
could no longer stop the engine; let alone, the warden sees that the actor is gone and stops everything."""
NO_RAY = "backend 'ray' and `reward: {workers: …}` need the package ray: "

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Need:
    """What one worker reserves, on a single node."""

    cpus: float = 1.0
    gpus: float = 0.0

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many workers these resources hold."""
        asked = [(resources.get("CPU", 0.0), self.cpus), (resources.get("GPU", 0.0), self.gpus)]
        return min((int(there // wanted) for there, wanted in asked if wanted), default=1 << 20)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU and {self.gpus:g} GPU"


@dataclass(frozen=True)
class Refusal:
    """What an actor returns in place of a result when a HarnessError says that it can do nothing more. Ray's own way
    to hand on exceptions loses those whose constructors take more than a message."""

    message: str
    node: str


class RayCluster:
    """Ray, for the time of a `with`. Raises ConfigError without Ray, ServerError where no cluster answers."""

    def __init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(NO_RAY + install_command("ray"))
        self._ours = False

    def __enter__(self) -> Self:
        # Ray reads these once, when it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if not ray.is_initialized():
            given = os.environ.get(ADDRESS, "")
            _probe(given)
            own: dict[str, Any] = (
                {"address": given} if given else {"address": "local", "object_store_memory": STORE_BYTES}
            )
            log.info("joining the Ray cluster %s" if given else "starting Ray on this machine%s", given)
            try:
                # workers write to Ray's own logs; what they have to say to us they return
                ray.init(**own, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ServerError(f"no Ray cluster at {given or 'this machine'}: {reason}") from None
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
        """The resources of every node that lives, in use or not."""
        import ray

        return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def actors(self, kind: type, arguments: Sequence[tuple[object, ...]], need: Need, *, calls: int) -> list[Any]:
        """One actor for each tuple of arguments, placed by Ray where there is room, and placed anew when it dies.

        `calls`: of one actor, at a time. Raises ConfigError where no node could ever hold one.
        """
        import ray

        check_room(need, self.nodes(), len(arguments))
        options = {
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            "max_restarts": RESTARTS,
            "max_concurrency": calls,
            "runtime_env": {"env_vars": ACTOR_ENV},
        }
        return [ray.remote(**options)(kind).remote(*given) for given in arguments]

    def has_gpus(self) -> bool:
        return any(node.get("GPU", 0) for node in self.nodes())


def check_room(need: Need, nodes: Sequence[Mapping[str, float]], count: int) -> None:
    """Raises ConfigError where no node has what one worker needs; warns where not all workers have room at once."""
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
    """An actor as a worker of a pool: it has methods `start`, `work` and `stop`, which may return a Refusal."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._started = False

    async def start(self) -> None:
        self._started = False
        await self._said(self._actor.start.remote(), starting=True)
        self._started = True

    async def work(self, work: Work) -> Result:
        found: Result = await self._said(self._actor.work.remote(work), starting=False)
        return found

    async def stop(self) -> None:
        """Waits until what it started is gone, so that the next engine finds its GPU free, and ends it."""
        import ray

        try:
            if self._started:
                with suppress(HarnessError):
                    await self._said(self._actor.stop.remote(), starting=False)
        finally:
            ray.kill(self._actor)

    async def _said(self, reference: Awaitable[Any], *, starting: bool) -> Any:
        from ray.exceptions import ActorDiedError, RayError, RayTaskError

        try:
            found = await reference
        except RayTaskError:
            raise  # a bug in the actor's code, with its traceback
        except RayError as error:
            reason = " ".join(str(error).split())[:400]
            # an actor that can be placed anew is "unavailable"; only at a start does "died" mean for good
            if starting and isinstance(error, ActorDiedError):
                raise WorkerGoneError(f"a worker died for good: {reason}") from None
            raise WorkerLostError(f"a worker was lost: {reason}") from None
        if isinstance(found, Refusal):
            raise WorkerGoneError(f"worker on node {found.node}: {found.message}")
        return found


def whole_path(text: str) -> str:
    """A file or folder by its whole path, as an actor stands elsewhere; any other text as it is."""
    return os.path.abspath(text) if os.path.exists(text) else text


def node_name() -> str:
    """Where this actor runs, for messages."""
    import ray

    return str(ray.util.get_node_ip_address())


def _probe(address: str) -> None:
    """Raises ServerError where nothing listens at a cluster's address: Ray would try on and on."""
    if not address:
        return
    if "://" in address:
        raise ConfigError(
            f"{ADDRESS}={address!r}: give the cluster's HOST:PORT, from one of its nodes; Ray Client is not used"
        )
    where = _current() if address == "auto" else address
    host, _, port = where.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_LIMIT):
            return
    except (OSError, ValueError) as error:
        raise ServerError(
            f"no Ray cluster at {where or 'this machine'} ({ADDRESS}={address!r}: {error}); start one with "
            f"`ray start --head`, or unset {ADDRESS} to have one started on this machine alone"
        ) from None


def _current() -> str:
    """HOST:PORT of the cluster that `ray start` last started or joined here, as Ray notes it; empty: none."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"
    try:
        return (folder / "ray_current_cluster").read_text("utf-8").strip()
    except OSError:
        return ""
