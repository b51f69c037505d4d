r"""Start one model server as a child process, wait for it, watch it, and stop it with all its descendants.

>>> reason("INFO 11-23 18:14:10 [core.py:133] loading\nValueError: no kernel for this GPU\n")
'ValueError: no kernel for this GPU'

It knows processes, ports and logs, but no prompts. The process runs under `warden.py`, so it ends when the harness
does. If it dies, its log is searched for the one line that says why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from ..records.errors import ServerError
from ..records.providers import HUB, without_keys
from ..store.files import open_unlinked
from . import warden

ANSI = re.compile(r"\x1b\[[0-9;]*m")
PREFIX = re.compile(
    r"^(\(\w[^)]*\)\s*)?((DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
    r"(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] ?)?"
)
"""vLLM's `(EngineCore pid=12) ERROR 11-23 18:14:10 [core.py:133] `, and SGLang's `[2026-11-23 18:14:10 TP0] `."""
ERROR = re.compile(r"^([\w.]*(Error|Exception|Interrupt|Exit)\b|Error|error|[\w.-]+: error):? ?")
"""Also argparse's `launch_server.py: error: unrecognized arguments`."""
WRAPPER = re.compile(
    r"root cause|Engine core (initialization|proc)|WorkerProc initialization failed|EngineDeadError"
    r"|Initialization failed\. Please see",
    re.I,
)
"""Errors that only report another error."""
FRAME = re.compile(r'^\s*File "')
NOISE = re.compile(
    r"^\s*(\^+|Traceback|During handling|The above exception|nanobind| - |warnings\.warn|$)|resource_tracker"
)

log = logging.getLogger(__name__)
PORTS = range(20000, 32000)  # below Linux's ephemeral range: no outgoing connection takes one between check and bind
POLL = 0.2  # seconds
COUNTDOWN = 10.0  # seconds between lines of the visible countdown
STOP_LIMIT = warden.GRACE + 4.0
LOG_TAIL = 200_000  # bytes of the log that are searched for the reason


def plain_lines(text: str) -> list[str]:
    """Return the log's lines without colours, process names, levels, times and trailing blanks."""
    return [PREFIX.sub("", ANSI.sub("", line)).rstrip() for line in text.splitlines()]


def reason(text: str) -> str | None:
    """Return the last error in the log that is not a wrapper: why the server died. None if there is none."""
    lines = plain_lines(text)
    cause = None
    for number, line in enumerate(lines):
        if not ERROR.match(line) or WRAPPER.search(line):
            continue
        sentence = line
        if "validation error" in line:  # pydantic puts the words on the lines that follow
            sentence = next((text.strip() for text in lines[number + 1 : number + 4] if "error," in text), line)
        cause = re.sub(r"\s*\[type=\w+, input_value=.*", "", sentence)
    return cause[:600] if cause else None


def tail(text: str, count: int = 12) -> str:
    """Return the last `count` different lines that carry meaning (no stack frames), at most 300 characters each."""
    lines = plain_lines(text)
    frames = {number for number, line in enumerate(lines) if FRAME.match(line)}
    telling = [
        line[:300]
        for number, line in enumerate(lines)
        if number not in frames and not (number - 1 in frames and line[:1] == " ") and not NOISE.search(line)
    ]
    return "\n".join(list(dict.fromkeys(telling))[-count:])


LOG_TAIL = 65_536
"""Bytes of a log's end in which its stage is looked for."""
STAGES = (
    (r"Downloading|Fetching \d+ files", "downloading"),
    (
        r"Starting to load model|Loading (?:safetensors|pt) checkpoint|Loading weights|Load weight begin"
        r"|load_model: loading",
        "loading weights",
    ),
    (r"torch\.compile|Compiling a graph|Dynamo bytecode", "compiling"),
    (r"KV cache", "making the KV cache"),
    (r"Capturing (?:CUDA|cudagraph)|Capture cuda graph|Graph capturing|[Ww]arming up", "warming up"),
    (r"Started server process|Waiting for application startup", "opening its port"),
)
"""Pattern in a server's log -> what it is doing then (vLLM 0.32, SGLang 0.5, transformers serve 5.19, llama.cpp)."""


def stage_of(text: str) -> str:
    """Return the stage whose line comes last in a server's log, or nothing if there is none.

    >>> stage_of("INFO Starting to load model\\nINFO GPU KV cache size: 1,024 tokens")
    'making the KV cache'
    """
    last = [
        (max((match.start() for match in re.finditer(pattern, text)), default=-1), name) for pattern, name in STAGES
    ]
    position, name = max(last)
    return name if position >= 0 else ""


class ServerDiedError(ServerError):
    """The process ended by itself before it answered."""


@dataclass(frozen=True)
class ServerCommand:
    """A command line, and what it changes in the environment: None removes a variable."""

    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)


