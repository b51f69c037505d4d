"""Asking, serving, dying and stopping, against fakes. Tests with a real vLLM are in test_vllm.py."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fake_openai import BAD_429, BAD_500, CUT_OFF, TOO_LONG, FakeOpenAI, Reply, Request
from processes import gone, running
from pydantic import JsonValue
from test_checkpoint import write_adapter, write_checkpoint

from harness.backends import fastchat
from harness.backends.chat import Asker, ChatCompletions, Context, Dialogue, Message, request_seed
from harness.backends.endpoint import EndpointBackend
from harness.backends.logs import reason, tail
from harness.backends.scripted import ScriptedBackend
from harness.backends.served import ServedBackend
from harness.backends.server import Launch
from harness.backends.transformers import TransformersBackend
from harness.backends.vllm import VllmBackend
from harness.client import ChatClient
from harness.errors import CheckpointError, ConfigError, ServerError
from harness.protocols import ServeOptions
from harness.records import Answer, ModelRef, Prompt, Sampling

FAKE = str(Path(__file__).with_name("fake_openai.py"))
GREEDY = Sampling(temperature=0.0, max_tokens=16)
EXPECTED_SEED = 145888465  # sha256("7|p1|0|0"), first 8 bytes, modulo 2**31
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")


def prompt(*turns: str, id: str = "p1", system: str | None = None) -> Prompt:
    return Prompt(id=id, turns=turns or ("hi",), category="toy", system=system)


async def ask(
    fake: FakeOpenAI, asked: Prompt, sampling: Sampling = GREEDY, *, limit: int | None = None, index: int = 0
) -> Answer:
    """One answer through a client of its own; the template is said to add 4 tokens, and 2 for each further message."""
    context = Context(limit, overhead=4, per_message=2)
    async with ChatClient(fake.url.removesuffix("/v1"), attempts=3, first_wait=0.01) as client:
        asker = Asker(ChatCompletions(client.post, "fake", tokenize=fake.tokenize is not None), context, "toy", seed=7)
        return await asker.answer(asked, sampling, index)


# ---------------------------------------------------------------------------------------------------------- asking


async def _two_turns() -> tuple[Answer, list[Request]]:
    async with FakeOpenAI(reply=lambda request: f"reply {len(request.messages)}") as fake:
        answer = await ask(fake, prompt("one", "two", system="be kind"), Sampling(max_tokens=5, stop=("END",)))
    return answer, fake.requests


def test_second_turn_carries_the_first_answer() -> None:
    answer, requests = asyncio.run(_two_turns())

    assert answer.turns == ("reply 2", "reply 4")
    assert answer.finish == ("stop", "stop")
    assert answer.completion_tokens == (2, 2)
    roles = [message["role"] for message in requests[1].messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert requests[1].messages[2]["content"] == "reply 2"


def test_what_the_sampling_leaves_open_is_not_sent() -> None:
    _, requests = asyncio.run(_two_turns())

    assert set(requests[0].body) == {"model", "messages", "max_tokens", "stop", "seed"}
    assert requests[0].body["stop"] == ["END"]


def test_seeds_differ_by_prompt_turn_and_draw_and_never_by_run() -> None:
    seeds = [request_seed(7, "p1", 0, 0), request_seed(7, "p1", 1, 0), request_seed(7, "p1", 0, 1)]
    seeds += [request_seed(7, "p2", 0, 0), request_seed(8, "p1", 0, 0)]

    assert len(set(seeds)) == 5
    assert request_seed(7, "p1", 0, 0) == seeds[0] == EXPECTED_SEED
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_an_empty_text_is_an_answer() -> None:
    async def scene() -> Answer:
        async with FakeOpenAI(reply=lambda _: Reply(text="", finish="length")) as fake:
            return await ask(fake, prompt())

    answer = asyncio.run(scene())

    assert answer.error is None
    assert answer.turns == ("",)
    assert answer.truncated


def test_failures_that_pass_are_retried_and_leave_no_trace() -> None:
    async def scene() -> tuple[Answer, int]:
        async with FakeOpenAI(failures=[BAD_429, BAD_500]) as fake:
            return await ask(fake, prompt()), len(fake.requests)

    answer, requests = asyncio.run(scene())

    assert answer.error is None
    assert requests == 3


def test_a_refused_context_is_a_failure_not_an_answer() -> None:
    async def scene() -> Answer:
        async with FakeOpenAI(failures=[TOO_LONG]) as fake:
            return await ask(fake, prompt())

    answer = asyncio.run(scene())

    assert answer.error is not None
    assert answer.error.reason == "context"
    assert answer.turns == ()


# --------------------------------------------------------------------------------------------------------- context


def count_words(body: dict[str, Any]) -> list[int]:
    return [9] * sum(len(message["content"].split()) for message in body["messages"])


def room(words: str, max_tokens: int, limit: int) -> tuple[Answer, list[Request], int]:
    async def scene() -> tuple[Answer, list[Request], int]:
        async with FakeOpenAI(tokenize=count_words) as fake:
            answer = await ask(fake, prompt(words), Sampling(max_tokens=max_tokens), limit=limit)
            return answer, fake.requests, len(fake.tokenized)

    return asyncio.run(scene())


def test_bytes_that_prove_a_fit_cost_no_count() -> None:
    # 2 bytes + 4 overhead + 16 = 22
    _, requests, counted = room("hi", 16, limit=22)

    assert counted == 0
    assert requests[0].body["max_tokens"] == 16


def test_a_prompt_that_might_not_fit_is_counted() -> None:
    _, requests, counted = room("hi", 16, limit=21)

    assert counted == 1
    assert requests[0].body["max_tokens"] == 16  # one token of prompt leaves 20


def test_the_limit_is_lowered_to_the_room_left() -> None:
    # 100 words of 900: 800 left, 800 of the 1000 asked for
    _, requests, _ = room("word " * 100, 1000, limit=900)

    assert requests[0].body["max_tokens"] == 800


def test_no_room_to_answer_is_context_and_nothing_is_sent() -> None:
    # 700 words of 900 leave 200, less than min(1000, 256)
    answer, requests, _ = room("word " * 700, 1000, limit=900)

    assert answer.error is not None
    assert answer.error.reason == "context"
    assert "700 tokens leave 200 of 900" in answer.error.message
    assert requests == []


def test_multibyte_text_is_measured_in_bytes() -> None:
    fits = Context(100, overhead=0).surely_fits

    assert fits([Message("user", "é" * 40)], 20)
    assert not fits([Message("user", "é" * 41)], 20)


# ---------------------------------------------------------------------------------------------- a process of ours


class FakeServed(ServedBackend):
    """The fake server under the same supervision as vLLM."""

    name = "fake"
    extra: tuple[str, ...] = ()

    def launch(self, port: int) -> Launch:
        return Launch((sys.executable, FAKE, f"--port={port}", f"--model={self.label}", *self.extra))

    def engine(self) -> dict[str, JsonValue]:
        return {}

    async def prepare(self, dialogue: Dialogue) -> Context:
        return Context(None)


def served(tmp_path: Path, *extra: str, start_timeout: float = 30.0) -> FakeServed:
    folder = tmp_path / "ckpt"
    folder = folder if folder.exists() else write_checkpoint(folder)
    backend = FakeServed(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path, start_timeout=start_timeout))
    backend.extra = extra
    return backend


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

    begin = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        asyncio.run(scene())

    first, _, rest = str(error.value).partition("\n")
    assert first == "fake server of ckpt ended while starting: ValueError: no such architecture 'Foo'"
    assert "no such architecture" in rest
    assert time.monotonic() - begin < 20


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    class Silent(FakeServed):
        def launch(self, port: int) -> Launch:
            return Launch((sys.executable, "-c", "import time; time.sleep(600)", str(tmp_path)))

    write_checkpoint(tmp_path / "ckpt")
    options = ServeOptions(log_dir=tmp_path, start_timeout=0.5)

    async def scene() -> None:
        async with Silent(ModelRef.parse(str(tmp_path / "ckpt")), options):
            pass

    with pytest.raises(ServerError, match="did not answer within"):
        asyncio.run(scene())
    assert gone(str(tmp_path), 5)


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
    assert "died 3 times of this request" in answers[5].error.message


def test_a_server_that_keeps_dying_ends_the_run(tmp_path: Path) -> None:
    async def scene() -> None:
        async with served(tmp_path, "--die-after=1") as backend:
            await asyncio.gather(*(backend.answer(prompt(id=str(number)), GREEDY) for number in range(3)))

    with pytest.raises(ServerError, match="died 4 times"):
        asyncio.run(scene())


def test_a_server_that_ignores_sigterm_is_killed_within_five_seconds(tmp_path: Path) -> None:
    async def scene() -> float:
        async with served(tmp_path, "--ignore-sigterm", f"--port-file={tmp_path}/port"):
            begin = time.monotonic()
        return time.monotonic() - begin

    assert asyncio.run(scene()) < 5
    assert not running(f"--port-file={tmp_path}/port")


SCRIPT = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_backends import served
async def main():
    async with served(Path({folder!r}), "--ignore-sigterm", "--port-file={folder}/port"):
        print("up", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_harness_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    write_checkpoint(tmp_path / "ckpt")
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"up\n"
        assert running(f"--port-file={tmp_path}/port")
        harness.send_signal(number)

    assert gone(f"--port-file={tmp_path}/port", 15)


def test_what_a_killed_warden_leaves_behind_is_killed_too(tmp_path: Path) -> None:
    class Parent(FakeServed):
        """A server with a child of its own, as vLLM's engine is."""

        def launch(self, port: int) -> Launch:
            inner = super().launch(port)
            code = f"import subprocess, sys; subprocess.run({list(inner.argv)!r}, check=False)"
            return Launch((sys.executable, "-c", code), inner.env)

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


