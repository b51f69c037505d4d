"""One process at a time in a folder of results: a lock that the operating system drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from ..errors import RunLockedError, StoreError

LOCK = ".lock"


class FolderLock:
    """`take` and `release`, or `with`. The folder is made where there is none; `.lock` in it names the holder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = -1

    @property
    def held(self) -> bool:
        return self._file >= 0

    def take(self) -> None:
        """Raises RunLockedError when another process works here, StoreError where the folder cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"cannot make {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise RunLockedError(
                f"another process (pid {holder}) works on {self.folder}; wait for it, or stop it and run this again"
            ) from None
        if os.fstat(self._file).st_nlink == 0:  # its holder ended just now and left no row
            self.release()
            return self.take()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)
        return None

    def release(self) -> None:
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
