"""Which processes run, found by a word of their command line."""

from __future__ import annotations

import os
import time
from pathlib import Path


def running(marker: str) -> list[int]:
    """Processes whose command line holds the marker."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in file.read_text() and int(file.parent.name) != os.getpid():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def gone(marker: str, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if not running(marker):
            return True
        time.sleep(0.05)
    return False
