"""What each backend sends, refuses and says of itself, against fakes."""

import asyncio
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import JsonValue

from harness.backends.devices import GIB
from harness.backends.endpoint import EndpointBackend
from harness.backends.scripted import ScriptedBackend
from harness.backends.server import free_port
from harness.backends.transformers import TransformersBackend
from harness.backends.vllm import VllmBackend
from harness.records import Answer, ModelRef, Prompt
from harness.records.errors import CheckpointError, ConfigError, ServerError
from harness.records.protocols import ServeOptions, installed
from tests.fakes.openai_server import CUT_OFF, FakeOpenAI, Reply, Request
from tests.fakes.toys import GREEDY, prompt
from tests.servers.test_served import FakeServed
from tests.unit.test_checkpoint import write_adapter, write_checkpoint

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")


def vllm_argv(tmp_path: Path, folder: Path, **options: Any) -> list[str]:
    backend = VllmBackend(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path, **options))
    return list(backend.launch(20000).argv)


@needs_vllm
def test_vllm_gets_every_engine_argument(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")

    argv = vllm_argv(
        tmp_path,
        folder,
        tensor_parallel=2,
        quantization="fp8",
        reasoning="deepseek_r1",
        engine_args=("--swap-space=1",),
    )

    assert argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    expected = {"--tensor-parallel-size=2", "--quantization=fp8", "--reasoning-parser=deepseek_r1", "--swap-space=1"}
    assert expected <= set(argv)
    assert "--trust-remote-code" not in argv
    assert f"--model={folder}" in argv
    assert "--served-model-name=ckpt" in argv


@needs_vllm
def test_vllm_serves_an_adapter_on_its_base(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = write_adapter(tmp_path / "tuned", str(base), r=12)

    argv = vllm_argv(tmp_path, adapter)

    assert f"--model={base}" in argv
    assert "--max-lora-rank=16" in argv
    module = argv[argv.index("--lora-modules") + 1]
    assert json.loads(module) == {"name": "tuned", "path": str(adapter)}
    # the adapter is asked for with the base's template, written out for the server
    (template,) = tmp_path.glob("chat_template-*.jinja")
    assert f"--chat-template={template}" in argv


@needs_vllm
def test_the_kv_cache_on_cpus_fits_free_memory_unless_the_user_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    monkeypatch.setattr("harness.backends.vllm.is_cpu_build", lambda: True)
    monkeypatch.setattr("harness.backends.vllm.available_memory", lambda: 42 * GIB)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)

    def space(*engine_args: str) -> str | None:
        options = ServeOptions(log_dir=tmp_path, engine_args=engine_args)
        return VllmBackend(ModelRef.parse(str(folder)), options).launch(1).env.get("VLLM_CPU_KVCACHE_SPACE")

    assert space() == "19"  # half of 42 GiB less 2 for the server and some bytes of weights
    assert space("--kv-cache-memory-bytes=9000000000") is None
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    assert space() == "3"


@needs_vllm
def test_vllm_refuses_what_would_hide_the_server(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")

    with pytest.raises(ConfigError, match="--port=8000' is set by the harness"):
        vllm_argv(tmp_path, folder, engine_args=("--port=8000",))


@needs_vllm
def test_identity_tells_engines_apart_and_names_no_place(tmp_path: Path) -> None:
    ref = ModelRef.parse(str(write_checkpoint(tmp_path / "ckpt")))
    plain = VllmBackend(ref, ServeOptions(log_dir=tmp_path)).identity()
    moved = VllmBackend(ref, ServeOptions(log_dir=tmp_path / "elsewhere", concurrency=3)).identity()
    other = VllmBackend(ref, ServeOptions(log_dir=tmp_path, max_model_len=99)).identity()

    assert plain == moved != other
    assert str(tmp_path) not in json.dumps(plain)
    assert plain["generation_config"] == {"temperature": 0.6}


def test_a_backend_refuses_what_it_cannot_honour(tmp_path: Path) -> None:
    ref = ModelRef.parse("endpoint:m@http://127.0.0.1:1/v1")

    with pytest.raises(ConfigError, match="'endpoint' cannot honour --tensor-parallel 2"):
        EndpointBackend(ref, ServeOptions(log_dir=tmp_path, tensor_parallel=2))
    with pytest.raises(ConfigError, match="cannot honour --chat-template"):
        ScriptedBackend(ModelRef.parse("echo"), ServeOptions(log_dir=tmp_path, chat_template="x.jinja"))
    with pytest.raises(ConfigError, match="served already"):
        FakeServed(ref, ServeOptions(log_dir=tmp_path))


def test_transformers_backend_turns_sampling_on(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    backend = TransformersBackend(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path))

    sampled = backend.with_sampling({"temperature": 0.7})
    assert json.loads(str(sampled["generation_config"])) == {"temperature": 0.6, "eos_token_id": 2, "do_sample": True}
    assert "generation_config" not in backend.with_sampling({"temperature": 0.0})


async def _endpoint(fake: FakeOpenAI, tmp_path: Path, asked: Prompt, name: str = "fake") -> Answer:
    backend = EndpointBackend(ModelRef.parse(f"endpoint:{name}@{fake.url}"), ServeOptions(log_dir=tmp_path))
    async with backend:
        return await backend.answer(asked, GREEDY)


def test_an_endpoint_is_asked_with_the_key_and_without_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_ENDPOINT_KEY", "sesame")

    async def scene() -> tuple[Answer, list[Request]]:
        async with FakeOpenAI(key="sesame") as fake:
            return await _endpoint(fake, tmp_path, prompt("hi")), fake.requests

    answer, requests = asyncio.run(scene())

    assert answer.error is None
    assert requests[0].key == "sesame"
    assert "seed" not in requests[0].body


def test_an_endpoints_wrong_key_or_model_ends_before_the_first_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_ENDPOINT_KEY", "open")

    async def scene(name: str, key: str) -> None:
        async with FakeOpenAI(key=key) as fake:
            await _endpoint(fake, tmp_path, prompt(), name)

    with pytest.raises(ConfigError, match=r"rejects the key \(HTTP 401: wrong key Bearer \*\*\*\)"):
        asyncio.run(scene("fake", "sesame"))
    with pytest.raises(ConfigError, match="has no model 'other'; it has: fake"):
        asyncio.run(scene("other", "open"))


def test_an_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def scene() -> None:
        async with EndpointBackend(ModelRef.parse("endpoint:m@http://127.0.0.1:9/v1"), ServeOptions(log_dir=tmp_path)):
            pass

    with pytest.raises(ServerError, match=re.escape("no server at http://127.0.0.1:9/v1")):
        asyncio.run(scene())


def test_an_endpoint_that_drops_one_connection_is_asked_again(tmp_path: Path) -> None:
    async def scene() -> Answer:
        async with FakeOpenAI(failures=[CUT_OFF]) as fake:
            return await _endpoint(fake, tmp_path, prompt())

    assert asyncio.run(scene()).error is None


def _scripted(tmp_path: Path, name: str, asked: Prompt, *engine_args: str) -> tuple[Answer, dict[str, JsonValue]]:
    backend = ScriptedBackend(ModelRef.parse(name), ServeOptions(log_dir=tmp_path, engine_args=engine_args))
    return asyncio.run(backend.answer(asked, GREEDY)), backend.identity()


def test_a_scripts_reasoning_is_split_off_and_counted_apart(tmp_path: Path) -> None:
    script = tmp_path / "thinks.jsonl"
    script.write_text(
        json.dumps({"prompt_id": "p1", "turns": ["<think>a b</think>four", "<think>c"]})
        + "\n"
        + json.dumps({"prompt_id": "q", "turns": ["five"], "reasoning": ["a b"]})
    )
    split, _ = _scripted(tmp_path, str(script), prompt("a b c", "d"))
    apart, _ = _scripted(tmp_path, str(script), prompt("a", id="q"))

    assert (split.turns, split.reasoning, split.finish) == (("four", ""), ("a b", "c"), ("stop", "length"))
    assert (split.completion_tokens, split.reasoning_tokens, split.is_split) == ((3, 1), (2, 1), True)
    assert (apart.turns, apart.reasoning, apart.is_split) == (("five",), ("a b",), False)


def test_scripted_answers_come_from_the_file(tmp_path: Path) -> None:
    script = tmp_path / "answers.jsonl"
    script.write_text('{"prompt_id": "p1", "turns": ["one two", ""]}\n')

    answer, _ = _scripted(tmp_path, str(script), prompt("a b c", "d"))
    missing, _ = _scripted(tmp_path, str(script), prompt(id="p2"))

    assert answer.turns == ("one two", "")
    assert answer.prompt_tokens == (3, 4)
    assert answer.completion_tokens == (2, 0)
    assert missing.error is not None
    assert missing.error.reason == "missing"


def test_echo_repeats_and_latency_is_no_part_of_the_identity(tmp_path: Path) -> None:
    quick, identity = _scripted(tmp_path, "echo", prompt("a", "b"))
    slow, same = _scripted(tmp_path, "echo", prompt("a", "b"), "latency=0.05")

    assert quick.turns == slow.turns == ("a", "b")
    assert slow.seconds >= 0.1
    assert identity == same


def test_a_broken_script_names_the_line(tmp_path: Path) -> None:
    script = tmp_path / "answers.jsonl"
    script.write_text('{"prompt_id": "p1", "turns": ["x"]}\n{"prompt_id": "p2"}\n')

    with pytest.raises(CheckpointError, match=r"answers.jsonl:2: not an answer"):
        _scripted(tmp_path, str(script), prompt())


def test_an_endpoint_that_starts_late_is_waited_for_if_a_patience_is_given() -> None:
    fake = FakeOpenAI(model="m", port=free_port())
    model = ModelRef.parse(f"endpoint:m@{fake.url}")

    async def enter(patience: float | None) -> None:
        options = ServeOptions(log_dir=Path(), patience=patience)
        async with EndpointBackend(model, options) as backend:
            assert (await backend.answer(prompt("p"), GREEDY)).turns

    async def scene() -> None:
        with pytest.raises(ServerError, match="no server at"):
            await enter(None)
        waiting = asyncio.create_task(enter(60))
        await asyncio.sleep(0.3)
        async with fake:
            await waiting

    asyncio.run(scene())


def test_an_endpoint_that_loads_its_model_is_waited_for() -> None:
    class Loading(FakeOpenAI):
        async def _models(self, request: web.Request) -> web.Response:
            looks.append(request.path)
            if len(looks) > 1:
                return await super()._models(request)
            return web.json_response({"error": {"message": "Loading model", "code": 503}}, status=503)

    looks: list[str] = []

    async def scene() -> None:
        async with Loading(model="m") as fake:
            model = ModelRef.parse(f"endpoint:m@{fake.url}")
            async with EndpointBackend(model, ServeOptions(log_dir=Path())) as backend:
                assert (await backend.answer(prompt("p"), GREEDY)).turns

    asyncio.run(scene())
    assert len(looks) == 2


def test_a_prompt_that_a_gateway_moderates_is_one_failed_answer() -> None:
    moderated = Reply(text="The model requires moderation and the input was flagged", status=403)

    async def scene() -> list[Answer]:
        async with FakeOpenAI(model="m", failures=[moderated]) as fake:
            model = ModelRef.parse(f"endpoint:m@{fake.url}")
            async with EndpointBackend(model, ServeOptions(log_dir=Path())) as backend:
                return [await backend.answer(prompt("p"), GREEDY) for _ in range(2)]

    first, second = asyncio.run(scene())
    assert first.error is not None
    assert first.error.reason == "content_filter"
    assert second.error is None


def test_a_function_call_is_no_answer() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    body = {"choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}]}

    async def scene() -> Answer:
        async with FakeOpenAI(model="m", reply=lambda request: Reply(body=body)) as fake:
            model = ModelRef.parse(f"endpoint:m@{fake.url}")
            async with EndpointBackend(model, ServeOptions(log_dir=Path())) as backend:
                return await backend.answer(prompt("p"), GREEDY)

    error = asyncio.run(scene()).error
    assert error is not None
    assert error.message == "the model called a function instead of answering"


def test_only_ensembles_are_told_all_draws_beforehand() -> None:
    """The protocol is recognised by its method's name, which no other backend may use for something else."""
    telling = {name for name, plugin in installed("backends").items() if hasattr(plugin.load(), "prepare_draws")}

    assert telling == {"best_of", "moa", "route"}
