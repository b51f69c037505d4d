"""One run of the real thing, shared by the tests that look at it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.commands import Done, harness_process


@dataclass(frozen=True)
class RealRun:
    """One `harness run --suite all --edition pocket` through a real vLLM."""

    done: Done
    results: Path
    model: Path


@pytest.fixture(scope="session")
def real_run(vllm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    folder = tmp_path_factory.mktemp("real")
    words = ("run", "--model", str(vllm_checkpoint), "--suite", "all", "--edition", "pocket", "--json")
    process = harness_process(*words, cwd=folder)
    out, err = process.communicate(timeout=600)
    return RealRun(Done(process.returncode, out, err), folder / "results", vllm_checkpoint)
