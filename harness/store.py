"""The only writer of results: one folder a run, append-only JSONL, atomic whole files, one process at a time.

    results/runs/<model>/<suite>@<version>/<run-id>/
        manifest.json     what the run is; written before the first row
        answers.jsonl     one Answer a line, appended as it arrives
        judgments.jsonl   one Judgment a line, likewise
        anchors.jsonl     one Judgment a line, of recorded answers judged again; only where a run has anchors
        sessions.jsonl    seconds and tokens of each process that worked here and ended
        card.json         the ScoreCard; written last

Rows are found again by key and byte offset, so memory holds keys, never texts. Where a key occurs twice the last row
wins. A row that holds a failure is not done: the same command asks again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import JsonValue, ValidationError

from .errors import ConfigError, RunLockedError, StoreError
from .records import Answer, Judgment, ScoreCard

log = logging.getLogger(__name__)

Row = TypeVar("Row", Answer, Judgment)


def run_dir(results: Path, *, model: str, suite: str, version: str, run_id: str) -> Path:
    """Where a run lives; `model` is a `ModelRef.slug`."""
    return results / "runs" / model / f"{suite}@{version}" / run_id


def write_atomic(path: Path, text: str) -> None:
    """Writes a whole file so that a reader sees the old one or the new one; raises StoreError when it cannot."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """As `write_atomic`, of bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Raises StoreError when it cannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {path}: {error.strerror}") from error


def dump_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


class JsonlRows(Generic[Row]):
    """An append-only JSONL file of one record type, indexed by the rows' `key`."""

    def __init__(self, path: Path, row_type: type[Row]) -> None:
        self.path = path
        self._type: type[Row] = row_type
        self._offsets: dict[str, int] = {}
        self._failed: set[str] = set()
        self._file = -1
        self._end = 0

    def open(self) -> None:
        """Mends a torn last line, indexes what is there, and opens for appending."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StoreError(f"cannot open {self.path}: {error.strerror}") from error
        self._end = self._mend()
        for offset, row in self._scan():
            self._note(row, offset)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def is_open(self) -> bool:
        return self._file >= 0

    def _mend(self) -> int:
        """Cuts bytes after the last newline: the row a killed process was writing. Returns the file's length."""
        size = os.fstat(self._file).st_size
        keep = size
        while keep > 0:
            start = max(0, keep - 65536)
            found = os.pread(self._file, keep - start, start).rfind(b"\n")
            if found >= 0:
                keep = start + found + 1
                break
            keep = start
        if keep < size:
            log.warning("%s: dropped a torn last line of %d bytes", self.path.name, size - keep)
            os.ftruncate(self._file, keep)
        return keep

    def _scan(self) -> Iterator[tuple[int, Row]]:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # a writer is at work, or was killed: the row is not there yet
                if line.strip():
                    try:
                        yield offset, self._type.model_validate_json(line)
                    except ValidationError as error:
                        where = f"{self.path}, line {number}"
                        what = f"is no {self._type.__name__}: {error.errors()[0]['msg']}"
                        raise ConfigError(f"{where} {what}; remove that line, or use --fresh") from error
                offset += len(line)

    def _note(self, row: Row, offset: int) -> None:
        self._offsets[row.key] = offset
        self._failed.discard(row.key)
        if row.error is not None:
            self._failed.add(row.key)

    def append(self, row: Row) -> None:
        """One whole line, or StoreError with the file as it was."""
        line = row.model_dump_json().encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}; free space, then run the same command"
            ) from (error)
        self._note(row, self._end)
        self._end += len(line)

    def get(self, key: str) -> Row | None:
        """The last row of this key, read from the file."""
        offset = self._offsets.get(key)
        if offset is None:
            return None
        row: Row = self._type.model_validate_json(self._line(offset))
        return row

    def _line(self, offset: int) -> bytes:
        """Read through the open descriptor: the folder may have been moved meanwhile."""
        line = b""
        while b"\n" not in line:
            part = os.pread(self._file, 65536, offset + len(line))
            if not part:
                break
            line += part
        return line.partition(b"\n")[0]

    def all(self) -> Iterator[Row]:
        """The last row of every key, in the order of their first appearance."""
        for key in self._offsets:
            row = self.get(key)
            if row is not None:
                yield row

    def every(self) -> Iterator[Row]:
        """All rows, those that a later one replaced too; none where there is no file."""
        return (row for _, row in self._scan()) if self.path.exists() else iter(())

    def read(self) -> list[Row]:
        """The last row of every key, without opening for appending; a torn last line is passed over."""
        found = {row.key: row for _, row in self._scan()} if self.path.exists() else {}
        return list(found.values())

    def succeeded(self, key: str) -> bool:
        return key in self._offsets and key not in self._failed

    @property
    def count_succeeded(self) -> int:
        return len(self._offsets) - len(self._failed)

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)


