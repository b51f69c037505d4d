"""Where recorded judgments lie: `--data DIR`, else HARNESS_PUBLISHED. docs/judges.md names the files and sources."""

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
    """An answer read from a file of the original tools; None for one that holds the mark of a failed call."""
    if any(text.strip() == FAILED_CALL for text in turns):
        return None
    return Answer(prompt_id=prompt_id, model=model, turns=turns, finish=tuple("stop" for _ in turns))


@dataclass
class DataFolder:
    """A folder of recorded judgments, and the digests of what was read from it."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    """Name under the folder -> sha256 of the file as it lies there."""

    def find(self, name: str) -> Path | None:
        """The file of that name, packed or not; its digest is noted."""
        for ending in PACKED:
            path = self.path / (name + ending)
            if path.is_file():
                self.files[name + ending] = sha256_of(path)
                return path
        return None

    def need(self, name: str) -> Path:
        path = self.find(name)
        if path is None:
            raise DataError(f"no {name} (also .xz, .gz) in {self.path}; docs/judges.md says where it comes from")
        return path

    def rows(self, name: str) -> tuple[dict[str, object], ...]:
        """The rows of a file that must be there."""
        (file,) = read_files([self.need(name)])
        return tuple(dict(row) for row in file.rows)

    def some(self, pattern: str) -> Iterator[SourceFile]:
        """The files, and the files in the folders, of a pattern such as `arena_hard/model_answer*`, by name."""
        paths = sorted(self.path.glob(pattern))
        for path in paths:
            inside = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
            self.files |= {str(one.relative_to(self.path)): sha256_of(one) for one in inside}
        if paths:
            yield from read_files(paths)


def data_folder(given: Path | None) -> DataFolder:
    """Raises DataError where none is given or it is not there."""
    named = given or (Path(os.environ["HARNESS_PUBLISHED"]) if os.environ.get("HARNESS_PUBLISHED") else None)
    if named is None:
        raise DataError(
            "no recorded judgments: give --data DIR or set HARNESS_PUBLISHED; docs/judges.md says what belongs there"
        )
    if not named.is_dir():
        raise DataError(f"no such folder of recorded judgments: {str(named)!r}")
    return DataFolder(named)
