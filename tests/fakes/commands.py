"""The `harness` command for tests: in this process, or as a process of its own.

done = run_command("ls", "suites", "--json", cwd=tmp_path)  # done.code, done.out, done.err
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

OURS = ("harness", "judges", "recipes")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def harness_process(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a process: for kills, signals, and commands that run while the test does something else."""
    return subprocess.Popen(
        [sys.executable, "-m", "harness.cli.main", *words],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], timeout: float = 120) -> Done:
    """Wait for a process and return how it ended."""
    out, err = process.communicate(timeout=timeout)
    return Done(process.returncode, out, err)


def run_command(*words: str, cwd: Path, **environment: str) -> Done:
    """Run the command in this process as its console script does, and leave nothing of it behind."""
    from harness.cli.main import run

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    forget_caches()
    with ExitStack() as stack:
        for context in (as_process(words, cwd, environment), redirect_stdout(out), redirect_stderr(err)):
            stack.enter_context(context)
        code = exit_code(run)
    return Done(code, *(stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)))


def exit_code(run: object) -> int:
    """Call a console script; return what the interpreter would exit with, with its traceback or message on stderr."""
    assert callable(run)
    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def as_process(words: tuple[str, ...], cwd: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Give a command its arguments, folder and environment; undo what it does to logging, signals and the loop."""
    before, root = Path.cwd(), logging.getLogger()
    levels = {name: logger.level for name, logger in loggers().items()}
    handlers, level, root.handlers = root.handlers, root.level, []
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    hook = sys.excepthook
    root.setLevel(logging.WARNING)
    try:
        with mock.patch.dict(os.environ, environment), mock.patch.object(sys, "argv", ["harness", *words]):
            os.chdir(cwd)
            yield
    finally:
        os.chdir(before)
        sys.excepthook = hook
        for number, handler in signals.items():
            signal.signal(number, handler)
        root.handlers = handlers
        root.setLevel(level)
        for name, logger in loggers().items():
            logger.setLevel(levels.get(name, logging.NOTSET))
        asyncio.set_event_loop(None)


def loggers() -> dict[str, logging.Logger]:
    known = logging.getLogger().manager.loggerDict
    return {name: logger for name, logger in known.items() if isinstance(logger, logging.Logger)}


def forget_caches() -> None:
    """Empty the product's function caches, so that a command starts as a new process does."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in OURS:
            for function in list(vars(module).values()):
                if getattr(function, "__module__", None) == name and hasattr(function, "cache_clear"):
                    function.cache_clear()
