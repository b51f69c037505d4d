"""Train on several machines: `harness train` is started once on each, by srun or torchrun.

The first machine runs the recipe. The others wait, and start their share of the processes of each training that the
first one calls out over a `torch.distributed.TCPStore`. All machines must see the same output folder.

>>> of_machines({"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "5"})
Machines(count=2, rank=1, address='gpu07', port=20005)
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from harness.records.errors import ConfigError, IncompleteError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

log = logging.getLogger(__name__)
PORTS = range(20000, 30000)
"""Where the store listens under Slurm: the job's number decides. Linux gives none of these to outgoing connections."""
JOIN = timedelta(minutes=10)
"""How long the first machine waits until the command runs on all of them."""
LISTEN = timedelta(seconds=20)
"""How long one wait for a call lasts. A training may be called hours later, so waits are repeated."""
CLAIMED = "HARNESS_MACHINES"
"""Variable with which this process and those that it starts know the machines, once torchrun's are taken away."""
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun. With them, every trainer and model in this process would wait for the other machines."""
LEAVE_SECONDS = 30.0
"""How long the store outlives the run, for the other machines to learn that it has ended."""


@dataclass(frozen=True)
class Machines:
    """The machines of one run, and which of them this is."""

    count: int
    rank: int
    address: str
    """Name of the first machine."""
    port: int
    """Where its store listens."""

    def arguments(self, processes: int, port: int) -> list[str]:
        """Return the options of `accelerate launch` here. `processes` run on each machine; the first has the port."""
        return [
            *("--num_machines", str(self.count), "--machine_rank", str(self.rank)),
            *("--num_processes", str(self.count * processes)),
            *("--main_process_ip", self.address, "--main_process_port", str(port)),
        ]

    def store(self, *, is_first: bool = False) -> TCPStore:
        """Open the store: the first machine's own, or a connection to it. Raise ConfigError if that fails."""
        from torch.distributed import DistError, TCPStore

        try:
            return TCPStore(self.address, self.port, is_master=is_first, wait_for_workers=False, timeout=JOIN)
        except (DistError, RuntimeError) as error:
            raise ConfigError(f"no connection to {self.address}:{self.port}, the first machine: {error}") from None

    def call(self, words: list[str], processes: int, port: int) -> None:
        """Ask the other machines to start `accelerate launch` with these words."""
        store = self.store()
        store.set(f"call-{store.add('calls', 1)}", json.dumps({"words": words, "processes": processes, "port": port}))


@contextmanager
def leading(machines: Machines) -> Iterator[None]:
    """Keep the store for the other machines, and tell them at the end that the run is over.

    Raise ConfigError if the command does not run on all machines.
    """
    from torch.distributed import DistError

    store = machines.store(is_first=True)
    try:
        store.wait([f"joined-{rank}" for rank in range(1, machines.count)], JOIN)
    except (DistError, RuntimeError):
        raise ConfigError(
            f"this is one of {machines.count} machines, but the command does not run on all of them; start it once on "
            "each (srun --ntasks-per-node=1), or on one only (srun --nodes=1)"
        ) from None
    try:
        yield
    finally:
        store.set(f"call-{store.add('calls', 1)}", json.dumps(None))
        limit = time.monotonic() + LEAVE_SECONDS
        while store.add("left", 0) < machines.count - 1 and time.monotonic() < limit:
            time.sleep(0.1)


def follow(machines: Machines, launch: Callable[[list[str], int, int], int]) -> None:
    """Start this machine's share of every training that is called, until the run is over.

    `launch(words, processes, port)` returns an exit code. A share that fails is only logged, because the first machine
    notices. Raise IncompleteError if the first machine is gone.
    """
    from torch.distributed import DistNetworkError, DistStoreError

    store = machines.store()
    store.set(f"joined-{machines.rank}", "")
    number = 1
    while True:
        try:
            store.wait([f"call-{number}"], LISTEN)
            call = json.loads(store.get(f"call-{number}"))
        except DistStoreError:
            continue  # nothing yet
        except (DistNetworkError, RuntimeError):
            raise IncompleteError(f"the first machine, {machines.address}, is gone; the same command resumes") from None
        if call is None:
            store.add("left", 1)
            return
        code = launch(call["words"], call["processes"], call["port"])
        if code:
            log.error("machine %d: its share of the training ended with exit code %d", machines.rank, code)
        number += 1


def claimed_machines() -> Machines | None:
    """Return the machines of this run, and take torchrun's variables out of the environment."""
    machines = of_machines()
    for name in RANKS:
        os.environ.pop(name, None)
    if machines is not None:
        os.environ[CLAIMED] = json.dumps(asdict(machines))
    return machines


def of_machines(environ: Mapping[str, str] = os.environ) -> Machines | None:
    """Return the machines of this run by torchrun's variables or Slurm's, or None if there is only one.

    Raise ConfigError if a variable is missing, or if torchrun started more than one process on a machine.
    """
    if CLAIMED in environ:
        return Machines(**json.loads(environ[CLAIMED]))
    if "RANK" in environ and "WORLD_SIZE" in environ:
        if int(environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "torchrun started several processes on this machine, but `harness train` starts its own; use "
                "--nproc_per_node=1"
            )
        count, rank = int(environ["WORLD_SIZE"]), int(environ["RANK"])
        # torchrun itself listens on MASTER_PORT
        address, port = environ.get("MASTER_ADDR", ""), int(environ.get("MASTER_PORT", "29500")) + 1
        missing = "MASTER_ADDR"
    else:
        count = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
        rank = int(environ.get("SLURM_NODEID", "0"))
        address = first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", ""))
        port, missing = PORTS[int(environ.get("SLURM_JOB_ID", "0")) % len(PORTS)], "SLURM_JOB_NODELIST"
    if count < 2:
        return None
    if not address:
        raise ConfigError(f"{count} machines, but {missing} does not name the first one")
    return Machines(count, rank, address, port)


def first_host(nodes: str) -> str:
    """Return the first host of a list as Slurm writes it.

    >>> [first_host(nodes) for nodes in ("a1,a2", "gpu[07-08,11]", "rack[1-2]n[3-4]", "one.example", "gpu[7]-ib")]
    ['a1', 'gpu07', 'rack1n3', 'one.example', 'gpu7-ib']
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0]) if first else ""
