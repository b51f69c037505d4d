"""One case, and the command that it is measured with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 120
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int | None
    """None: it hung."""
    out: str
    err: str

    @property
    def cards(self) -> list[dict[str, Any]]:
        cards: list[dict[str, Any]] = json.loads(self.out)["cards"]
        return cards

    @property
    def ending(self) -> str:
        """Return how it ended, for a table; a crash is told by its exit code 1 or its traceback."""
        if self.code is None:
            return "hangs"
        return "traceback" if self.code == 1 or "Traceback" in self.err else f"exit {self.code}"


@dataclass(frozen=True)
class Case:
    """A fault that people met. `measure` makes its input in an empty folder and returns the value of this version."""

    name: str
    before: str
    """What version 0.2.0 gave."""
    right: str
    measure: Callable[[Path], str]
    needs_mirror: bool = False


def harness(folder: Path, *words: str, **environment: str) -> Done:
    """Run the command in a folder."""
    private = {"HARNESS_CACHE": str(folder / "cache"), "HARNESS_REPLY_CACHE": str(folder / "replies.sqlite")}
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli.main", *words],
        cwd=folder,
        env=os.environ | private | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Done(None, "", "")
    return Done(process.returncode, out, err)
