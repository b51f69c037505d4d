"""Records of each batch of a run, written before and after every step, so that a crash costs no second upload.

RUN/batches/NAME.jsonl         the requests; NAME is ours, and the batch's metadata and file name carry it
RUN/batches/NAME.json          the record below
RUN/batches/NAME.results.jsonl   output and error file, once the batch has ended
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from ..errors import StoreError
from ..records import Record
from ..store import dump_json, make_folder, write_atomic

log = logging.getLogger(__name__)


class BatchRecord(Record):
    name: str
    judge: str
    endpoint: str
    """Base URL it was sent to."""
    keys: tuple[str, ...]
    """Custom ids in it."""
    file_id: str | None = None
    """Set once the requests are uploaded."""
    batch_id: str | None = None
    """Set once the batch is created."""
    ended: str | None = None
    """Its last status, set once its results are in NAME.results.jsonl."""
    dropped: tuple[str, ...] = ()
    """Custom ids whose reply had no verdict: they are asked again."""


class BatchFolder:
    """The records of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def requests(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    def results(self, name: str) -> Path:
        return self.path / f"{name}.results.jsonl"

    def load(self, judge: str, endpoint: str) -> list[BatchRecord]:
        """Return this judge's records, oldest first; an unreadable one is skipped and its requests are sent again."""
        records = []
        for path in sorted(self.path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            try:
                records.append(BatchRecord.model_validate_json(path.read_bytes()))
            except ValidationError:
                log.warning("%s is not a batch record; skipped", path)
        return [record for record in records if (record.judge, record.endpoint) == (judge, endpoint)]

    def save(self, record: BatchRecord) -> BatchRecord:
        write_atomic(self.path / f"{record.name}.json", dump_json(record.model_dump(mode="json")))
        return record

    def write(self, path: Path, lines: list[bytes]) -> None:
        """Write a whole file of lines. Raise StoreError if that fails."""
        make_folder(self.path)
        draft = path.with_name(f".{path.name}.tmp")
        try:
            with draft.open("wb") as file:
                file.writelines(lines)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StoreError(f"cannot write {path}: {error.strerror}; free space, then run the same command") from error

    def read_results(self, name: str) -> list[bytes]:
        """Return the lines of a batch's results. Raise StoreError if they cannot be read."""
        try:
            return self.results(name).read_bytes().splitlines()
        except OSError as error:
            raise StoreError(f"cannot read {self.results(name)}: {error.strerror}") from error

    def remove(self, record: BatchRecord) -> None:
        for path in (self.path / f"{record.name}.json", self.requests(record.name), self.results(record.name)):
            path.unlink(missing_ok=True)
