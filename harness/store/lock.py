"""Locks between processes, on files: the operating system's flock, or a marker file if the file system has none.

with locked(results / ".baselines.lock"):
    ...
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..errors import RunLockedError, StoreError

log = logging.getLogger(__name__)
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""What flock fails with on file systems without it, such as some network and FUSE mounts."""
LOCK = ".lock"
MARKER_SUFFIX = ".soft"
LOCK_FILES = (LOCK, LOCK + MARKER_SUFFIX)
"""Files that a `FolderLock` may leave in its folder."""
PATIENCE = 0.2
"""Seconds a `FolderLock` tries: its holder may be removing the lock file, with the folder, at this moment."""


def acquire(path: Path, *, timeout: float = -1) -> BaseFileLock:
    """Return the lock on `path`, held; links are not followed. A negative timeout waits for as long as it takes.

    Raises filelock.Timeout if another process still has it after `timeout` seconds, OSError if the file cannot be
    opened. If the file system has no flock, the lock is the existence of `<path>.soft`, which outlives a process that
    was killed on another machine; the log says so.
    """
    lock = FileLock(path, timeout=timeout, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:  # Timeout too; it has no errno
        if error.errno not in NO_FLOCK:
            raise
    else:
        return lock
    # not the same file: flock's attempt has just made it, and a marker locks by its existence
    marker = path.with_name(path.name + MARKER_SUFFIX)
    log.warning("%s: this file system has no file locks; while %s exists, others wait for it", path.parent, marker.name)
    lock = SoftFileLock(marker, timeout=timeout, thread_local=False)
    lock.acquire()
    return lock


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on `path` inside the block; wait for other processes before it."""
    lock = acquire(path)
    try:
        yield
    finally:
        lock.release()


class FolderLock:
    """A folder's lock, for `with`, or `take` and `release`. Its lock file names the holder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: BaseFileLock | None = None

    @property
    def held(self) -> bool:
        return self._lock is not None

    def take(self) -> None:
        """Make the folder if necessary and lock it.

        Raises RunLockedError if another process works here, StoreError if the folder or its lock cannot be made.
        """
        path = self.folder / LOCK
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {self.folder}: {error.strerror}") from error
        try:
            self._lock = acquire(path, timeout=PATIENCE)
            if not isinstance(self._lock, SoftFileLock):  # a marker has its holder's pid already
                path.write_text(str(os.getpid()), encoding="ascii")
        except Timeout as error:
            raise RunLockedError(
                f"another process (pid {_holder(Path(error.lock_file))}) works on {self.folder}; wait for it, or stop "
                "it and run this again"
            ) from None
        except OSError as error:
            self.release()
            raise StoreError(f"cannot lock {path}: {error.strerror}") from error

    def release(self) -> None:
        """Unlock the folder; its lock file stays."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def _holder(lock_file: Path) -> str:
    try:
        lines = lock_file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    return lines[0].strip() if lines and lines[0].strip() else "unknown"
