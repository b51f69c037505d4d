"""SGLang's flags, start, death and replies, by a stand-in process that speaks them; no real SGLang runs here."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.backends.server import reason, stage_of
from harness.backends.sglang import SglangBackend
from harness.records import Answer, ModelRef
from harness.records.errors import CheckpointError, ConfigError
from harness.records.protocols import ServeOptions
from tests.fakes.commands import Done
from tests.fakes.processes import running
from tests.fakes.sglang_server import as_package
from tests.fakes.toys import GREEDY, prompt
from tests.unit.test_checkpoint import write_adapter, write_checkpoint

THINKS = "{% for message in messages %}{{ message.content }}{% endfor %}{# </think> #}"


@pytest.fixture
def notes(tmp_path: Path, installed: Callable[[str, Path], Path]) -> Path:
    """The stand-in is the installed SGLang; the file has a line of JSON per start."""
    return installed("harness.backends.sglang.check_loadable", as_package(tmp_path / "packages"))


def starts(notes: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


def backend_of(tmp_path: Path, **options: object) -> SglangBackend:
    folder = tmp_path / "ckpt"
    folder = folder if folder.exists() else write_checkpoint(folder)
    served = replace(ServeOptions(log_dir=tmp_path, start_timeout=60.0), **options)  # type: ignore[arg-type]
    return SglangBackend(ModelRef.parse(str(folder)), served)


async def answers(backend: SglangBackend, count: int = 1) -> list[Answer]:
    async with backend:
        asked = [backend.answer(prompt(f"question {number}", id=str(number)), GREEDY) for number in range(count)]
        return await asyncio.gather(*asked)


def test_every_option_becomes_its_flag(tmp_path: Path, notes: Path) -> None:
    (tmp_path / "own.jinja").write_text(THINKS)
    backend = backend_of(
        tmp_path,
        tensor_parallel=2,
        pipeline_parallel=2,
        data_parallel=3,
        dtype="bfloat16",
        quantization="fp8",
        max_model_len=1000,
        chat_template=str(tmp_path / "own.jinja"),
        devices="4,5",
        seed=7,
        trust_remote_code=True,
        engine_args=("--mem-fraction-static=0.8",),
    )

    command = backend.launch(4321)

    template = next(tmp_path.glob("chat_template-*.jinja"))
    assert template.read_text() == THINKS
    assert command.argv[:3] == (sys.executable, "-m", "sglang.launch_server")
    assert command.argv[3:] == (
        f"--model-path={tmp_path / 'ckpt'}",
        "--served-model-name=ckpt",
        "--host=127.0.0.1",
        "--port=4321",
        "--random-seed=7",
        "--log-level-http=warning",
        "--tensor-parallel-size=2",
        "--pipeline-parallel-size=2",
        "--data-parallel-size=3",
        "--dtype=bfloat16",
        "--quantization=fp8",
        "--context-length=1000",
        "--reasoning-parser=deepseek-r1",
        "--trust-remote-code",
        f"--chat-template={template}",
        "--mem-fraction-static=0.8",
    )
    assert command.env["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert backend.engine()["reasoning_parser"] == "deepseek-r1"


def test_it_is_waited_for_and_leaves_no_process(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_LOADING", "1.5")
    backend = backend_of(tmp_path, max_model_len=700, devices="1")

    async def scene() -> tuple[Answer, int | None]:
        async with backend:
            assert backend._asker is not None
            return await backend.answer(prompt("two words"), GREEDY), backend._asker.context.max_model_len

    answer, length = asyncio.run(scene())

    assert answer.turns[0].endswith("to 'two words'")
    assert length == 700
    assert [start["devices"] for start in starts(notes)] == ["1"]
    assert not running(f"--port={backend.server.port}")


@pytest.mark.slow
def test_a_death_in_mid_run_restarts_it_and_loses_no_answer(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_DIE_AFTER", "5")
    backend = backend_of(tmp_path)

    texts = asyncio.run(answers(backend, count=12))

    assert (backend.restarts, len(starts(notes))) == (1, 2)
    assert all(answer.error is None for answer in texts)


def test_an_argument_that_it_does_not_know_is_the_reason(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ended while starting: .*--no-such-flag"):
        asyncio.run(answers(backend_of(tmp_path, engine_args=("--no-such-flag",))))


@pytest.mark.parametrize("parser", ["deepseek-r1", "off"])
def test_reasoning_is_apart_with_and_without_a_parser(tmp_path: Path, notes: Path, parser: str) -> None:
    (answer,) = asyncio.run(answers(backend_of(tmp_path, reasoning=parser)))

    assert answer.turns[0].endswith("to 'question 0'")
    assert answer.reasoning == ("It was thought about.",)


def test_the_parser_has_sglangs_name_or_is_left_out(tmp_path: Path, notes: Path) -> None:
    (tmp_path / "gpt.jinja").write_text("<|channel|>")
    (tmp_path / "cohere.jinja").write_text("<|START_THINKING|>")

    assert backend_of(tmp_path, chat_template=str(tmp_path / "gpt.jinja")).parser == "gpt-oss"
    assert backend_of(tmp_path).parser is None
    with pytest.raises(CheckpointError, match="marks its reasoning with"):
        backend_of(tmp_path, chat_template=str(tmp_path / "cohere.jinja"))
    with pytest.raises(ConfigError, match=r"reasoning parser of this SGLang.*deepseek-r1, gpt-oss, qwen3"):
        backend_of(tmp_path, reasoning="deepseek_r1")


def test_marks_that_are_special_tokens_are_refused_unless_a_parser_is_named(tmp_path: Path, notes: Path) -> None:
    (tmp_path / "r1.jinja").write_text("{{ messages[0].content }}{# </think> #}<think>")
    template = str(tmp_path / "r1.jinja")

    assert backend_of(tmp_path, chat_template=template).parser == "deepseek-r1"
    added = {"added_tokens": [{"id": 1, "content": "</think>", "special": True}]}
    (tmp_path / "ckpt" / "tokenizer.json").write_text(json.dumps(added))
    with pytest.raises(CheckpointError, match="marks its reasoning with '</think>', which SGLang leaves out"):
        backend_of(tmp_path, chat_template=template)
    assert backend_of(tmp_path, chat_template=template, reasoning="qwen3").parser == "qwen3"


def test_what_it_cannot_serve_is_refused(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(ConfigError, match="set by the harness"):
        backend_of(tmp_path, engine_args=("--tp-size=2",))
    with pytest.raises(ConfigError, match="fastchat:vicuna_v1"):
        backend_of(tmp_path, chat_template="fastchat:vicuna_v1.1")
    adapter = write_adapter(tmp_path / "tuned", str(tmp_path / "ckpt"))
    with pytest.raises(CheckpointError, match="PEFT adapter"):
        SglangBackend(ModelRef.parse(str(adapter)), ServeOptions(log_dir=tmp_path))


def test_without_sglang_it_says_what_to_do(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt")
    with pytest.raises(ConfigError, match="needs the package sglang"):
        backend_of(tmp_path)


def test_its_log_says_why_it_died_and_what_it_does() -> None:
    log = (
        "[2026-11-23 18:14:10 TP0] Load weight begin. avail mem=78.50 GB\n"
        "[2026-11-23 18:14:11 TP0] Scheduler hit an exception: Traceback (most recent call last):\n"
        '  File "/x/scheduler.py", line 3, in run\n'
        "ValueError: unsupported architecture\n"
        "[2026-11-23 18:14:12] RuntimeError: Initialization failed. Please see the error messages above.\n"
    )

    assert reason(log) == "ValueError: unsupported architecture"
    assert stage_of(log.splitlines()[0]) == "loading weights"


@pytest.mark.slow
def test_a_run_ends_in_a_card(tmp_path: Path, notes: Path, harness: Callable[..., Done]) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (tmp_path / "own.yaml").write_text(
        "prompts: [{id: a, prompt: Say hello., reference: hello}]\n"
        "judge: {kind: checks, checks: [contains_reference]}\nsampling: {max_tokens: 16}\n"
    )

    words = ("run", "--model", str(folder), "--backend", "sglang", "--suite", "own.yaml", "--reasoning", "off")
    done = harness(*words, "--json")

    assert done.code == 0, done.err
    assert json.loads(done.out)["cards"][0]["complete"]
