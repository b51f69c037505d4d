"""Read rows of the original tools' files and of a suite's data, and build the score card of judged files.

Files are .json and .jsonl, compressed or not, single, in a folder or in a tar. They are read row by row, so a file may
be larger than the memory. Each suite's own `files.py` turns their rows into scores.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, TypeVar

from pydantic import JsonValue

from ..records import JudgeTemplate, ScoreCard, SuiteScores
from ..records.errors import ConfigError, DataError
from ..records.protocols import SuiteData, SuiteOptions
from ..records.settings import EDITIONS
from ..stats.length_control import FoldOrder
from ..store import official
from ..store.files import is_hidden, visible_files
from ..store.provenance import VERSION
from . import pocket
from .scoring import incomplete_notes, is_complete_card

FAILED_CALL = "$ERROR$"
"""Stored by FastChat (common.py API_ERROR_OUTPUT) and Arena-Hard in place of an answer or judgment that failed."""
ROWS = (".json", ".jsonl")
PACKED: dict[str, Callable[..., IO[bytes]]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}  # type: ignore[dict-item]  # overloads
"""Ending -> opener, of the compressions that every Python reads."""
UNREADABLE = (".zst", ".zip", ".7z", ".lz4")
NUMBER = re.compile(r"-?\d+(\.\d*)?(e-?\d+)?", re.ASCII)
TARS = (".tar", ".tar.xz", ".tar.gz", ".tgz")
CHUNK = 1 << 20
"""Bytes that are read, and decompressed, at a time."""
LONGEST_ROW = 16 << 20
"""Characters. The longest row of a published file has less than 1 MB; a longer one than this cannot be a judgment."""
LARGEST_UNPACKED = 4 << 30
"""Bytes that a compressed file may unpack to. The largest published file unpacks to under 0.5 GB."""
READ_ERRORS = (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error)

Row = dict[str, JsonValue]


@dataclass(frozen=True)
class SourceFile:
    """One file's rows."""

    name: str
    """File name without folder and without .xz or .gz."""
    rows: Iterable[Row]
    """A tuple from `read_files`; from `stream_files` an iterator that can be read once."""
    location: str = field(default="", compare=False)
    """Path, and position in a tar, for messages."""


def read_files(paths: Iterable[Path]) -> Iterator[SourceFile]:
    """Yield what `stream_files` yields with all rows of a file in memory, for readers that need several passes."""
    for file in stream_files(paths):
        yield replace(file, rows=tuple(file.rows))


def stream_files(paths: Iterable[Path]) -> Iterator[SourceFile]:
    """Yield each named file, and each file in a named folder (at any depth, by name) or tar.

    The rows of a file must be read before the next file is requested. Hidden files, editor backups and copies in a
    folder are skipped (`visible_files`), and so are files of other kinds. Raise ConfigError if a path is missing,
    unreadable or unpacks to more than `LARGEST_UNPACKED`, or with its number if a line is not JSON.
    """
    for input_file in [input_file for path in paths for input_file in _input_files(path)]:
        path = input_file.path
        try:
            if path.name.endswith(TARS):
                with tarfile.open(path) as tar:
                    yield from _members(tar, path)
            else:
                with _open(path) as stream:
                    content = _Content(_unpacked_name(path.name), str(path), _is_packed(path.name), input_file.named)
                    yield from _source_file(content, stream)
        except READ_ERRORS as error:
            raise ConfigError(f"cannot read {path}: {error}") from None


