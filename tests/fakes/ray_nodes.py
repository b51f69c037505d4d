"""A Ray cluster of nodes of this machine, each with a raylet of its own, and how one of them dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.backends.warden import descendants
from tests.fakes.processes import gone

STORE = 80 << 20
"""Bytes of one node's object store, close to the least Ray takes."""


class Nodes:
    """`address` is what RAY_ADDRESS has to be."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self.folder = folder
        # neither autoscaler nor log monitor: they take seconds to start and are not used
        options = {"include_dashboard": False, "no_monitor": True, "include_log_monitor": False}
        self._cluster.add_node(num_cpus=1, object_store_memory=STORE, **options)
        self._second: Any = None
        self.add()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self._second = self._cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def kill_second(self) -> None:
        """kill -9 of the second node's raylet and of all that runs below it, as when a machine is gone."""
        (raylet,) = (process for name, process in self._second.live_processes() if name == "raylet")
        for pid in [raylet.pid, *descendants(raylet.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self._cluster.shutdown()


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """One CPU each. Everything of Ray's lies in a folder that is gone afterwards, and so are its processes."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a socket's path has 107 bytes at most: tmp_path is too long
    # Ray runs its workers at niceness 15: on a busy machine they would hardly run at all
    ours = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ |= ours
    try:
        nodes = Nodes(folder)
        try:
            yield nodes
        finally:
            nodes.close()
        assert gone(folder, 30)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
