"""A Ray cluster, joined or started here, whose actors are workers of a pool.

It handles addresses, resources and the meaning of Ray's errors; its callers define what the actors do. Ray is imported
only when a cluster is entered. It joins the cluster of RAY_ADDRESS; without one it starts, and later stops, a cluster
of this machine alone.
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
"""Object store of a cluster started here; it suffices for prompts and answers, and /dev/shm is often small."""
RESTARTS = 20
"""Restarts of one actor in a run, on any node with room; each may cost an engine's start-up."""
ACTOR_ENV = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""Without it, an actor that Ray ends, or whose driver dies, would kill its model server's warden with SIGKILL, and the
warden could no longer stop the engine. With it, the warden notices that the actor is gone and stops everything."""
NO_RAY = "backend 'ray' and `reward: {workers: …}` need the package ray: "

Work = TypeVar("Work")
Result = TypeVar("Result")


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
    """Ray for the duration of a `with`. Raises ConfigError without Ray, ServerError if no cluster answers."""

    def __init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(NO_RAY + install_command("ray"))
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
                reason = " ".join(str(error).split())[:300]
                raise ServerError(f"no Ray cluster at {address or 'this machine'}: {reason}") from None
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

    def actors(self, kind: type, arguments: Sequence[tuple[object, ...]], need: Need, *, calls: int) -> list[Any]:
        """Start one actor per tuple of arguments; Ray places it where there is room, and again if it dies.

        `calls`: simultaneous calls of one actor. Raise ConfigError if one never fits on any node.
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
        return [ray.remote(**options)(kind).remote(*parameters) for parameters in arguments]

    def has_gpus(self) -> bool:
        return any(node.get("GPU", 0) for node in self.nodes())


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
            reason = " ".join(str(error).split())[:400]
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
    """Return HOST:PORT of the cluster that `ray start` last started or joined here, from Ray's own note, or ""."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"
    try:
        return (folder / "ray_current_cluster").read_text("utf-8").strip()
    except OSError:
        return ""