def free_port() -> int:
    """Return a loopback TCP port that is free now."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError(f"no free port between {PORTS.start} and {PORTS.stop} on the loopback interface")


class ModelServer:
    """A server whose command `launch(port)` returns; it must answer GET /health with 200 once it can serve."""

    def __init__(
        self, name: str, launch: Callable[[int], ServerCommand], *, log_file: Path, start_timeout: float
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.port = 0
        self._launch = launch
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.is_shared = False
        """Whether it stays up when a backend leaves it, for the next model; only `stop` ends it then."""
        self._sessions: set[int] = set()
        """Sessions of the processes below the warden, once the server answered."""

    @property
    def root_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Return the warden's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def enter(self) -> float:
        """Start it, unless it is shared and serves; return the seconds that took, or 0. Raise as `start` does."""
        if self.is_shared and await self.healthy():
            return 0.0
        await self.stop()
        return await self.start()

    async def leave(self) -> None:
        """Stop it, unless it is shared."""
        if not self.is_shared:
            await self.stop()

    def launched_by(self, launch: Callable[[int], ServerCommand]) -> None:
        """From its next start on, run the command of another `launch`."""
        self._launch = launch

    async def start(self) -> float:
        """Wait until /health answers; return the seconds that took.

        Raise ServerDiedError or ServerError, with nothing left running.
        """
        self.port = self.port or free_port()
        begin = time.monotonic()
        self._spawn()
        try:
            await self._wait(begin)
        except BaseException:
            await self.stop()
            raise
        assert self._process is not None
        for pid in warden.descendants(self._process.pid):
            with suppress(ProcessLookupError):
                self._sessions.add(os.getsid(pid))
        seconds = time.monotonic() - begin
        log.info("%s serves after %.0f s", self.name, seconds)
        return seconds

    def _spawn(self) -> None:
        launch = self._launch(self.port)
        # A checkpoint's remote code runs there: no key of a judge, token or password. All files are here, so not even
        # the Hub's token is needed, unless the user let the server go online.
        keep = HUB if os.environ.get("HF_HUB_OFFLINE") in ("0", "") else ()
        inherited = without_keys(os.environ, keep)
        env = {key: value for key, value in {**inherited, **launch.env}.items() if value is not None}
        # a folder called vllm or judges in the user's current directory must not be imported
        env["PYTHONSAFEPATH"] = "1"
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with open_unlinked(self.log_file, "ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", warden.__file__, *launch.argv],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            )
        log.info("starting %s; log: %s", self.name, self.log_file)

    async def _wait(self, begin: float) -> None:
        announced = 0.0
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not await self._answers(session):
                waited = time.monotonic() - begin
                if self._process is None or self._process.poll() is not None:
                    raise ServerDiedError(self.obituary("ended while starting"))
                if waited > self._start_timeout:
                    raise ServerError(self.obituary(f"did not answer within {self._start_timeout:.0f} s"))
                if waited - announced >= COUNTDOWN:
                    announced = waited
                    stage = self.stage()
                    log.info(
                        "waiting for %s: %.0f s of at most %.0f s%s",
                        *(self.name, waited, self._start_timeout, f", {stage}" if stage else ""),
                        extra={"transient": True},  # a terminal shows only the latest of these lines
                    )
                await asyncio.sleep(POLL)

    def stage(self) -> str:
        """Return what the server is doing, by the latest known line of its log, or nothing if none is known."""
        try:
            with self.log_file.open("rb") as log_stream:
                size = log_stream.seek(0, os.SEEK_END)
                log_stream.seek(max(self._log_start, size - LOG_TAIL))
                return stage_of(log_stream.read().decode("utf-8", "replace"))
        except OSError:
            return ""

    async def _answers(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(self.root_url + "/health") as reply:
                return reply.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def healthy(self) -> bool:
        """Return whether the process lives and /health answers 200; a live but busy one gets three chances."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            for _ in range(3):
                if self.pid is None:
                    return False
                if await self._answers(session):
                    return True
                await asyncio.sleep(1.0)
        return False

    async def stop(self) -> None:
        """Stop the server and everything it started. Safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # the warden acts on this even if we are killed before the next line
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, STOP_LIMIT)
        if process.poll() is None:
            log.warning("%s (process %d) does not stop; killing its warden", self.name, process.pid)
            process.kill()
        process.wait()
        self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Kill what a warden that was itself killed could not stop: vLLM's engine outlives its server."""
        sessions, self._sessions = self._sessions, set()
        for pid in warden.processes():
            with suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) in sessions:
                    log.warning("%s left process %d behind; killing it", self.name, pid)
                    os.kill(pid, signal.SIGKILL)

    def obituary(self, event: str) -> str:
        """Return one sentence with the reason from the log, followed by the log's last lines."""
        text = self._log_text()
        status = self._process.poll() if self._process is not None else None
        cause = reason(text) or _by_status(status)
        return f"{self.name} {event}: {cause}\nlast lines of {self.log_file}:\n{tail(text)}"

    def _log_text(self) -> str:
        with self.log_file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_start, size - LOG_TAIL))
            return stream.read().decode("utf-8", "replace")


def _by_status(status: int | None) -> str:
    if status is None:
        return "no error in its log"
    if status in (137, -9):
        return "it was killed (signal 9), most often because memory ran out"
    return f"exit status {status}, no error in its log"
