"""Cache rewards in one SQLite file that recipes, seeds and processes share.

A key is the digest of the reward's identity, the prompt, the answer and its columns; no text is stored. The cache only
saves time: if the file cannot be used, a warning is logged and every answer is scored.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from harness.digests import cache_folder
from harness.records import digest

from .scorer import RewardItem

log = logging.getLogger(__name__)

CREATE = "CREATE TABLE IF NOT EXISTS rewards (key BLOB PRIMARY KEY, value REAL NOT NULL)"
BUSY_SECONDS = 30.0
"""How long to wait for another process's transaction; ours take milliseconds."""


def cache_path() -> Path:
    """Return `HARNESS_REWARD_CACHE`, or `rewards.sqlite` beside the official data. It may not exist yet."""
    configured = os.environ.get("HARNESS_REWARD_CACHE")
    return Path(configured) if configured else cache_folder() / "rewards.sqlite"


def reward_key(identity: Mapping[str, JsonValue], item: RewardItem) -> bytes:
    """Return the SHA-256 (32 bytes) of the reward's identity and the scored item."""
    prompt = item.row.prompt
    question = {"system": prompt.system, "prompt": prompt.turns[0], "columns": item.row.columns}
    return bytes.fromhex(digest({"by": dict(identity), "answer": item.completion, **question}))


class RewardCache:
    """The cache, open inside a `with`. If `path` is None, nothing is cached."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._database = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute(CREATE)
            except (OSError, sqlite3.Error) as error:
                self._give_up(error)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def get(self, key: bytes) -> float | None:
        """Return the cached reward, or None if there is none."""
        if self._database is None:
            return None
        try:
            row = self._database.execute("SELECT value FROM rewards WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return None if row is None else float(row[0])

    def put(self, rows: Sequence[tuple[bytes, float]]) -> None:
        """Store all rows in one transaction."""
        if self._database is None or not rows:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO rewards VALUES (?, ?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        log.warning("the reward cache %s is not used: %s", self._path, error)
        if self._database is not None:
            self._database.close()
            self._database = None
