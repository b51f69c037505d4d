"""Disks that are full: a small file system of the test's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[str], None]]:
    """A tmpfs of that size; yields what changes its mount options."""
    folder.mkdir()

    def mount(options: str, *what: str) -> None:
        done = subprocess.run(["mount", "-o", options, *what, str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this process may not mount a file system: {done.stderr.strip()}")

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    mount(f"size={kilobytes}k", "-t", "tmpfs", "tmpfs")
    try:
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
