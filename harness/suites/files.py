"""Read rows of the original tools' files, and build the score card of a model judged in such files.

Files are .json and .jsonl, compressed or not, single, in a folder or in a tar. Each suite's own `files.py` turns their
rows into scores.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from ..records import ScoreCard, SuiteScores
from ..records.errors import ConfigError
from ..stats.length_control import FoldOrder
from ..store.provenance import VERSION
from .scoring import is_complete

FAILED_CALL = "$ERROR$"
"""Stored by FastChat (common.py API_ERROR_OUTPUT) and Arena-Hard in place of an answer or judgment that failed."""
ROWS = (".json", ".jsonl")
PACKED = (".xz", ".gz")
AHEAD = 2
"""Files decompressed while another is parsed."""
NUMBER = re.compile(r"-?\d+(\.\d*)?(e-?\d+)?", re.ASCII)
TARS = (".tar", ".tar.xz", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class SourceFile:
    """One file's rows."""

    name: str
    """File name without folder and without .xz or .gz."""
    rows: tuple[dict[str, JsonValue], ...]


def read_files(paths: Iterable[Path]) -> Iterator[SourceFile]:
    """Yield each named file, and each file in a named folder (at any depth, by name) or tar.

    Other files in folders and tars are skipped. Raise ConfigError if a path is missing or unreadable, or with its
    number
    if a line is not JSON.
    """
    inputs = [input_file for path in paths for input_file in _input_files(path)]
    with ThreadPoolExecutor(AHEAD) as pool:  # decompression releases the interpreter lock: read ahead while parsing
        waiting: deque[Future[list[_Content]]] = deque()
        for at, input_file in enumerate(inputs):
            while len(waiting) < AHEAD and at + len(waiting) < len(inputs):
                waiting.append(pool.submit(_read, inputs[at + len(waiting)].path))
            for content in waiting.popleft().result():
                yield from _parse(content, named=input_file.named and not input_file.path.name.endswith(TARS))


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
    """Path, and position in a tar, for messages."""
    data: bytes


def _input_files(path: Path) -> list[_InputFile]:
    if path.is_dir():
        inside = [_InputFile(file, False) for file in sorted(path.rglob("*")) if file.is_file() and _known(file.name)]
        if not inside:
            raise ConfigError(f"no {' or '.join(ROWS)} file, packed or not, in {path}")
        return inside
    if not path.is_file():
        raise ConfigError(f"no such file or folder: {str(path)!r}")
    if not _known(path.name):
        raise ConfigError(f"{path}: expected {', '.join(ROWS)} (also .xz, .gz), or a .tar, .tar.xz, .tar.gz")
    return [_InputFile(path, True)]


def _known(name: str) -> bool:
    return name.endswith(TARS) or _unpacked_name(name).endswith(ROWS)


def _unpacked_name(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.endswith(PACKED) else name


def _read(path: Path) -> list[_Content]:
    try:
        if path.name.endswith(TARS):
            return _read_tar(path)
        return [_unpacked(path.name, str(path), path.read_bytes())]
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _read_tar(path: Path) -> list[_Content]:
    contents = []
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            content = tar.extractfile(member) if member.isfile() else None
            # macOS's tar adds a ._NAME beside each file
            if content is not None and not name.startswith("._") and _unpacked_name(name).endswith(ROWS):
                contents.append(_unpacked(name, f"{path}:{member.name}", content.read()))
    return contents


def _unpacked(name: str, location: str, data: bytes) -> _Content:
    if name.endswith(".xz"):
        data = lzma.decompress(data)
    elif name.endswith(".gz"):
        data = gzip.decompress(data)
    return _Content(_unpacked_name(name), location, data)


def _parse(content: _Content, *, named: bool) -> Iterator[SourceFile]:
    """Yield the file's rows; nothing for an unnamed .json that is not a list of rows (settings, a manifest)."""
    try:
        text = content.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {content.location}: {error}") from None
    if content.name.endswith(".jsonl"):
        yield SourceFile(content.name, tuple(_lines(text, content.location)))
        return
    document = _json(text, content.location)
    if isinstance(document, list) and all(isinstance(row, dict) for row in document):
        yield SourceFile(content.name, tuple(row for row in document if isinstance(row, dict)))
    elif named:
        raise ConfigError(f"{content.location}: expected a list of objects")


def _lines(text: str, location: str) -> Iterator[dict[str, JsonValue]]:
    """Yield one object per non-blank line; split at newlines only, as texts may contain other line breaks."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _json(line, f"{location}, line {number}")
            if not isinstance(row, dict):
                raise ConfigError(f"{location}, line {number}: expected an object, found {line[:40]!r}")
            yield row


def _json(text: str, location: str) -> JsonValue:
    try:
        document: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{location}: not JSON: {error}") from None
    return document


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `harness score`; each format uses the ones that apply to it."""

    answers: tuple[Path, ...] = ()
    """Files or folders with the judged answers, in the benchmark's own format."""
    strict_reference: bool = False
    """Score what the reference scores, broken rows included."""
    fold_order: FoldOrder = "published"
    """AlpacaEval's cross-validation folds."""
    intervals: bool = True
    """False: point estimates only, for speed."""
    seed: int = 0
    """Seed of every bootstrap."""
    mirror: str | None = None
    """Folder or URL of the pinned files that scoring needs (AlpacaEval's gamed rows, the question lists)."""
    baseline: str | None = None
    """Arena-Hard: the baseline's name if the rows do not state it; None: the benchmark's own."""
    style_control: str | None = None
    """Arena-Hard: v0.1, v2, length or markdown; None: no style control."""
    unanchored: bool = False
    """Arena-Hard v0.1: use the reference's interval with its error for custom baselines."""
    pool: bool = False
    """Arena-Hard: also fit one Bradley-Terry model over all models and baselines of the files."""


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
    """Names of the source files."""
    counts: Mapping[str, JsonValue] = field(default_factory=dict)
    seed: int = 0


def card_of(result: FileResult) -> ScoreCard:
    """Return the same record as a run's card, marked as coming from files.

    If less than 90 % is scored it is incomplete, with a note.
    """
    head = result.suite_scores.scores[result.headline]
    complete = is_complete(head)
    notes = result.suite_scores.notes
    if not complete:
        notes = (*notes, f"incomplete: {head.n} of {head.n + head.unscored} scored; never ranked")
    named: dict[str, JsonValue] = {"source": "files", "suite_version": result.suite_version, "judge": result.judge}
    return ScoreCard(
        suite=result.suite,
        suite_version=result.suite_version,
        model=result.model,
        judge=result.judge,
        headline=result.headline,
        complete=complete,
        protocol=named | dict(result.protocol),
        sampling={},
        scores=result.suite_scores.scores,
        by_category=result.suite_scores.by_category,
        counts=dict(result.counts),
        notes=notes,
        provenance={"files": list(result.files), "harness": VERSION, "seed": result.seed},
    )
