"""Rows of the files that the original tools write: .json and .jsonl, packed or not, alone, in a folder or in a tar."""

from __future__ import annotations

import gzip
import json
import lzma
import re
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from ..errors import ConfigError

ROWS = (".json", ".jsonl")
PACKED = (".xz", ".gz")
AHEAD = 2
"""Files unpacked while another is parsed."""
NUMBER = re.compile(r"-?\d+(\.\d*)?(e-?\d+)?", re.ASCII)
TARS = (".tar", ".tar.xz", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class SourceFile:
    """One file's rows."""

    name: str
    """File name without folder and without .xz or .gz."""
    rows: tuple[dict[str, JsonValue], ...]


def read_files(paths: Iterable[Path]) -> Iterator[SourceFile]:
    """Each file named, found in a named folder (at any depth, by name) or packed in a named tar.

    In folders and tars, what is no file of rows is passed over. Raises ConfigError for a path that is not there or
    cannot be read, and for a line that is not JSON, with its number.
    """
    found = [place for path in paths for place in _places(path)]
    with ThreadPoolExecutor(AHEAD) as pool:  # unpacking needs no interpreter lock: the next file while one is parsed
        waiting: deque[Future[list[_Content]]] = deque()
        for at, place in enumerate(found):
            while len(waiting) < AHEAD and at + len(waiting) < len(found):
                waiting.append(pool.submit(_read, found[at + len(waiting)].path))
            for content in waiting.popleft().result():
                yield from _parse(content, named=place.named and not place.path.name.endswith(TARS))


def number(value: JsonValue) -> JsonValue:
    """A number written as a string as that number, as pandas reads it for the references; all else as it is."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


@dataclass(frozen=True)
class _Place:
    path: Path
    named: bool
    """Given by name, not found in a folder."""


@dataclass(frozen=True)
class _Content:
    """One file, unpacked."""

    name: str
    place: str
    """Path, and place in a tar, for messages."""
    data: bytes


def _places(path: Path) -> list[_Place]:
    if path.is_dir():
        inside = [_Place(file, False) for file in sorted(path.rglob("*")) if file.is_file() and _known(file.name)]
        if not inside:
            raise ConfigError(f"no {' or '.join(ROWS)} file, packed or not, in {path}")
        return inside
    if not path.is_file():
        raise ConfigError(f"no such file or folder: {str(path)!r}")
    if not _known(path.name):
        raise ConfigError(f"{path}: expected {', '.join(ROWS)} (also .xz, .gz), or a .tar, .tar.xz, .tar.gz")
    return [_Place(path, True)]


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
    found = []
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            content = tar.extractfile(member) if member.isfile() else None
            # ._NAME is what macOS's tar adds beside each file
            if content is not None and not name.startswith("._") and _unpacked_name(name).endswith(ROWS):
                found.append(_unpacked(name, f"{path}:{member.name}", content.read()))
    return found


def _unpacked(name: str, place: str, data: bytes) -> _Content:
    if name.endswith(".xz"):
        data = lzma.decompress(data)
    elif name.endswith(".gz"):
        data = gzip.decompress(data)
    return _Content(_unpacked_name(name), place, data)


def _parse(content: _Content, *, named: bool) -> Iterator[SourceFile]:
    """The file's rows; nothing for an unnamed .json that is no list of rows (settings, a manifest)."""
    try:
        text = content.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {content.place}: {error}") from None
    if content.name.endswith(".jsonl"):
        yield SourceFile(content.name, tuple(_lines(text, content.place)))
        return
    found = _json(text, content.place)
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        yield SourceFile(content.name, tuple(row for row in found if isinstance(row, dict)))
    elif named:
        raise ConfigError(f"{content.place}: expected a list of objects")


def _lines(text: str, place: str) -> Iterator[dict[str, JsonValue]]:
    """One object a line, blank lines passed over; split at newlines only, as texts may hold other line breaks."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _json(line, f"{place}, line {number}")
            if not isinstance(row, dict):
                raise ConfigError(f"{place}, line {number}: expected an object, found {line[:40]!r}")
            yield row


def _json(text: str, place: str) -> JsonValue:
    try:
        found: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: not JSON: {error}") from None
    return found
