"""Write files of results whole or not at all, lock them between processes, and hash them once.

>>> print(run_dir(Path("results"), model="qwen", suite="mt_bench", version="1.0", run_id="3f2a"))
results/runs/qwen/mt_bench@1.0/3f2a
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from pydantic import ValidationError

from ..records import ScoreCard
from ..records.errors import ConfigError, RunLockedError, StoreError, one_line

REMEMBERED = 8_000_000  # bytes; smaller files are read again in milliseconds

log = logging.getLogger(__name__)
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""What flock fails with on file systems without it, such as some network and FUSE mounts."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with if the disk, the user's quota or the file's limit is full."""
LOCK = ".lock"
BACKUPS = ("~", ".bak", ".orig", ".swp", ".tmp")
COPY_MARK = re.compile(r"^Copy of |( \(\d+\)| - Copy( \(\d+\))?| copy( \d+)?)$", re.IGNORECASE)
"""What browsers and the file managers of Windows, macOS and Linux add to the name of a copy."""
MARKER_SUFFIX = ".soft"
LOCK_FILES = (LOCK, LOCK + MARKER_SUFFIX)
"""Files that a `FolderLock` may leave in its folder."""
PATIENCE = 0.2
"""Seconds a `FolderLock` tries: its holder may be removing the lock file, with the folder, at this moment."""


def run_dir(results: Path, *, model: str, suite: str, version: str, run_id: str, earlier: Iterable[str] = ()) -> Path:
    """Return the folder of a run; `model` is a `ModelRef.slug`.

    `earlier`: names under which the model's folder may exist; a run that is there stays there.
    """
    folders = [results / "runs" / name / f"{suite}@{version}" / run_id for name in (model, *earlier)]
    return next((folder for folder in folders if folder.exists()), folders[0])


def open_unlinked(path: Path, mode: str) -> IO[bytes]:
    """Open a file for bytes like `open`, but raise OSError (ELOOP) if its name is a link.

    A results folder may come from someone else, with links in it to files that they want changed.
    """
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees either the old or the new one.

    Raise ConfigError if the path cannot be a file (a folder, or below a file), StoreError if writing fails.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes like `write_atomic`."""
    write_chunks(path, (content,))


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Write bytes like `write_atomic`, without having them all in memory."""
    if not path.name:
        raise ConfigError(f"cannot write {path}: it is a folder; name a file")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_unlinked(temporary, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may be below a file, or in a folder without permission
            temporary.unlink()
        if path.is_dir():
            raise ConfigError(f"cannot write {path}: it is a folder; name a file") from error
        if isinstance(error, (NotADirectoryError, FileExistsError)):
            raise ConfigError(f"cannot write {path}: what should be its folder is a file") from error
        hint = "; free space, then run the same command" if error.errno in FULL else ""
        raise StoreError(f"cannot write {path}: {error.strerror or error}{hint}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines like `write_atomic`, without having them all in memory."""
    write_chunks(path, (f"{line}\n".encode() for line in lines))


def make_folder(path: Path) -> None:
    """Make a folder. Raise ConfigError if it is a file or below one, StoreError if making it fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise ConfigError(f"cannot make the folder {path}: there is a file of its name, or its parent's") from error
    except OSError as error:
        raise StoreError(f"cannot make the folder {path}: {error.strerror}") from error


def dump_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def archive_run(folder: Path) -> Path | None:
    """Hide a run's folder by renaming it (`--fresh`). Return its new path, or None if there is no such folder."""
    if not folder.exists():
        return None
    aside = folder.with_name(f".{folder.name}.{time.strftime('%Y%m%dT%H%M%S')}.{os.getpid()}")
    folder.rename(aside)
    return aside


def read_card(path: Path) -> ScoreCard:
    """Read a score card. Raise ConfigError if the file is not one."""
    try:
        card = ScoreCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} is not a score card: {one_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    wrong = card.unreadable()
    if wrong is not None:
        raise ConfigError(f"{path} is not a valid score card: {wrong}: not a finite number")
    return card


def find_cards(results: Path) -> list[Path]:
    """Return every card under `results/runs`, sorted, without those of archived folders."""
    return sorted(
        path for path in (results / "runs").glob("*/*@*/*/card.json") if not is_hidden(path.relative_to(results))
    )


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return matching files below a folder, sorted by path, without hidden files, backups and copies.

    Skipped are hidden files and folders (`.ipynb_checkpoints`, `._NAME`, `.~lock.NAME#`), editors' backups, and copies
    that a file manager made: `NAME (1)`, `NAME copy` or `Copy of NAME` with the content of a `NAME` beside them.
    """
    files = [
        path for path in sorted(folder.rglob(pattern)) if path.is_file() and not is_hidden(path.relative_to(folder))
    ]
    return [path for path in files if not _is_copy(path)]


def is_hidden(path: PurePath) -> bool:
    """Return whether a relative path is, or is below, a hidden file or folder or an editor's backup."""
    return any(part.startswith((".", "~$", "#")) or part.endswith(BACKUPS) for part in path.parts)


def _is_copy(path: Path) -> bool:
    stem, dot, endings = path.name.partition(".")
    original = path.with_name(COPY_MARK.sub("", stem) + dot + endings)
    return original != path and original.is_file() and filecmp.cmp(path, original, shallow=False)


def acquire(path: Path, *, timeout: float = -1) -> BaseFileLock:
    """Return the lock on `path`, held; links are not followed. A negative timeout waits for as long as it takes.

    Raise filelock.Timeout if another process still has it after `timeout` seconds, OSError if the file cannot be
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
    """Wait for other processes, then keep the lock on `path` during the block."""
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

        Raise RunLockedError if another process works here, StoreError if the folder or its lock cannot be made.
        """
        path = self.folder / LOCK
        make_folder(self.folder)
        try:
            self._lock = acquire(path, timeout=PATIENCE)
            if not isinstance(self._lock, SoftFileLock):  # a marker has its holder's pid already
                with open_unlinked(path, "wb") as file:
                    file.write(str(os.getpid()).encode())
        except Timeout as error:
            raise RunLockedError(
                f"another process (pid {_holder(Path(error.lock_file))}) works on {self.folder}; wait for it, or stop "
                "it and run this again"
            ) from None
        except OSError as error:
            self.release()
            raise StoreError(f"cannot lock {path}: {error.strerror}") from error

    def release(self) -> None:
        """Unlock the folder, but leave its lock file."""
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


def cache_folder() -> Path:
    """Return `HARNESS_CACHE`, or `fusion-harness` in the user's cache folder; it may not exist yet."""
    if configured := os.environ.get("HARNESS_CACHE"):
        return Path(configured)
    if configured := os.environ.get("XDG_CACHE_HOME"):
        return Path(configured) / "fusion-harness"
    try:
        return Path.home() / ".cache" / "fusion-harness"
    except RuntimeError:  # as in a container whose user has no entry in /etc/passwd
        raise ConfigError("there is no home folder for downloads and replies: set HARNESS_CACHE to a folder") from None


def file_sha256(file: Path) -> str:
    """Return a file's sha256 in hex, from the cache while path, size and modification time are unchanged."""
    facts = file.stat()
    if facts.st_size < REMEMBERED:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    key = hashlib.sha256(f"{file.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / key
    with suppress(OSError):
        stored = note.read_text("ascii")
        if len(stored) == 64:
            return stored
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    with suppress(OSError):  # a cache that cannot be written only costs time
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f"{key}.{os.getpid()}")
        draft.write_text(sha256, "ascii")
        draft.replace(note)
    return sha256
