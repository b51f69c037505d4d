"""Rows of the files that the original tools write: .json and .jsonl, packed or not, alone, in a folder or in a tar."""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from ..errors import ConfigError

ROWS = (".json", ".jsonl")
PACKED = (".xz", ".gz")
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
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.is_file() and _known(file.name)]
            if not inside:
                raise ConfigError(f"no {' or '.join(ROWS)} file, packed or not, in {path}")
            for file in inside:
                yield from _read(file, named=False)
        elif not path.is_file():
            raise ConfigError(f"no such file or folder: {str(path)!r}")
        elif not _known(path.name):
            raise ConfigError(f"{path}: expected {', '.join(ROWS)} (also .xz, .gz), or a .tar, .tar.xz, .tar.gz")
        else:
            yield from _read(path, named=True)


def _known(name: str) -> bool:
    return name.endswith(TARS) or _unpacked_name(name).endswith(ROWS)


def _unpacked_name(name: str) -> str:
    return name.rsplit(".", 1)[0] if name.endswith(PACKED) else name


def _read(path: Path, *, named: bool) -> Iterator[SourceFile]:
    try:
        if path.name.endswith(TARS):
            yield from _read_tar(path)
            return
        content = path.read_bytes()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    yield from _parse(path.name, str(path), content, named=named)


def _read_tar(path: Path) -> Iterator[SourceFile]:
    with tarfile.open(path) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            content = tar.extractfile(member) if member.isfile() else None
            # ._NAME is what macOS's tar adds beside each file
            if content is not None and not name.startswith("._") and _unpacked_name(name).endswith(ROWS):
                yield from _parse(name, f"{path}:{member.name}", content.read(), named=False)


def _parse(name: str, place: str, content: bytes, *, named: bool) -> Iterator[SourceFile]:
    """The file's rows; nothing for an unnamed .json that is no list of rows (settings, a manifest)."""
    try:
        if name.endswith(".xz"):
            content = lzma.decompress(content)
        elif name.endswith(".gz"):
            content = gzip.decompress(content)
        text = content.decode("utf-8-sig")
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {place}: {error}") from None
    name = _unpacked_name(name)
    if name.endswith(".jsonl"):
        yield SourceFile(name, tuple(_lines(text, place)))
        return
    found = _json(text, place)
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        yield SourceFile(name, tuple(row for row in found if isinstance(row, dict)))
    elif named:
        raise ConfigError(f"{place}: expected a list of objects")


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
