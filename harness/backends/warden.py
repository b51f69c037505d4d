"""A tiny process between the harness and a model server, so that no server outlives the harness.

Run as a file: `python -I warden.py COMMAND…`. Its standard input is a pipe that only the harness keeps open. When the
pipe closes (the harness stopped, crashed or was killed with -9), every process below the warden is stopped: SIGTERM,
then SIGKILL. Its exit status is the command's (128 + signal if a signal killed it). Standard library only; starts in
30 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL: Ctrl-C must finish within 5."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(command: list[str]) -> int:
    """Run `command` until it ends or standard input closes, and return its exit status."""
    closed, closing = os.pipe()
    os.set_inheritable(closing, False)

    def stop(_number: int, _frame: FrameType | None) -> None:
        os.write(closing, b"x")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    # processes that the server leaves behind become our children, so that `below` lists them
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, 9)
    )
    _wait(child, closed)
    _stop_all(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait(child: subprocess.Popen[bytes], closed: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(closed, selectors.EVENT_READ)
        ended = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
        if ended is not None:
            selector.register(ended, selectors.EVENT_READ)
        while child.poll() is None:
            for key, _ in selector.select(timeout=None if ended is not None else 0.2):
                if key.fd == closed or (key.fd == 0 and not os.read(0, 4096)):
                    return


def _stop_all(child: subprocess.Popen[bytes]) -> None:
    """Stop every process below this one, first by SIGTERM, then by SIGKILL.

    The whole group gets the signal, so that none can fork away meanwhile.
    """
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        for pid in below(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if _gone(child, time.monotonic() + patience):
            return


def _gone(child: subprocess.Popen[bytes], until: float) -> bool:
    while time.monotonic() < until:
        child.poll()
        _reap(child)
        if child.returncode is not None and not below(os.getpid()):
            return True
        time.sleep(0.02)
    return False


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Collect adopted processes that have ended; the command itself is left to `child.poll`."""
    for pid in _children(os.getpid()):
        if pid != child.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def below(root: int) -> list[int]:
    """Return the descendants of a process, its children first."""
    descendants = _children(root)
    for pid in descendants:
        descendants.extend(_children(pid))
    return descendants


def _children(root: int) -> list[int]:
    return [pid for pid, parent in processes().items() if parent == root]


def processes() -> dict[int, int]:
    """Return process id -> parent's id of all processes of this machine."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # the command's name, in brackets, may contain spaces; the parent is the second field after it
            parents[int(entry.parent.name)] = int(entry.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    return parents


def _prctl(option: int, value: int) -> None:
    """Call prctl on Linux; elsewhere the process group has to suffice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
