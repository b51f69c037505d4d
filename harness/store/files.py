"""Write whole files and folders of results, atomically or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from ..errors import ConfigError, StoreError
from ..records import ScoreCard


def run_dir(results: Path, *, model: str, suite: str, version: str, run_id: str) -> Path:
    """Return the folder of a run; `model` is a `ModelRef.slug`."""
    return results / "runs" / model / f"{suite}@{version}" / run_id


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file so that a reader sees either the old or the new one.

    Raise ConfigError if the path cannot be a file (a folder, or below a file), StoreError if writing fails.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes like `write_atomic`."""
    _replace(path, (content,))


def _replace(path: Path, content: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may be below a file, or in a folder without permission
            temporary.unlink()
        if path.is_dir():
            raise ConfigError(f"cannot write {path}: it is a folder; name a file") from error
        if isinstance(error, (NotADirectoryError, FileExistsError)):
            raise ConfigError(f"cannot write {path}: what should be its folder is a file") from error
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines like `write_atomic`, without having them all in memory."""
    _replace(path, (f"{line}\n".encode() for line in lines))


def make_folder(path: Path) -> None:
    """Make a folder. Raise StoreError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {path}: {error.strerror}") from error


def dump_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def archive_run(folder: Path) -> Path | None:
    """Rename a run's folder to a hidden one (`--fresh`) and return that, or None if there is none. Nothing is
    deleted."""
    if not folder.exists():
        return None
    aside = folder.with_name(f".{folder.name}.{time.strftime('%Y%m%dT%H%M%S')}.{os.getpid()}")
    folder.rename(aside)
    return aside


def read_card(path: Path) -> ScoreCard:
    """Read a score card. Raise ConfigError if the file is not one."""
    try:
        card = ScoreCard.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise ConfigError(f"{path} is not a score card: {where}{first['msg']}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    wrong = card.unreadable()
    if wrong is not None:
        raise ConfigError(f"{path} is not a valid score card: {wrong}: not a finite number")
    return card


def find_cards(results: Path) -> list[Path]:
    """Return every card under `results/runs`, sorted, without those of archived folders."""
    return sorted(
        path
        for path in (results / "runs").glob("*/*@*/*/card.json")
        if not any(part.startswith(".") for part in path.relative_to(results).parts)
    )