def number(value: JsonValue) -> JsonValue:
    """Return a number written as a string as a number, as pandas reads it for the references; all else unchanged."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


@dataclass(frozen=True)
class _InputFile:
    path: Path
    named: bool
    """Named explicitly, not found in a folder."""


@dataclass(frozen=True)
class _Content:
    name: str
    location: str
    packed: bool
    named: bool


def _input_files(path: Path) -> list[_InputFile]:
    if path.is_dir():
        visible = visible_files(path)
        inside = [_InputFile(file, False) for file in visible if _is_known(file.name)]
        packed = next(
            (file for file in visible if _is_known(file.name.removesuffix(file.suffix)) and _refused(file)), None
        )
        if packed is not None:
            raise ConfigError(_unpack_first(packed))
        if not inside:
            raise ConfigError(f"no {' or '.join(ROWS)} file, packed or not, in {path}")
        return inside
    if not path.is_file():
        raise ConfigError(f"no such file or folder: {str(path)!r}")
    if _refused(path):
        raise ConfigError(_unpack_first(path))
    if not _is_known(path.name):
        table = " A table of results has no judgments" if path.suffix in (".csv", ".tsv") else ""
        endings = f"expected {', '.join(ROWS)} (also .xz, .gz, .bz2), or a .tar, .tar.xz, .tar.gz"
        raise ConfigError(f"{path}: {endings}.{table}" if table else f"{path}: {endings}")
    return [_InputFile(path, True)]


def _refused(path: Path) -> bool:
    return path.name.endswith(UNREADABLE)


def _unpack_first(path: Path) -> str:
    return f"{path}: {path.suffix} files cannot be read; unpack it first"


def _is_known(name: str) -> bool:
    return name.endswith(TARS) or _unpacked_name(name).endswith(ROWS)


def _is_packed(name: str) -> bool:
    return name.endswith(tuple(PACKED))


def _unpacked_name(name: str) -> str:
    return name.rsplit(".", 1)[0] if _is_packed(name) else name


def _open(path: Path) -> IO[bytes]:
    return PACKED[path.suffix](path) if path.suffix in PACKED else path.open("rb")


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[SourceFile]:
    for member in tar:
        name = PurePosixPath(member.name)
        stream = tar.extractfile(member) if member.isfile() else None
        # macOS's tar adds a ._NAME beside each file
        if stream is not None and not is_hidden(name) and _unpacked_name(name.name).endswith(ROWS):
            packed = _is_packed(name.name)
            inner = PACKED[name.suffix](stream) if packed else stream
            yield from _source_file(_Content(_unpacked_name(name.name), f"{path}:{member.name}", packed, False), inner)


def _source_file(content: _Content, stream: IO[bytes]) -> Iterator[SourceFile]:
    """Yield the file, unless it is unnamed and has no rows or is a .json without a list (settings, a manifest)."""
    texts = _texts(content, stream)
    rows = _lines(texts, content) if content.name.endswith(".jsonl") else _elements(texts, content)
    try:
        first = next(rows, None)
        if first is not None:
            yield SourceFile(content.name, chain([first], rows), content.location)
        elif content.named:
            yield SourceFile(content.name, (), content.location)
    finally:
        rows.close()
        texts.close()


def _texts(content: _Content, stream: IO[bytes]) -> Generator[str]:
    """Yield the file's text in parts, none of them empty. The next part is read meanwhile.

    Decompression releases the interpreter lock, so it runs beside the parsing.
    """
    decode, size = codecs.getincrementaldecoder("utf-8-sig")().decode, 0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.read, CHUNK)
        while chunk := _result(waiting, content):
            waiting = pool.submit(stream.read, CHUNK)
            size += len(chunk)
            if content.packed and size > LARGEST_UNPACKED:
                limit = f"{LARGEST_UNPACKED >> 30} GiB"
                raise ConfigError(f"{content.location} unpacks to more than {limit}; if that is right, unpack it first")
            try:
                if text := decode(chunk):
                    yield text
            except UnicodeDecodeError as error:
                raise ConfigError(f"cannot read {content.location}: {error}") from None
    try:
        decode(b"", True)
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {content.location}: {error}: it seems to be cut off") from None


def _result(waiting: Future[bytes], content: _Content) -> bytes:
    try:
        return waiting.result()
    except READ_ERRORS as error:
        raise ConfigError(f"cannot read {content.location}: {error}") from None


def _lines(texts: Iterable[str], content: _Content) -> Generator[Row]:
    """Yield one object per non-blank line; split at newlines only, as texts may contain other line breaks."""
    rest, count = "", 0
    for text in texts:
        if not rest and text.isspace():  # a file of nothing but line ends must not take hours
            count += text.count("\n")
            continue
        lines = (rest + text).split("\n")
        rest = lines.pop()
        for line in lines:
            count += 1
            if line and not line.isspace():
                yield _object(line, content.location, count)
        _check_length(len(rest), content, count + 1)
    if rest.strip():
        yield _object(rest, content.location, count + 1, is_last=True)
    elif not count and content.named:
        raise ConfigError(f"{content.location} is empty")


def _object(line: str, location: str, count: int, *, is_last: bool = False) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        torn = (
            " (the last line is cut off, as by a killed writer: remove it, and make its row again)" if is_last else ""
        )
        raise ConfigError(f"{location}, line {count}: not JSON: {error}{torn}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{location}, line {count}: expected an object, found {line[:40]!r}")
    return row


def _check_length(length: int, content: _Content, count: int) -> None:
    if length > LONGEST_ROW:
        raise ConfigError(
            f"{content.location}, row {count}: longer than {LONGEST_ROW >> 20} million characters, so not a judgment"
        )


SPACE = re.compile(r"[ \t\n\r]*")
NEAR_END = 16
"""Characters. If only the rest of a text is missing, the parser fails at most this far before its end."""


def _elements(texts: Iterable[str], content: _Content) -> Generator[Row]:
    """Yield the objects of a JSON array without having all of it in memory."""
    return _Array(texts, content).rows()


class _Array:
    """A JSON array whose text arrives in parts."""

    def __init__(self, texts: Iterable[str], content: _Content) -> None:
        self._parts, self._content = iter(texts), content
        self._text, self._position, self._count = "", 0, 0
        self._decode = json.JSONDecoder().raw_decode

    def rows(self) -> Generator[Row]:
        location, named = self._content.location, self._content.named
        opened = self._mark()
        if opened != "[":
            if named:
                raise ConfigError(f"{location}: expected a list of objects" if opened else f"{location} is empty")
            return
        self._position += 1
        if self._mark() == "]":
            return
        while True:
            self._count += 1
            row = self._value()
            if not isinstance(row, dict):
                if self._count == 1 and not named:
                    return
                raise ConfigError(f"{location}: expected a list of objects, found {str(row)[:40]!r}")
            yield row
            mark = self._mark()
            if mark == "]":
                return
            if mark != ",":
                end = "the file is cut off, as by a killed writer" if not mark else f"expected a comma, found {mark!r}"
                raise ConfigError(f"{location}, after row {self._count}: not JSON: {end}")
            self._position += 1

    def _mark(self) -> str:
        """Return the next character that is not blank, or an empty text at the end of the file."""
        while True:
            blanks = SPACE.match(self._text, self._position)
            self._position = blanks.end() if blanks else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Append the next part of the text; return False at the end of the file."""
        part = next(self._parts, "")
        self._text, self._position = self._text[self._position :] + part, 0
        _check_length(len(self._text) - len(part), self._content, self._count)
        return bool(part)

    def _value(self) -> JsonValue:
        self._mark()
        while True:
            try:
                value, self._position = self._decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                if not self._is_partial(error) or not self._read_on():
                    row = f"{self._content.location}, row {self._count}"
                    raise ConfigError(f"{row}: not JSON: {error}") from None
            else:
                document: JsonValue = value
                return document

    def _is_partial(self, error: Exception) -> bool:
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated") or error.pos > len(self._text) - NEAR_END


