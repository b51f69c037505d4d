"""Disks that are full, or lack what local ones have: a small file system of the test's own, and refusals of SQLite."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


@contextmanager
def network_file_system(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SQLite as on NFS: a write-ahead log is refused, as it needs memory that is shared between machines."""

    class Remote(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode = WAL":
                raise sqlite3.OperationalError("locking protocol")
            return super().execute(sql, *parameters)

    def connect(*words: Any, **options: Any) -> sqlite3.Connection:
        return Remote(*words, **options)

    with monkeypatch.context() as patched:
        patched.setattr("harness.judging.cache.sqlite3.connect", connect)
        yield
