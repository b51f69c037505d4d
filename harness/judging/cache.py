"""Cache judges' replies by request, for all runs and processes, so that no question is paid for twice.

>>> request_key("https://host/v1", {"model": "m"}, repeat=0) == request_key("https://host/v1", {"model": "m"}, repeat=1)
False

One SQLite file (write-ahead log). A key is the digest of endpoint, every request parameter, all messages and the
repeat number; a reply is returned only after it is committed, so that a killed process loses only what was in flight.
All SQL runs in one thread, which commits all waiting statements as one transaction, so the event loop never waits for
a disk. It knows no judges, prices or verdicts, and stores no question's text. Failures are never cached.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from ..client import ChatReply, read_count, storable
from ..records import TokenLogprob, digest
from ..records.errors import ConfigError, StoreError, one_line
from ..store.files import cache_folder

log = logging.getLogger(__name__)

KEY_SCHEMA = 1
"""Part of every key: changing it makes all cached replies unknown."""
BUSY_SECONDS = 30.0
"""Seconds to wait for another process's transaction; ours take milliseconds."""
CREATE = """
CREATE TABLE IF NOT EXISTS replies (
    key BLOB PRIMARY KEY, judge TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, logprobs TEXT NOT NULL,
    price_share REAL NOT NULL, created REAL NOT NULL)
"""
VERSIONS = (
    (CREATE,),
    (
        "ALTER TABLE replies ADD COLUMN reasoning TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE replies ADD COLUMN reasoning_tokens INTEGER",
    ),
)
"""What each version of the file added to the one before it."""
COLUMNS = "text, finish, prompt_tokens, completion_tokens, logprobs, price_share, reasoning, reasoning_tokens"
SELECT = f"SELECT {COLUMNS} FROM replies WHERE key = ?"
INSERT = f"INSERT OR REPLACE INTO replies (key, judge, created, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
DELETE = "DELETE FROM replies WHERE key = ?"
CACHE_HINT = "move it away, or set HARNESS_REPLY_CACHE to another file, or use --no-cache"


def cache_path() -> Path:
    """Return `HARNESS_REPLY_CACHE`, or `replies.sqlite` beside the official data. It may not exist yet."""
    configured = os.environ.get("HARNESS_REPLY_CACHE")
    return Path(configured) if configured else cache_folder() / "replies.sqlite"


def request_key(endpoint: str, body: dict[str, JsonValue], repeat: int) -> bytes:
    """Return the sha256 (32 bytes) of the endpoint, everything that is sent, and the repeat number."""
    return bytes.fromhex(digest({"schema": KEY_SCHEMA, "endpoint": endpoint, "body": body, "repeat": repeat}))