# ---------------------------------------------------------------------------------------------------- one row per slot


class Sourced(Protocol):
    """A row that knows its file."""

    @property
    def file(self) -> str: ...


SourcedRow = TypeVar("SourcedRow", bound=Sourced)


def latest(
    rows: Iterable[SourcedRow], key: Callable[[SourcedRow], Hashable], verdict: Callable[[SourcedRow], object]
) -> list[SourcedRow]:
    """Return the last row of each key, in order of the keys' first appearance.

    The original tools append to their file, so the last row of one file is the current one. Files have no such order:
    a row without a verdict (None) does not replace another file's. Raise ConfigError if two files' verdicts differ.
    """
    last: dict[Hashable, SourcedRow] = {}
    for row in rows:
        name = key(row)
        earlier = last.get(name)
        if earlier is not None and earlier.file != row.file:
            first, second = verdict(earlier), verdict(row)
            if second is None:
                continue
            if first is not None and first != second:
                shown = ", ".join(str(part) for part in name) if isinstance(name, tuple) else str(name)
                raise ConfigError(
                    f"{earlier.file} and {row.file} disagree on {shown[:60]!r} ({first} and {second}): "
                    "name the file to be scored"
                )
        last[name] = row
    return list(last.values())


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `harness score`. `FileFormat.score_flags` states which formats read those that not all do."""

    answers: tuple[Path, ...] = ()
    """Files or folders with the judged answers, in the benchmark's own format."""
    strict_reference: bool = False
    """Score what the reference scores, broken rows included."""
    fold_order: FoldOrder = "published"
    """The order of the cross-validation folds, for formats whose score is a cross-validated fit."""
    intervals: bool = True
    """False: point estimates only, for speed."""
    seed: int = 0
    """Seed of every bootstrap."""
    mirror: str | None = None
    """Folder or URL of the pinned files that scoring needs, such as the lists of questions."""
    baseline: str | None = None
    """The baseline's name if the rows do not state it; None: the benchmark's own."""
    style_control: str | None = None
    """v0.1, v2, length or markdown; None: no style control."""
    unanchored: bool = False
    """Use the reference's interval with the error that it has for custom baselines."""
    pool: bool = False
    """Also fit one Bradley-Terry model over all models and baselines of the files."""


