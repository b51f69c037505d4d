"""sha256 of files, cached: 16 GB of weights are read once, not in every run."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

REMEMBERED = 8_000_000  # bytes; smaller files are read again in milliseconds


def cache_folder() -> Path:
    """Return `HARNESS_CACHE`, or `fusion-harness` in the user's cache folder; it may not exist yet."""
    if configured := os.environ.get("HARNESS_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusion-harness"


def file_sha256(file: Path) -> str:
    """Return the hex digest of a file's content, from the cache while path, size and modification time are
    unchanged."""
    facts = file.stat()
    if facts.st_size < REMEMBERED:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    key = hashlib.sha256(f"{file.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / key
    with suppress(OSError):
        known = note.read_text("ascii")
        if len(known) == 64:
            return known
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    with suppress(OSError):  # a cache that cannot be written only costs time
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_name(f"{key}.{os.getpid()}")
        draft.write_text(sha256, "ascii")
        draft.replace(note)
    return sha256
