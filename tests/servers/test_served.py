"""A server of ours dies, hangs and is stopped: a fake in vLLM's place. Tests with a real one are in test_vllm.py."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.backends.chat import ContextWindow, Dialogue
from harness.backends.served import ServedBackend
from harness.backends.server import ServerCommand, reason, tail
from harness.backends.warden import descendants
from harness.records import Answer, ModelRef
from harness.records.errors import CheckpointError, ServerError
from harness.records.protocols import ServeOptions
from harness.records.providers import api_key
from tests import ROOT
from tests.fakes import openai_server
from tests.fakes.processes import gone, running
from tests.fakes.toys import GREEDY, prompt
from tests.unit.test_checkpoint import write_checkpoint

FAKE = openai_server.__file__


class FakeServed(ServedBackend):
    """The fake server under the same supervision as vLLM."""

    name = "fake"
    extra: tuple[str, ...] = ()

    def launch(self, port: int) -> ServerCommand:
        return ServerCommand((sys.executable, FAKE, f"--port={port}", f"--model={self.label}", *self.extra))

    def engine(self) -> dict[str, JsonValue]:
        return {}

    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        return ContextWindow(None)


def served(tmp_path: Path, *extra: str, start_timeout: float = 30.0) -> FakeServed:
    folder = tmp_path / "ckpt"
    folder = folder if folder.exists() else write_checkpoint(folder)
    backend = FakeServed(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path, start_timeout=start_timeout))
    backend.extra = extra
    return backend


def variables_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


@pytest.mark.parametrize("online", [False, True])
def test_a_server_sees_no_key_token_or_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    for name in ("OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "HF_TOKEN", "ODDLY_NAMED"):
        monkeypatch.setenv(name, "sesame")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0" if online else "1")
    api_key("ODDLY_NAMED")  # as a judge does whose `key_env` it is

    async def environment() -> list[str]:
        async with served(tmp_path) as backend:
            assert backend.server.pid is not None
            pids = [backend.server.pid, *descendants(backend.server.pid)]
            return [variable for pid in pids for variable in variables_of(pid)]

    variables = asyncio.run(environment())

    assert any(entry.startswith("PATH=") for entry in variables)
    assert {entry for entry in variables if entry.endswith("=sesame")} == ({"HF_TOKEN=sesame"} if online else set())


def test_a_served_model_answers_and_leaves_no_process(tmp_path: Path) -> None:
    async def scene() -> Answer:
        async with served(tmp_path, f"--port-file={tmp_path}/port") as backend:
            return await backend.answer(prompt("two words"), GREEDY)

    answer = asyncio.run(scene())

    assert answer.turns[0].endswith("to 'two words'")
    assert not running(f"--port-file={tmp_path}/port")


def test_death_at_start_is_one_sentence_and_the_logs_last_lines(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, "--die-at-start=ValueError: no such architecture 'Foo'"):
            pass

    with pytest.raises(CheckpointError) as error:
        asyncio.run(scene())

    first, _, rest = str(error.value).partition("\n")
    assert first == "fake server of ckpt ended while starting: ValueError: no such architecture 'Foo'"
    assert "no such architecture" in rest


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    class Silent(FakeServed):
        def launch(self, port: int) -> ServerCommand:
            return ServerCommand((sys.executable, "-c", "import time; time.sleep(600)", str(tmp_path)))

    write_checkpoint(tmp_path / "ckpt")
    options = ServeOptions(log_dir=tmp_path, start_timeout=0.5)

    async def scene() -> None:
        async with Silent(ModelRef.parse(str(tmp_path / "ckpt")), options):
            pass

    with pytest.raises(ServerError, match="did not answer within"):
        asyncio.run(scene())
    assert gone(str(tmp_path), 5)


@pytest.mark.slow
def test_a_server_that_dies_in_mid_run_is_restarted_and_no_answer_is_lost(tmp_path: Path) -> None:
    async def scene(*extra: str) -> tuple[list[Answer], int]:
        async with served(tmp_path, *extra) as backend:
            asked = [backend.answer(prompt(f"question {number}", id=str(number)), GREEDY) for number in range(20)]
            return await asyncio.gather(*asked), backend.restarts

    flawless, none = asyncio.run(scene())
    answers, restarts = asyncio.run(scene("--die-after=8", f"--die-once={tmp_path}/died", "--latency=0.05"))

    assert (none, restarts) == (0, 1)
    assert [answer.turns for answer in answers] == [answer.turns for answer in flawless]
    assert all(answer.error is None for answer in answers)


@pytest.mark.slow
def test_a_prompt_that_kills_the_server_every_time_fails_alone(tmp_path: Path) -> None:
    async def scene() -> list[Answer]:
        async with served(tmp_path, "--die-on=poison", "--latency=0.02") as backend:
            words = ["poison" if number == 5 else f"question {number}" for number in range(30)]
            return await asyncio.gather(
                *(backend.answer(prompt(text, id=str(number)), GREEDY) for number, text in enumerate(words))
            )

    answers = asyncio.run(scene())

    assert [answer.prompt_id for answer in answers if answer.error is not None] == ["5"]
    assert answers[5].error is not None
    assert "this request killed the server 3 times" in answers[5].error.message


@pytest.mark.slow
def test_a_server_that_keeps_dying_ends_the_run(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, "--die-after=1") as backend:
            await asyncio.gather(*(backend.answer(prompt(id=str(number)), GREEDY) for number in range(3)))

    with pytest.raises(ServerError, match="died 4 times"):
        asyncio.run(scene())


@pytest.mark.slow
def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, "--ignore-sigterm", f"--port-file={tmp_path}/port"):
            pass

    asyncio.run(scene())
    assert not running(f"--port-file={tmp_path}/port")


SCRIPT = """
import asyncio
from pathlib import Path
from tests.servers.test_served import served
async def main():
    async with served(Path({folder!r}), "--ignore-sigterm", "--port-file={folder}/port"):
        print("up", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT))],
)
def test_no_process_outlives_the_harness_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    write_checkpoint(tmp_path / "ckpt")
    code = SCRIPT.format(folder=str(tmp_path))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"up\n"
        assert running(f"--port-file={tmp_path}/port")
        harness.send_signal(number)

    assert gone(f"--port-file={tmp_path}/port", 15)