# ------------------------------------------------------------------------------------------- what the log says


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


# ------------------------------------------------------------------------------------------------------- fastchat


def test_fastchat_prompt_is_fschats_own() -> None:
    conversation = pytest.importorskip("fastchat.conversation").get_conv_template("vicuna_v1.1")
    conversation.append_message(conversation.roles[0], "one")
    conversation.append_message(conversation.roles[1], "answer")
    conversation.append_message(conversation.roles[0], "two")
    conversation.append_message(conversation.roles[1], None)

    messages = [Message("user", "one"), Message("assistant", "answer"), Message("user", "two")]
    assert fastchat.render("vicuna_v1.1", messages) == conversation.get_prompt()


def test_an_unknown_fastchat_template_lists_some_and_says_how_to_see_all() -> None:
    pytest.importorskip("fastchat.conversation")

    with pytest.raises(CheckpointError, match=r"no conversation template 'nope'; some of its \d+: .*python -c"):
        fastchat.conversation("nope")


def fastchat_request(template: str) -> tuple[Answer, Request]:
    pytest.importorskip("fastchat.conversation")

    async def scene() -> tuple[Answer, Request]:
        async with FakeOpenAI(reply=lambda _: "  four \n") as fake:
            async with ChatClient(fake.url.removesuffix("/v1")) as client:
                made = fastchat.FastChatCompletions(client.post, "fake", template, bos_token="<s>")
                answer = await Asker(made, Context(None), "toy").answer(prompt("2+2?"), GREEDY)
            return answer, fake.requests[0]

    return asyncio.run(scene())


