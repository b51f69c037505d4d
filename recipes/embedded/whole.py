"""Write a folder atomically: it appears complete, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import ConfigError


@contextmanager
def whole_folder(out: Path, contents: str) -> Iterator[Path]:
    """Yield a folder next to `out` to write into. Rename it to `out` if the body succeeds, and remove it if not.

    Raise ConfigError if `out` is a file or a folder that is not empty. `contents` describes what is in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} already contains {contents}; give another folder or remove it")
    # The process id keeps two runs apart. A hidden name keeps the unfinished folder out of listings.
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