class RunStore:
    """One run's folder, locked while open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: JsonlRows[Answer] = JsonlRows(folder / "answers.jsonl", Answer)
        self.judgments: JsonlRows[Judgment] = JsonlRows(folder / "judgments.jsonl", Judgment)
        self.anchors: JsonlRows[Judgment] = JsonlRows(folder / "anchors.jsonl", Judgment)
        self._lock = -1

    def open(self, manifest: dict[str, JsonValue], *, fresh: bool = False) -> Self:
        """Locks the folder and writes the manifest, or checks that the one there is the same. `fresh` moves an earlier
        run out of the way; nothing is deleted.

        Raises RunLockedError when another process works here, ConfigError when the manifest is another run's.
        """
        self._take_lock()
        if fresh and (self.folder / "manifest.json").exists():
            set_aside(self.folder)
            self._release()
            self._take_lock()
        try:
            self._check_manifest(manifest)
            self.answers.open()
            self.judgments.open()
        except BaseException:
            self.close()
            raise
        return self

    def _release(self) -> None:
        os.close(self._lock)
        self._lock = -1

    def _take_lock(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreError(f"cannot make {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self._release()
            raise RunLockedError(
                f"another process (pid {holder}) works on {self.folder}; wait for it, or stop it and run this again"
            ) from None
        if os.fstat(self._lock).st_nlink == 0:  # its holder ended just now and left no row
            self._release()
            return self._take_lock()
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        return None

    def _check_manifest(self, manifest: dict[str, JsonValue]) -> None:
        path = self.folder / "manifest.json"
        if not path.exists():
            write_atomic(path, dump_json(manifest))
            return
        there = json.loads(path.read_text("utf-8"))
        manifest = json.loads(dump_json(manifest))  # what is read back: lists for tuples
        changed = sorted(key for key in manifest | there if there.get(key) != manifest.get(key))
        if changed:
            raise ConfigError(f"{path} belongs to a run with another {', '.join(changed)}; use --fresh to start anew")

    def close(self) -> None:
        """Unlocks; a run that has no row yet (a checkpoint that would not start) leaves no folder behind."""
        opened = self.answers.is_open and self.judgments.is_open
        self.answers.close()
        self.judgments.close()
        self.anchors.close()
        if self._lock >= 0:
            rows = len(self.answers) + len(self.judgments) + len(self.anchors)
            if opened and not (rows or (self.folder / "card.json").exists()):
                self._remove_empty()
            self._release()

    def _remove_empty(self) -> None:
        for name in ("answers.jsonl", "judgments.jsonl", "anchors.jsonl", "manifest.json", ".lock"):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder, *list(self.folder.parents)[:2]):
            try:
                folder.rmdir()
            except OSError:
                return  # something else lives there

    def every_judgment(self) -> Iterator[Judgment]:
        """All that this run was told, anchors too, rows that a later one replaced included."""
        for rows in (self.judgments, self.anchors):
            if rows.is_open:
                yield from rows.every()

    def end_session(self, usage: dict[str, JsonValue]) -> None:
        """Appends what this process spent here."""
        try:
            with (self.folder / "sessions.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(usage, sort_keys=True) + "\n")
        except OSError as error:
            raise StoreError(f"cannot write {self.folder}/sessions.jsonl: {error.strerror}") from error

    def sessions(self) -> list[dict[str, float]]:
        """Earlier `end_session` records; a torn or foreign line is passed over, since no score depends on them."""
        path = self.folder / "sessions.jsonl"
        found = []
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                log.warning("%s: passed over a torn line", path)
        return found

    def write_card(self, card: ScoreCard) -> Path:
        path = self.folder / "card.json"
        write_atomic(path, dump_json(card.model_dump(mode="json")))
        return path


def set_aside(folder: Path) -> Path | None:
    """Moves a run's folder out of the way (`--fresh`); None where there is none. Nothing is deleted."""
    if not folder.exists():
        return None
    aside = folder.with_name(f".{folder.name}.{time.strftime('%Y%m%dT%H%M%S')}.{os.getpid()}")
    folder.rename(aside)
    return aside


def read_card(path: Path) -> ScoreCard:
    """Raises ConfigError when the file is no score card."""
    try:
        card = ScoreCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise ConfigError(f"{path} is no score card: {where}{first['msg']}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    wrong = card.unreadable()
    if wrong is not None:
        raise ConfigError(f"{path} is no score card: {wrong}: not a finite number")
    return card


def find_cards(results: Path) -> list[Path]:
    """Every card under `results/runs`, sorted; folders set aside are left out."""
    return sorted(
        path
        for path in (results / "runs").glob("*/*@*/*/card.json")
        if not any(part.startswith(".") for part in path.relative_to(results).parts)
    )