def test_fastchat_answers_come_from_completions_with_the_templates_stops() -> None:
    answer, request = fastchat_request("Robin")

    assert answer.turns == ("four",)
    assert request.path == "/v1/completions"
    assert request.body["stop"] == ["###"]
    assert request.body["stop_token_ids"] == [2, 396]


def test_a_fastchat_text_that_begins_with_bos_gets_no_second_one() -> None:
    _, with_bos = fastchat_request("llama2-chinese")
    _, without = fastchat_request("Robin")

    assert with_bos.last.startswith("<s>")
    assert with_bos.body["add_special_tokens"] is False
    assert without.body["add_special_tokens"] is True


def test_a_template_of_a_hosted_model_is_refused() -> None:
    pytest.importorskip("fastchat.conversation")

    with pytest.raises(CheckpointError, match="has no text form"):
        fastchat.template_digest("chatgpt")


def test_template_digest_changes_with_the_template() -> None:
    pytest.importorskip("fastchat.conversation")

    assert fastchat.template_digest("vicuna_v1.1") == fastchat.template_digest("vicuna_v1.1")
    assert fastchat.template_digest("vicuna_v1.1") != fastchat.template_digest("zephyr")


# ------------------------------------------------------------------------------------------------------- backends


def vllm_argv(tmp_path: Path, folder: Path, **options: Any) -> list[str]:
    backend = VllmBackend(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path, **options))
    return list(backend.launch(20000).argv)


@needs_vllm
def test_vllm_gets_every_engine_argument(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")

    argv = vllm_argv(
        tmp_path, folder, tensor_parallel=2, quantization="fp8", reasoning_parser="r1", engine_args=("--swap-space=1",)
    )

    assert argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    expected = {"--tensor-parallel-size=2", "--quantization=fp8", "--reasoning-parser=r1", "--swap-space=1"}
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
    module = next(word for word in argv if word.startswith("--lora-modules="))
    assert json.loads(module.partition("=")[2]) == {"name": "tuned", "path": str(adapter)}
    # the adapter is asked for with the base's template, written out for the server
    (template,) = tmp_path.glob("chat_template-*.jinja")
    assert f"--chat-template={template}" in argv


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

    with pytest.raises(ConfigError, match="refuses the key"):
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