def connect(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """Open the cache in autocommit mode. Raise StoreError if it is not writable, ConfigError if it is not a cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = "rwc" if create else "rw"
        address = f"{path.resolve().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            address, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
    except (OSError, sqlite3.Error) as error:
        raise StoreError(_sentence(path, error)) from error
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in range(len(VERSIONS) + 1):
            raise ConfigError(
                f"the reply cache {path} has version {version}, but this harness writes {len(VERSIONS)}; {CACHE_HINT}"
            )
        _set_journal(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last replies, never the file
        if version < len(VERSIONS):
            _upgrade(connection)
    except sqlite3.Error as error:
        connection.close()
        raise cache_error(path, error) from error
    except ConfigError:
        connection.close()
        raise
    return connection


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Choose the write-ahead log, or a plain journal where that does not work, as on network file systems."""
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        connection.execute("PRAGMA journal_mode = DELETE")
        log.warning("the reply cache %s has no write-ahead log here (%s), so it is slower", path, error)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest version, unless another process does so first."""
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for statements in VERSIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {max(version, len(VERSIONS))}")
    connection.execute("COMMIT")


def cache_error(path: Path, error: Exception) -> ConfigError | StoreError:
    """Return the error for a broken file, which the user must move (exit 2), or for a full or locked one (exit 4)."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return ConfigError(f"the reply cache {path} is damaged or not a cache ({error}); {CACHE_HINT}")
    return StoreError(_sentence(path, error))


def _is_full(error: sqlite3.Error) -> bool:
    # only errors of SQLite itself have a code; extended codes add higher bits
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _warn_unless_ours(error: ConfigError | StoreError) -> None:
    """Warn that a run goes without its cache. Re-raise if the file is sound, but another version of ours wrote it."""
    if not isinstance(error.__cause__, sqlite3.Error | OSError):
        raise error
    log.warning("%s; this run continues without it", error)


def _sentence(path: Path, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot use the reply cache {path}: {why}; free space or unlock it, or {CACHE_HINT}"


@dataclass(frozen=True)
class _Statement:
    sql: str
    values: tuple[object, ...]
    waiter: asyncio.Future[ChatReply | None]


class ReplyCache:
    """The cache for the duration of an `async with`. Without a `path` nothing is cached (`--no-cache`)."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[list[_Statement] | None] = queue.SimpleQueue()
        self._collected: list[_Statement] = []
        """Statements since the event loop's last turn, handed over together: waking the thread for each of them
        would take the interpreter from the event loop thousands of times per second."""
        self._thread: threading.Thread | None = None
        self._broken: StoreError | ConfigError | None = None
        self._is_off = False
        """Whether the run continues without the broken cache."""
        self._asking: dict[bytes, asyncio.Future[None]] = {}
        """Keys that are being asked now; a future is done when its reply has arrived or failed."""

    async def __aenter__(self) -> Self:
        if self.path is not None:
            self._loop = asyncio.get_running_loop()
            try:
                database = await asyncio.to_thread(connect, self.path)
            except (ConfigError, StoreError) as error:
                _warn_unless_ours(error)
                return self
            self._thread = threading.Thread(target=self._work, args=(database,), name="reply-cache", daemon=True)
            self._thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._thread is not None:
            self._hand_over()
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def reply(self, key: bytes, judge: str, ask: Callable[[], Awaitable[ChatReply]]) -> ChatReply:
        """Return the cached reply (`cached` set), else cache and return what `ask` returns.

        Simultaneous requests with the same key make one call.

        Raise what `ask` raises, and StoreError once the disk is full.
        """
        if self._thread is None:
            return await ask()
        # two tasks may make the same request, e.g. those of two suites
        while (earlier := self._asking.get(key)) is not None:
            await asyncio.wait([earlier])
        asking = self._asking[key] = self._loop.create_future()
        try:
            chat_reply = await self._execute(SELECT, (key,))
            if self._broken is not None and not self._is_off:
                raise self._broken
            if chat_reply is None:
                chat_reply = await ask()
                await self._keep(key, judge, chat_reply)
            return chat_reply
        finally:
            del self._asking[key]
            asking.set_result(None)

    async def _keep(self, key: bytes, judge: str, reply: ChatReply) -> None:
        """Wait until the reply is committed. A full disk is noted, not raised.

        The reply is paid for and still reaches the caller, but the next question is not asked any more.
        """
        tops = json.dumps([[top.token, top.logprob] for top in reply.logprobs]) if reply.logprobs else ""
        usage = (reply.prompt_tokens, reply.completion_tokens)
        values = (reply.text, reply.finish, *usage, tops, reply.price_share, reply.reasoning, reply.reasoning_tokens)
        await self._execute(INSERT, (key, judge, time.time(), *values))

    async def forget(self, keys: Iterable[bytes]) -> None:
        """Drop replies without a verdict, so that the same question is asked again."""
        for key in keys:
            await self._execute(DELETE, (key,))

    async def _execute(self, sql: str, values: tuple[object, ...]) -> ChatReply | None:
        if self._thread is None:
            return None
        waiter: asyncio.Future[ChatReply | None] = self._loop.create_future()
        if not self._collected:
            self._loop.call_soon(self._hand_over)
        self._collected.append(_Statement(sql, values, waiter))
        return await waiter

    def _hand_over(self) -> None:
        self._jobs.put(self._collected)
        self._collected = []

    def _work(self, database: sqlite3.Connection) -> None:
        open_for_jobs = True
        while open_for_jobs:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            open_for_jobs = None not in jobs
            statements = [statement for job in jobs if job is not None for statement in job]
            results = self._serve(database, statements)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_resolve, statements, results)
        database.close()

    def _serve(self, database: sqlite3.Connection, jobs: list[_Statement]) -> list[ChatReply | None]:
        """Run the jobs in one transaction and return their results, or all None after a failure, which is noted."""
        if self._broken is not None:
            return [None] * len(jobs)
        # a transaction that begins by reading may fail as busy when it turns to writing, so it begins as a write
        writes = any(job.sql is not SELECT for job in jobs)
        try:
            if writes:
                database.execute("BEGIN IMMEDIATE")
            replies = [_run(database, job) for job in jobs]
            if writes:
                database.execute("COMMIT")
        except Exception as error:  # whatever it is, callers must not wait forever
            assert self.path is not None
            # On a full disk the results could not be written either. Whatever else is wrong with the file costs money
            # at most: the verdicts are in the results.
            self._broken = cache_error(self.path, error)
            self._is_off = isinstance(error, sqlite3.Error) and not _is_full(error)
            if self._is_off:
                log.warning("%s; this run continues without it", self._broken)
            with suppress(sqlite3.Error):  # SQLite rolls back by itself after most of these
                database.execute("ROLLBACK")
            return [None] * len(jobs)
        return replies


def _resolve(jobs: list[_Statement], replies: list[ChatReply | None]) -> None:
    for job, reply in zip(jobs, replies, strict=True):
        if not job.waiter.done():  # a cancelled caller no longer waits
            job.waiter.set_result(reply)


def _run(database: sqlite3.Connection, job: _Statement) -> ChatReply | None:
    """Run one statement and return the reply in its row. A row that cannot be read counts as absent and is replaced."""
    rows = database.execute(job.sql, job.values)
    try:
        row = rows.fetchone()
        return None if row is None else _read(row)
    except (ValueError, TypeError, LookupError, sqlite3.OperationalError) as error:
        if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):  # "Could not decode to UTF-8"
            raise
        log.warning("a damaged reply in the cache is asked again: %s", one_line(error))
        return None


def _read(row: tuple[Any, ...]) -> ChatReply:
    """Return the reply in a row. Raise ValueError, TypeError or LookupError if a cell has a wrong value."""
    text, finish, prompt_tokens, completion_tokens, tops, share, reasoning, reasoning_tokens = row
    if not (isinstance(text, str) and isinstance(reasoning, str) and finish in ("stop", "length")):
        raise TypeError(f"text, reasoning or finish {str(finish)[:20]!r} is not what was stored")
    counts = [read_count(count) for count in (prompt_tokens, completion_tokens, reasoning_tokens or 0)]
    if None in counts:
        raise ValueError("a token count is not a count")
    return ChatReply(
        text=text,
        finish=finish,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        logprobs=tuple(
            TokenLogprob(token=storable(token), logprob=value) for token, value in (json.loads(tops) if tops else ())
        ),
        price_share=float(share),
        cached=True,
        reasoning=reasoning,
        reasoning_tokens=reasoning_tokens,
    )


@dataclass(frozen=True)
class CacheShare:
    """One judge's part of the cache."""

    judge: str
    replies: int
    prompt_tokens: int
    completion_tokens: int
    characters: int
    oldest: float
    newest: float
    """Seconds since 1970."""


def shares(path: Path) -> list[CacheShare]:
    """Return each judge's share, the largest first, or none if there is no cache."""
    sums = "COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), SUM(LENGTH(text)), MIN(created), MAX(created)"
    rows = _one_statement(path, f"SELECT judge, {sums} FROM replies GROUP BY judge ORDER BY 2 DESC, 1", ())
    return [CacheShare(*row) for row in rows]


def prune(path: Path, *, older_than: float | None, judge: str | None) -> int:
    """Remove replies older than this many seconds and of this judge (part of its name), and free their space.

    Return the number removed. Both None: remove all.
    """
    before = time.time() - older_than if older_than is not None else float("inf")
    condition = "WHERE created < ? AND INSTR(judge, ?) > 0"
    removed = len(_one_statement(path, f"DELETE FROM replies {condition} RETURNING 1", (before, judge or "")))
    if removed:
        _one_statement(path, "VACUUM", ())
    return removed


def cached_keys(path: Path, keys: Iterable[bytes]) -> set[bytes]:
    """Return the keys whose reply is cached, so that they need no call."""
    if not path.exists():
        return set()
    query = "SELECT 1 FROM replies WHERE key = ?"
    try:
        with _opened(path) as database:
            return {key for key in keys if database.execute(query, (key,)).fetchone() is not None}
    except (ConfigError, StoreError) as error:
        _warn_unless_ours(error)
        return set()


def _one_statement(path: Path, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    if not path.exists():
        return []
    with _opened(path) as database:
        return database.execute(sql, values).fetchall()


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    database = connect(path, create=False)
    try:
        yield database
    except sqlite3.Error as error:
        raise cache_error(path, error) from error
    finally:
        database.close()
