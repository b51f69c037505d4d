"""Stand between the harness and a model server as a tiny process, so that no server outlives the harness.

Run as a file: `python -I warden.py COMMAND…`. Its standard input is a pipe that only the harness keeps open. When the
pipe closes (the harness stopped, crashed or was killed with -9), every process below the warden is stopped: SIGTERM,
then SIGKILL. Its exit status is the command's (128 + signal if a signal killed it). Needs Linux, and no package.
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
    wake_read, wake_write = os.pipe()

    def stop(_number: int, _frame: FrameType | None) -> None:
        os.write(wake_write, b"x")

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    prctl = ctypes.CDLL(None).prctl
    # processes that the server leaves behind become our children, so that `descendants` lists them
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    _wait(child, wake_read)
    _stop_all(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait(child: subprocess.Popen[bytes], wake_read: int) -> None:
    """Wait until the child has ended, standard input is closed, or a signal asked us to stop."""
    with selectors.DefaultSelector() as selector:
        for readable in (0, wake_read, os.pidfd_open(child.pid)):
            selector.register(readable, selectors.EVENT_READ)
        while child.poll() is None:
            for key, _ in selector.select():
                if key.fd == wake_read or (key.fd == 0 and not os.read(0, 4096)):
                    return


def _stop_all(child: subprocess.Popen[bytes]) -> None:
    """Stop every process below this one, first by SIGTERM, then by SIGKILL.

    The whole group gets the signal, so that none can fork away meanwhile.
    """
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if _all_ended_by(time.monotonic() + patience, child):
            return


def _all_ended_by(deadline: float, child: subprocess.Popen[bytes]) -> bool:
    while time.monotonic() < deadline:
        child.poll()
        for pid, parent in processes().items():
            # adopted processes are collected here, the command itself by `child.poll`
            if parent == os.getpid() and pid != child.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        if child.returncode is not None and not descendants(os.getpid()):
            return True
        time.sleep(0.02)
    return False


def descendants(root: int) -> list[int]:
    """Return the ids of all processes below a process, its children first."""
    parents = processes()
    family = [root]
    for ancestor in family:
        family += [pid for pid, parent in parents.items() if parent == ancestor]
    return family[1:]


def processes() -> dict[int, int]:
    """Return process id -> parent's id of all processes of this machine."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # the command's name, in brackets, may contain spaces; the parent is the second field after it
            parents[int(entry.parent.name)] = int(entry.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
    return parents


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
