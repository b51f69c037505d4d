"""Read and write one run's folder: its lock, its manifest, its rows and its card.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     print(len(JsonlRows(Path(folder) / "answers.jsonl", Answer).read()))
0
"""

from __future__ import annotations

import errno
import io
import json
import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from pydantic import JsonValue, ValidationError

from ..records import Answer, Failure, Judgment, QuestionScores, ScoreCard
from ..records.documents import SUITE_COPY, parse_json, read_json_object
from ..records.errors import ConfigError, StoreError, one_line
from .files import LOCK_FILES, FolderLock, archive_run, dump_json, find_cards, open_unlinked, read_card, write_atomic

log = logging.getLogger(__name__)
QUESTIONS = "questions.jsonl"
"""The questions' own scores of a benchmark that scored by itself, beside its card."""
BLOCK = 65_536
"""Bytes read at a time."""
BASELINE_ROWS = "baseline.jsonl"
"""In the run's folder: the content of a suite that came from the user's own file."""
ROWLESS = (
    *("answers.jsonl", "judgments.jsonl", "anchors.jsonl", "served.jsonl", "manifest.json"),
    *(BASELINE_ROWS, SUITE_COPY),
)
"""Files of a run that got no row: removed with its folder."""


class KeyedRow(Protocol):
    """A record with a key: an answer, a judgment, a reward. One with an `error` is not done."""

    @property
    def key(self) -> str: ...

    @property
    def error(self) -> Failure | None: ...

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray) -> Self: ...

    def model_dump_json(self) -> str: ...


class RowAboutPrompt(KeyedRow, Protocol):
    """A row about one prompt."""

    @property
    def prompt_id(self) -> str: ...


Row = TypeVar("Row", bound=KeyedRow)
RowOfPrompt = TypeVar("RowOfPrompt", bound=RowAboutPrompt)


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
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            why = "it is a link; remove it" if error.errno == errno.ELOOP else error.strerror
            raise StoreError(f"cannot open {self.path}: {why}") from error
        self._end = self._cut_torn_line()
        self.index()

    def index(self) -> None:
        """Note the key of every row, also without opening for appending. A torn last line is skipped."""
        for offset, row in self._scan() if self.path.exists() else ():
            self._note(row, offset)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def is_open(self) -> bool:
        return self._file >= 0

    def _cut_torn_line(self) -> int:
        """Cut off the row that a killed process was writing, after the last newline. Return the file's length."""
        size = os.fstat(self._file).st_size
        keep = size
        while keep > 0:
            start = max(0, keep - BLOCK)
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
        try:
            stream = self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from error
        with stream as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # a writer is at work, or was killed: the row is incomplete
                if line.strip():
                    try:
                        yield offset, self._type.model_validate_json(line)
                    except ValidationError as error:
                        raise ConfigError(
                            f"{self.path}, line {number} is not a valid {self._type.__name__}: {one_line(error)}; "
                            "remove that line, or use --fresh"
                        ) from error
                offset += len(line)

    def _note(self, row: Row, offset: int) -> str:
        key = row.key
        self._offsets[key] = offset
        self._failed.discard(key)
        if row.error is not None:
            self._failed.add(key)
        return key

    def append(self, row: Row) -> None:
        """Append one whole line. Raise StoreError, with the file unchanged, if that fails."""
        line = row.model_dump_json().encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(28, "No space left on device")
        except OSError as error:
            # half a row followed by others would make the whole file unreadable
            os.ftruncate(self._file, self._end)
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}; free space, then run the same command"
            ) from error
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
        line = bytearray()
        while True:
            part = os.pread(self._file, BLOCK, offset + len(line))
            end = part.find(b"\n")
            if end >= 0 or not part:
                return bytes(line + part[: max(0, end)])
            line += part  # only the new part is searched: a row may have 64 MB, which is a thousand blocks

    def all(self) -> Iterator[Row]:
        """Yield the last row of every key, in the order of first appearance."""
        return self.several(self._offsets)

    def several(self, keys: Iterable[str]) -> Iterator[Row]:
        """Yield the last rows of these keys, without those that have none.

        Reading is a block at a time, as the next row is mostly the next in the file: three times as fast as `get`.
        """
        block, start = b"", 0
        for key in keys:
            offset = self._offsets.get(key)
            if offset is None:
                continue
            end = block.find(b"\n", offset - start) if start <= offset else -1
            if end < 0:
                block, start = os.pread(self._file, BLOCK, offset), offset
                end = block.find(b"\n")
            yield self._type.model_validate_json(block[offset - start : end] if end >= 0 else self._line(offset))

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


