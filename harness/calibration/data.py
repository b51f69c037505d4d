"""Locate recorded judgments: `--data DIR`, else HARNESS_PUBLISHED. docs/judges.md lists the files and their sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..formats.fastchat_rows import FAILED_CALL
from ..formats.files import SourceFile, read_files
from ..official import sha256_of
from ..records import Answer

PACKED = ("", ".xz", ".gz")


def stored_answer(model: str, prompt_id: str, *turns: str) -> Answer | None:
    """Return an answer read from a file of the original tools, or None if it has the mark of a failed call."""
    if any(text.strip() == FAILED_CALL for text in turns):
        return None
    return Answer(prompt_id=prompt_id, model=model, turns=turns, finish=tuple("stop" for _ in turns))


@dataclass
class DataFolder:
    """A folder of recorded judgments, with the digests of the files read from it."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    """Name under the folder -> sha256 of the file as stored (compressed or not)."""

    def find(self, name: str) -> Path | None:
        """Return the path of the file, compressed or not, and record its digest; None if it does not exist."""
        for ending in PACKED:
            path = self.path / (name + ending)
            if path.is_file():
                self.files[name + ending] = sha256_of(path)
                return path
        return None

    def need(self, name: str) -> Path:
        path = self.find(name)
        if path is None:
            raise DataError(f"no {name} (also .xz, .gz) in {self.path}; docs/judges.md lists its source")
        return path

    def rows(self, name: str) -> tuple[dict[str, object], ...]:
        """Return the rows of a file; raise DataError if it is missing."""
        (file,) = read_files([self.need(name)])
        return tuple(dict(row) for row in file.rows)

    def matching(self, pattern: str) -> Iterator[SourceFile]:
        """Yield the files that match a pattern such as `arena_hard/model_answer*`, and all files in matching
        folders."""
        paths = sorted(self.path.glob(pattern))
        for path in paths:
            inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            self.files |= {str(file.relative_to(self.path)): sha256_of(file) for file in inside}
        if paths:
            yield from read_files(paths)


def data_folder(folder: Path | None) -> DataFolder:
    """Return the data folder; raise DataError if none is configured or it does not exist."""
    named = folder or (Path(os.environ["HARNESS_PUBLISHED"]) if os.environ.get("HARNESS_PUBLISHED") else None)
    if named is None:
        raise DataError(
            "no recorded judgments: pass --data DIR or set HARNESS_PUBLISHED; docs/judges.md lists the expected files"
        )
    if not named.is_dir():
        raise DataError(f"no such folder of recorded judgments: {str(named)!r}")
    return DataFolder(named)
