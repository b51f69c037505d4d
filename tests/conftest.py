"""Fixtures that several folders share, and the order in which the workers of pytest-xdist take the tests."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests import ROOT
from tests.fakes.commands import Done, ended, harness_process, run_command
from tests.fakes.openai_server import FakeOpenAI, serving

FOLDERS = ("torch", "servers", "published", "browser", "cli", "unit")
"""Slowest first."""
REAL_VLLM = frozenset(
    str(path.relative_to(ROOT))
    for path in (ROOT / "tests").glob("*/test_*.py")
    if re.search(r"\b(vllm_checkpoint|real_run|smollm2):", path.read_text("utf-8"))
)
"""Modules whose tests start a real vLLM: two at once would share two cores and need twice the memory."""
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


@pytest.fixture
def serve() -> Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]:
    return serving


@pytest.fixture
def harness(tmp_path: Path) -> Callable[..., Done]:
    """`harness("run", "--model", ...)` in an empty folder, in this process."""

    def call(*words: str, **environment: str) -> Done:
        return run_command(*words, cwd=tmp_path, **environment)

    return call


# ------------------------------------------------------------------------------------------------------- real servers


@pytest.fixture(scope="session")
def vllm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained checkpoint: the weak one of `make demo` if it is there, else trained once for all workers."""
    made_by_demo = ROOT / "models" / "pocket-weak"
    if (made_by_demo / "training.json").exists():
        return made_by_demo
    base = tmp_path_factory.getbasetemp()
    checkpoint = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models" / "pocket-weak"
    checkpoint.parent.mkdir(exist_ok=True)
    with FileLock(f"{checkpoint}.lock"):
        if not (checkpoint / "training.json").exists():
            # 0.06 s per step on one core; 300 steps answer some questions right, so that scores have intervals
            words = ("embedded", "--effort", "weak", "--steps", "300", "--out", str(checkpoint))
            done = ended(harness_process(*words, cwd=checkpoint.parent), 500)
            assert done.code == 0, done.err
    return checkpoint


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that take longest, so that both workers end at about the same time."""
    items.sort(key=lambda item: (scope_of(item.nodeid) != "vllm", FOLDERS.index(item.path.parent.name)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a module's tests to one worker, so that its fixtures are made once, and all of REAL_VLLM to one.

    pytest-xdist 3.8 has `--dist loadgroup` for this, but with pytest 9.2 it ignores the groups without a word.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False
    return ModuleScheduling(config, log)


def scope_of(nodeid: str) -> str:
    """Return what stays on one worker: "vllm", or the test's module."""
    module = nodeid.partition("::")[0]
    return "vllm" if module in REAL_VLLM else module