def test_what_a_killed_warden_leaves_behind_is_killed_too(tmp_path: Path) -> None:
    class Parent(FakeServed):
        """A server with a child of its own, as vLLM's engine is."""

        def launch(self, port: int) -> ServerCommand:
            inner = super().launch(port)
            code = f"import subprocess, sys; subprocess.run({list(inner.argv)!r}, check=False)"
            return ServerCommand((sys.executable, "-c", code), inner.env)

    write_checkpoint(tmp_path / "ckpt")
    mark = f"--port-file={tmp_path}/port"

    async def scene() -> None:
        backend = Parent(ModelRef.parse(str(tmp_path / "ckpt")), ServeOptions(log_dir=tmp_path))
        backend.extra = (mark,)
        async with backend:
            assert backend.server.pid is not None
            assert running(mark)
            os.kill(backend.server.pid, signal.SIGKILL)

    asyncio.run(scene())

    assert gone(mark, 6)


# ---------------------------------------------------------------------------------------------------- what the log says


def test_the_reason_is_the_root_error_not_its_wrapper() -> None:
    log = (
        "(EngineCore pid=12) ERROR 11-23 18:14:10 [core.py:133] Traceback (most recent call last):\n"
        '(EngineCore pid=12) ERROR 11-23 18:14:10 [core.py:133]   File "x.py", line 3, in f\n'
        "(EngineCore pid=12) ERROR 11-23 18:14:10 [core.py:133] ValueError: KV cache is too small\n"
        "(APIServer pid=9) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )

    assert reason(log) == "ValueError: KV cache is too small"
    assert tail(log).splitlines()[0] == "ValueError: KV cache is too small"


def test_a_validation_error_is_given_in_its_own_words() -> None:
    log = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, Model architectures ['Foo'] are not supported. [type=value_error, input_value=Args, x=1]\n"
        "    For further information visit a page\n"
    )

    assert reason(log) == "Value error, Model architectures ['Foo'] are not supported."


def test_a_log_without_an_error_has_no_reason() -> None:
    assert reason("INFO 11-23 18:14:10 [a.py:1] all is well\n") is None