class JudgmentRows(JsonlRows[Judgment]):
    """The judgments of a run, with what each of them took.

    The rows read by `open` stay in memory until one is appended: a run that is complete is not read twice for its card.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Judgment)
        self._unchanged: dict[str, Judgment] = {}
        self.spent: list[tuple[str, int, float | None]] = []
        """Judge, calls, and US dollars paid of every row since opening, including replaced ones."""

    def _note(self, row: Judgment, offset: int) -> str:
        key = super()._note(row, offset)
        self._unchanged[key] = row
        self.spent.append((row.judge, row.calls, row.paid))
        return key

    def append(self, row: Judgment) -> None:
        super().append(row)
        self._unchanged.clear()

    def all(self) -> Iterator[Judgment]:
        return iter(self._unchanged.values()) if self._unchanged else super().all()

    def close(self) -> None:
        super().close()
        self._unchanged.clear()


def _session(record: object) -> dict[str, float | str]:
    """Return the texts and finite numbers of a session's record. Raise ConfigError if it is not an object."""
    if not isinstance(record, dict):
        raise ConfigError(f"a session is a JSON object, not a {type(record).__name__}")
    return {
        name: value
        for name, value in record.items()
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
    }


@dataclass(frozen=True)
class Spending:
    """Requests sent to judges, and US dollars paid for each row of a judge with a known price."""

    calls: int
    paid: tuple[float, ...]


class RunStore:
    """One run's folder, locked while open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: JsonlRows[Answer] = JsonlRows(folder / "answers.jsonl", Answer)
        self.judgments = JudgmentRows(folder / "judgments.jsonl")
        self.anchors = JudgmentRows(folder / "anchors.jsonl")
        self._lock = FolderLock(folder)

    def open(self, manifest: dict[str, JsonValue], *, fresh: bool = False) -> Self:
        """Lock the folder and write the manifest, or check that the stored one is the same.

        `fresh` archives an earlier run; nothing is deleted. Raise RunLockedError if another process works here,
        ConfigError if the manifest is another run's.
        """
        self._lock.take()
        if fresh and (self.folder / "manifest.json").exists():
            archive_run(self.folder)
            self._lock.release()
            self._lock.take()
        try:
            self._check_manifest(manifest)
            self.answers.open()
            self.judgments.open()
        except BaseException:
            self.close()
            raise
        return self

    def _check_manifest(self, manifest: dict[str, JsonValue]) -> None:
        path = self.folder / "manifest.json"
        if not path.exists():
            write_atomic(path, dump_json(manifest))
            return
        stored = read_json_object(path, "use --fresh to archive this run and start over")
        manifest = json.loads(dump_json(manifest))  # as it would be read back: lists for tuples
        changed = sorted(key for key in manifest | stored if stored.get(key) != manifest.get(key))
        if changed:
            raise ConfigError(f"{path} belongs to a run with another {', '.join(changed)}; use --fresh to start over")

    def close(self) -> None:
        """Unlock. Remove the folder of a run without any row, e.g. of a checkpoint that did not start."""
        opened = self.answers.is_open and self.judgments.is_open
        self.answers.close()
        self.judgments.close()
        self.anchors.close()
        if self._lock.held:
            rows = len(self.answers) + len(self.judgments) + len(self.anchors)
            if opened and not (rows or (self.folder / "card.json").exists()):
                self._remove_empty()
            self._lock.release()

    def _remove_empty(self) -> None:
        for name in (*ROWLESS, *LOCK_FILES):
            (self.folder / name).unlink(missing_ok=True)
        for folder in (self.folder, *list(self.folder.parents)[:2]):
            try:
                folder.rmdir()
            except OSError:
                return  # something else lives there

    def spending(self, judge: str | None = None) -> Spending:
        """Return what all judgments of this run, or those of one judge, cost, including anchors and replaced rows."""
        spent = [row for rows in (self.judgments, self.anchors) for row in rows.spent if judge in (None, row[0])]
        paid = [dollars for _, _, dollars in spent if dollars is not None]
        # if all that is known is that cached replies cost nothing, what the calls cost is unknown
        if not any(paid) and any(calls and dollars is None for _, calls, dollars in spent):
            paid = []
        return Spending(sum(calls for _, calls, _ in spent), tuple(paid))

    def end_session(self, usage: dict[str, JsonValue]) -> None:
        """Append the seconds and tokens that this process spent."""
        try:
            with open_unlinked(self.folder / "sessions.jsonl", "ab") as file:
                file.write(json.dumps(usage, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise StoreError(f"cannot write {self.folder}/sessions.jsonl: {error.strerror}") from error

    def sessions(self) -> list[dict[str, float | str]]:
        """Return the records of `end_session`; torn or foreign lines are skipped, as no score depends on them."""
        path = self.folder / "sessions.jsonl"
        records = []
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                records.append(_session(parse_json(line, path)))
            except ConfigError:
                log.warning("%s: skipped a torn line", path)
        return records

    def write_questions(self, rows: Sequence[QuestionScores]) -> None:
        """Write the questions' own scores of a benchmark that scored by itself, or nothing if it has none."""
        if rows:
            write_atomic(
                self.folder / QUESTIONS, "".join(row.model_dump_json(exclude_none=True) + "\n" for row in rows)
            )

    def write_card(self, card: ScoreCard) -> Path:
        path = self.folder / "card.json"
        write_atomic(path, dump_json(card.model_dump(mode="json")))
        return path


