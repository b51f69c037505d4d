"""A trained folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import ConfigError


@contextmanager
def whole_folder(out: Path, contents: str) -> Iterator[Path]:
    """A folder beside `out` to write into, renamed to `out` when the body ends well and removed when it does not.

    Raises ConfigError where `out` holds anything, which `what` names.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} holds {contents}; give another folder or remove it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
