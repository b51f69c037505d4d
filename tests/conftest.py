"""Fixtures that several files share: a cache of their own, fake servers, the real run and its checkpoint."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ROOT
from tests.fakes.openai_server import FakeOpenAI

KEYS = ("OPENAI_API_KEY", "HARNESS_JUDGE", "HARNESS_JUDGE_KEY", "HARNESS_ENDPOINT_KEY", "HARNESS_RESULTS")

# A shell's background job is started with SIGINT ignored, and so would be every process that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache, or finds the user's keys."""
    os.environ["HARNESS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    for name in KEYS:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _own_replies(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is answered from another's reply cache."""
    monkeypatch.setenv("HARNESS_REPLY_CACHE", str(tmp_path_factory.mktemp("replies") / "replies.sqlite"))


@contextmanager
def serving(fake: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """Runs the fake in a thread of its own, so that the test can wait for processes meanwhile."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(30)
        yield fake
        asyncio.run_coroutine_threadsafe(fake.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


@pytest.fixture
def serve() -> Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]:
    return serving


def harness_process(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """The real command, as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cli.main", *words],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Done]:
    """`harness("run", "--model", ...)` in an empty folder."""

    def call(*words: str, timeout: float = 300, **environment: str) -> Done:
        process = harness_process(*words, cwd=tmp_path, **environment)
        out, err = process.communicate(timeout=timeout)
        return Done(process.returncode, out, err)

    return call


# --------------------------------------------------------------------------------------------------- the real thing


@pytest.fixture(scope="session")
def vllm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained checkpoint: the demo's weak one where `make demo` has made it, else trained now."""
    there = ROOT / "models" / "pocket-weak"
    if (there / "training.json").exists():
        return there
    out = tmp_path_factory.mktemp("models") / "pocket-weak"
    command = [sys.executable, "-m", "harness.cli.main", "embedded", "--effort", "weak", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return out


@dataclass(frozen=True)
class RealRun:
    """One `harness run --suite all --edition pocket` through a real vLLM, shared by the session."""

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
