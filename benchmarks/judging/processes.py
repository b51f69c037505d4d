"""The mock server and each side as processes: started, asked for their figures, stopped."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A mock server that runs."""

    url: str

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            found: bytes = reply.read()
            return found

    def reset(self) -> None:
        self.get("/reset")

    def stats(self) -> dict[str, float]:
        found: dict[str, float] = json.loads(self.get("/stats"))
        return found


@contextmanager
def mock_server(**settings: float) -> Iterator[Server]:
    """`latency`, `rate`, `burst`."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        words = [f"--{name}={value}" for name, value in settings.items()]
        command = [sys.executable, "-m", "benchmarks.judging.server", "--port-file", str(port_file), *words]
        process = subprocess.Popen(command, cwd=ROOT)
        try:
            limit = time.monotonic() + 60
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > limit:
                    raise RuntimeError("the mock server does not start")
                time.sleep(0.02)
            yield Server(f"http://127.0.0.1:{port_file.read_text()}")
        finally:
            process.terminate()
            process.wait(30)


@dataclass(frozen=True)
class Whole:
    """A process from start to end."""

    wall: float
    cpu: float
    """Seconds of processor time, its own and its children's."""
    memory: float
    """MB at its peak."""
    out: str
    code: int
    err: str


def run(
    command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None, timeout: float = 900
) -> Whole:
    """Runs a command to its end; its children count where it waits for them."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=cwd, env=dict(os.environ) | dict(env or {}), stdout=out, stderr=err)
        usage = _wait(process, timeout)
        wall = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        cpu = usage.ru_utime + usage.ru_stime
        return Whole(wall, cpu, usage.ru_maxrss * 1024 / 1e6, out.read(), process.returncode, err.read()[-2000:])


def _wait(process: subprocess.Popen[bytes], timeout: float) -> resource.struct_rusage:
    limit = time.monotonic() + timeout
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > limit:
            process.kill()
        time.sleep(0.02)


def last_json(text: str) -> dict[str, Any]:
    """The last line of a process's output, which is a JSON object."""
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found
