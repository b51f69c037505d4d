"""An append-only JSONL file of records of one type, whose rows are looked up by key and byte offset."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, Self, TypeVar

from pydantic import ValidationError

from ..errors import ConfigError, StoreError
from ..records import Failure

log = logging.getLogger(__name__)


class KeyedRow(Protocol):
    """A record with a key: an answer, a judgment, a reward. One with an `error` is not done."""

    @property
    def prompt_id(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def error(self) -> Failure | None: ...

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray) -> Self: ...

    def model_dump_json(self) -> str: ...


Row = TypeVar("Row", bound=KeyedRow)


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
        """Open for appending, after cutting off a torn last line and indexing the rows."""
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise StoreError(f"cannot open {self.path}: {error.strerror}") from error
        self._end = self._cut_torn_line()
        for offset, row in self._scan():
            self._note(row, offset)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def is_open(self) -> bool:
        return self._file >= 0

    def _cut_torn_line(self) -> int:
        """Cut off the bytes after the last newline, the row that a killed process was writing. Returns the file's
        length."""
        size = os.fstat(self._file).st_size
        keep = size
        while keep > 0:
            start = max(0, keep - 65536)
            newline = os.pread(self._file, keep - start, start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            log.warning("%s: dropped a torn last line of %d bytes", self.path.name, size - keep)
            os.ftruncate(self._file, keep)
        return keep

    def _scan(self) -> Iterator[tuple[int, Row]]:
        offset = 0
        with self._opened() as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # a writer is at work, or was killed: the row is incomplete
                if line.strip():
                    try:
                        yield offset, self._type.model_validate_json(line)
                    except ValidationError as error:
                        where = f"{self.path}, line {number}"
                        problem = f"is not a valid {self._type.__name__}: {error.errors()[0]['msg']}"
                        raise ConfigError(f"{where} {problem}; remove that line, or use --fresh") from error
                offset += len(line)

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from error

    def _note(self, row: Row, offset: int) -> None:
        self._offsets[row.key] = offset
        self._failed.discard(row.key)
        if row.error is not None:
            self._failed.add(row.key)

    def append(self, row: Row) -> None:
        """Append one whole line. Raise StoreError, with the file unchanged, if that fails."""
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
        """Return the last row of this key, read from the file."""
        offset = self._offsets.get(key)
        if offset is None:
            return None
        row: Row = self._type.model_validate_json(self._line(offset))
        return row

    def _line(self, offset: int) -> bytes:
        """Read a line through the open descriptor, as the folder may have been moved meanwhile."""
        line = b""
        while b"\n" not in line:
            part = os.pread(self._file, 65536, offset + len(line))
            if not part:
                break
            line += part
        return line.partition(b"\n")[0]

    def all(self) -> Iterator[Row]:
        """Yield the last row of every key, in the order of first appearance."""
        for key in self._offsets:
            row = self.get(key)
            if row is not None:
                yield row

    def every(self) -> Iterator[Row]:
        """Yield all rows, including replaced ones; none if there is no file."""
        return (row for _, row in self._scan()) if self.path.exists() else iter(())

    def read(self) -> list[Row]:
        """Return the last row of every key, without opening for appending; a torn last line is skipped."""
        rows = {row.key: row for _, row in self._scan()} if self.path.exists() else {}
        return list(rows.values())

    def succeeded(self, key: str) -> bool:
        return key in self._offsets and key not in self._failed

    @property
    def count_succeeded(self) -> int:
        return len(self._offsets) - len(self._failed)

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)