@dataclass(frozen=True)
class FileResult:
    """The scores of one model's rows."""

    suite: str
    suite_version: str
    """`official-1` if the rows' questions are the official ones, else `files-1`."""
    model: str
    judge: str
    headline: str
    suite_scores: SuiteScores
    protocol: Mapping[str, JsonValue]
    """The format's part of the protocol; `source: files` and the version are added."""
    files: tuple[str, ...] = ()
    counts: Mapping[str, JsonValue] = field(default_factory=dict)
    seed: int = 0


def card_of(result: FileResult) -> ScoreCard:
    """Return the same record as a run's card, marked as coming from files.

    If less than 90 % is scored it is incomplete, with a note.
    """
    scores = result.suite_scores.scores
    notes = (*result.suite_scores.notes, *incomplete_notes(result.suite, result.headline, scores))
    named: dict[str, JsonValue] = {"source": "files", "suite_version": result.suite_version, "judge": result.judge}
    return ScoreCard(
        suite=result.suite,
        suite_version=result.suite_version,
        model=result.model,
        judge=result.judge,
        headline=result.headline,
        complete=is_complete_card(result.suite, result.headline, scores),
        protocol=named | dict(result.protocol),
        sampling={},
        scores=scores,
        by_category=result.suite_scores.by_category,
        counts=dict(result.counts),
        notes=notes,
        provenance={"files": list(result.files), "harness": VERSION, "seed": result.seed},
    )


# ------------------------------------------------------------------------------------------------------------- editions


def load_edition(
    suite: pocket.SuiteName, options: SuiteOptions, load_official: Callable[[SuiteOptions], SuiteData]
) -> SuiteData:
    """Return the suite's data in the requested edition. Raise ConfigError for an unknown edition."""
    if options.edition == "official":
        return load_official(options)
    if options.edition == "pocket":
        return pocket.load(suite)
    raise ConfigError(f"no edition named {options.edition!r}; editions: {', '.join(EDITIONS)}")


def official_files(options: SuiteOptions, names: Iterable[str]) -> dict[str, Path]:
    return official.ensure(names, options.mirror, cache_dir=options.cache_dir)


def pinned(names: Iterable[str], cache_dir: Path | None = None) -> dict[str, str]:
    """Return name -> sha256, pinned or recorded, for the card's protocol."""
    return {name: official.expected_sha256(official.pinned_files()[name], cache_dir) or "unknown" for name in names}


def template_shas(templates: Mapping[str, JudgeTemplate]) -> dict[str, JsonValue]:
    """Return template name -> first 12 characters of its sha256, for the card's protocol."""
    return {name: template.sha[:12] for name, template in sorted(templates.items())}


def only_template(data: SuiteData) -> JudgeTemplate:
    """Return the template of a suite that has only one. Raise DataError for none or several."""
    if len(data.templates) != 1:
        raise DataError(f"expected one judge template, got {', '.join(data.templates) or 'none'}")
    return next(iter(data.templates.values()))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file without blank lines. Raise DataError with the line's number."""
    rows = []
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is not a JSON object")
        rows.append(row)
    return rows