def find_run(name: str, results: Path, suites: Collection[str] = (), data: JsonValue = None) -> Path:
    """Return the folder of the run, which contains a card.

    `suites`: if `name` is a model, consider only its runs on these suites; empty: on any. `data`: what their protocol
    states of the questions; if there is no run on the suites, one on the same questions will do. Raise ConfigError if
    no run or several runs match.
    """
    path = Path(name)
    if path.name == "card.json" and path.is_file():
        return path.parent
    if (path / "card.json").is_file():
        return path
    folders, twins = [], []
    for file in find_cards(results):
        try:
            card = read_card(file)
        except ConfigError as error:
            log.warning("%s", error)  # the card of another run is not the reason to stop
            continue
        if name not in (card.model, file.parents[2].name):
            continue
        if not suites or card.suite in suites:
            folders.append(file.parent)
        elif data is not None and card.protocol.get("data") == data:
            twins.append(file.parent)
    folders = folders or twins
    if len(folders) == 1:
        return folders[0]
    kind = f" of {' or '.join(sorted(suites))}" if suites else ""
    kind += "" if data is None else ", or of the same questions,"
    if not folders:
        raise ConfigError(f"no run{kind} named {name!r}: give its folder, its card.json, or a model under {results}")
    listed = ", ".join(str(folder) for folder in folders[:8])
    raise ConfigError(f"{name!r} has {len(folders)} runs{kind}; name one folder of: {listed}")


def read_baseline(folder: Path | None) -> dict[str, Answer]:
    """Return the baseline's answers by prompt id, if the run compares with another than the suite's own."""
    rows = [] if folder is None else JsonlRows(folder / BASELINE_ROWS, Answer).read()
    return {row.prompt_id: row for row in rows}


def read_definition(folder: Path | None) -> dict[str, JsonValue] | None:
    """Return the content of the user's suite that a run asked, or None if its folder has none."""
    path = None if folder is None else folder / SUITE_COPY
    if path is None or not path.is_file():
        return None
    return read_json_object(path, "run the suite again")


def keep_beside(folder: Path, definition: Mapping[str, JsonValue] | None, baseline: Iterable[Answer]) -> None:
    """Write the user's suite and another baseline's answers into an open run's folder, unless they are there."""
    if definition is not None and not (folder / SUITE_COPY).exists():
        write_atomic(folder / SUITE_COPY, dump_json(dict(definition)))
    rows = "".join(answer.model_dump_json() + "\n" for answer in baseline)
    if rows and not (folder / BASELINE_ROWS).exists():
        write_atomic(folder / BASELINE_ROWS, rows)


def read_rows(folder: Path) -> tuple[list[Answer], list[Judgment]]:
    """Return a run's answers and judgments, the last row of each key, without locking or changing the files."""
    answers, judgments = JsonlRows(folder / "answers.jsonl", Answer), JsonlRows(folder / "judgments.jsonl", Judgment)
    return answers.read(), judgments.read()


def read_question_scores(folder: Path) -> list[QuestionScores]:
    """Return the rows of `questions.jsonl`; none if there is no file. Raise ConfigError for an invalid row."""
    path = folder / QUESTIONS
    try:
        text = path.read_bytes() if path.exists() else b""
        return [QuestionScores.model_validate_json(line) for line in text.splitlines()]
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} has no valid question scores: {one_line(error)}; import the run again") from error


def read_question(folder: Path, prompt_id: str) -> tuple[list[Answer], list[Judgment]]:
    """Return one question's answers and judgments, without reading the other rows."""
    answers = _rows_about(folder / "answers.jsonl", Answer, prompt_id)
    return answers, _rows_about(folder / "judgments.jsonl", Judgment, prompt_id)


def _rows_about(path: Path, row_type: type[RowOfPrompt], prompt_id: str) -> list[RowOfPrompt]:
    """Return the last row of every key of one prompt. For speed, lines without its id are not parsed."""
    name = json.dumps(prompt_id, ensure_ascii=False).encode()
    # our own rows have no space after the colon; those of other tools may
    wanted = (b'"prompt_id":' + name, b'"prompt_id": ' + name)
    rows: dict[str, RowOfPrompt] = {}
    with path.open("rb") if path.exists() else io.BytesIO() as file:
        for line in file:
            if line.endswith(b"\n") and any(start in line for start in wanted):
                try:
                    row = row_type.model_validate_json(line)
                except ValidationError as error:
                    raise ConfigError(
                        f"{path}: a row of {prompt_id!r} is not a valid {row_type.__name__}: {one_line(error)}"
                    ) from error
                if row.prompt_id == prompt_id:
                    rows[row.key] = row
    return list(rows.values())
