"""The real vLLM: `vllm_checkpoint` (tests/conftest.py) is a small trained one. Slow: each test starts a server."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.backends.adapters import SharedServer
from harness.backends.transformers import TransformersBackend
from harness.backends.vllm import VllmBackend
from harness.records import Answer, ModelRef, Prompt, Sampling
from harness.records.errors import CheckpointError
from harness.records.protocols import ServeOptions
from harness.records.settings import ServeSpec
from recipes.likelihood import PairLogps, Texts, score_pairs
from recipes.sampling import Sampler

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")]
GREEDY = Sampling(temperature=0.0, max_tokens=24)


@pytest.fixture
def changed(vllm_checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the checkpoint with fields of its config.json replaced."""

    def change(**fields: object) -> Path:
        folder = Path(shutil.copytree(vllm_checkpoint, tmp_path / "changed"))
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        return folder

    return change


def vllm(folder: Path, tmp_path: Path, chat_template: str | None = None) -> VllmBackend:
    options = ServeOptions(log_dir=tmp_path, chat_template=chat_template, start_timeout=400)
    return VllmBackend(ModelRef.parse(str(folder)), options)


async def answers(backend: VllmBackend | TransformersBackend, sampling: Sampling = GREEDY) -> list[Answer]:
    prompts = [Prompt(id=f"p{number}", turns=(f"Say {number}.", "Again."), category="toy") for number in range(8)]
    async with backend:
        return await asyncio.gather(*(backend.answer(prompt, sampling) for prompt in prompts))


def refusal(backend: VllmBackend) -> str:
    with pytest.raises(CheckpointError) as error:
        asyncio.run(answers(backend))
    return str(error.value)


def test_seeded_answers_repeat_and_long_prompts_do_not_kill_the_engine(vllm_checkpoint: Path, tmp_path: Path) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=24, seed=5)
    long = Prompt(id="long", turns=("word " * 1500,), category="toy")

    async def scene() -> tuple[list[Answer], int]:
        async with vllm(vllm_checkpoint, tmp_path) as backend:
            prompts = [Prompt(id=f"p{number}", turns=("Say it.",), category="toy") for number in range(8)]
            asked = [backend.answer(prompt, sampling) for prompt in (*prompts, long, *prompts)]
            return await asyncio.gather(*asked), backend.restarts

    found, restarts = asyncio.run(scene())

    assert restarts == 0
    assert [answer.turns for answer in found[:8]] == [answer.turns for answer in found[9:]]
    assert len({answer.turns for answer in found[:8]}) > 1
    assert found[8].error is None or found[8].error.reason == "context"


def test_an_unknown_architecture_is_one_sentence_with_the_logs_end(
    changed: Callable[..., Path], tmp_path: Path
) -> None:
    said = refusal(vllm(changed(architectures=["NoSuchForCausalLM"], model_type="no_such"), tmp_path))

    assert "ended while starting" in said.splitlines()[0]
    assert "no_such" in said.splitlines()[0]
    assert "last lines of" in said.splitlines()[1]


def test_weights_of_another_shape_are_refused_before_a_server_starts(
    changed: Callable[..., Path], tmp_path: Path
) -> None:
    said = refusal(vllm(changed(intermediate_size=1024), tmp_path))

    assert "mlp" in said
    assert "ended while starting" not in said


def test_a_doubled_bos_token_is_refused(changed: Callable[..., Path], tmp_path: Path) -> None:
    folder = changed()
    bos = json.loads((folder / "tokenizer_config.json").read_text())["bos_token"]
    text = bos if isinstance(bos, str) else bos["content"]
    template = tmp_path / "doubled.jinja"
    template.write_text(text * 2 + "{% for m in messages %}{{ m['content'] }}{% endfor %}")

    assert "two BOS tokens" in refusal(vllm(folder, tmp_path, str(template)))


def test_a_killed_server_is_restarted_and_no_answer_is_lost(vllm_checkpoint: Path, tmp_path: Path) -> None:
    prompts = [Prompt(id=f"p{number}", turns=(f"Say {number}.",), category="toy") for number in range(64)]

    async def scene() -> tuple[list[Answer], int]:
        async with vllm(vllm_checkpoint, tmp_path) as backend:
            asked = [asyncio.ensure_future(backend.answer(prompt, GREEDY)) for prompt in prompts]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert backend.server.pid is not None
            os.kill(backend.server.pid, signal.SIGKILL)  # the warden: the server below it dies with it
            return await asyncio.gather(*asked), backend.restarts

    found, restarts = asyncio.run(scene())

    assert restarts == 1
    assert all(answer.error is None for answer in found)


def test_a_lora_adapter_is_served_on_its_base(vllm_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    _train_nothing(vllm_checkpoint, folder)

    found = asyncio.run(answers(vllm(folder, tmp_path)))

    assert all(answer.error is None for answer in found)
    assert {answer.model for answer in found} == {"tuned"}


def _train_nothing(base: Path, folder: Path) -> None:
    """A rank-4 adapter with random weights."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(folder)


def test_a_fastchat_template_serves_a_checkpoint_without_one(changed: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("fastchat.conversation")
    folder = changed()
    for name in ("chat_template.jinja", "chat_template.json"):
        (folder / name).unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    found = asyncio.run(answers(vllm(folder, tmp_path, "fastchat:vicuna_v1.1")))

    assert all(answer.error is None for answer in found)


def test_transformers_serve_answers_and_repeats(vllm_checkpoint: Path, tmp_path: Path) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=8, seed=5)

    def once() -> list[tuple[str, ...]]:
        options = ServeOptions(log_dir=tmp_path, start_timeout=400)
        backend = TransformersBackend(ModelRef.parse(str(vllm_checkpoint)), options)
        return [answer.turns for answer in asyncio.run(answers(backend, sampling))]

    first = once()

    assert all(len(turns) == 2 for turns in first)
    assert once() == first


def test_transformers_serve_leaves_too_long_prompts_unscored(vllm_checkpoint: Path, tmp_path: Path) -> None:
    async def scene() -> tuple[Answer, str]:
        options = ServeOptions(log_dir=tmp_path, start_timeout=400)
        async with TransformersBackend(ModelRef.parse(str(vllm_checkpoint)), options) as backend:
            limit = backend.checkpoint.max_position
            assert limit is not None
            return await backend.answer(Prompt(id="long", turns=("word " * limit,), category="toy"), GREEDY), str(limit)

    answer, limit = asyncio.run(scene())

    assert answer.error is not None
    assert answer.error.reason == "context"
    assert f"of {limit} for an answer" in answer.error.message


def test_one_server_serves_all_adapters_of_a_base(vllm_checkpoint: Path, tmp_path: Path) -> None:
    """Known at the start, loaded while it runs, and again after its death; each answers as itself."""
    folders = [tmp_path / name for name in ("one", "two", "later")]
    for folder in folders:
        _train_nothing(vllm_checkpoint, folder)
    kept = SharedServer(grows=True)
    texts: list[list[tuple[str, ...]]] = []
    pids = set()

    async def ask(backend: VllmBackend, *, kill: bool = False) -> list[tuple[str, ...]]:
        async with backend:
            pids.add(backend.server.pid)
            if kill:
                assert backend.server.pid is not None
                os.kill(backend.server.pid, signal.SIGKILL)
            prompts = [Prompt(id=f"p{number}", turns=(f"Say {number}.",), category="toy") for number in range(8)]
            answers = await asyncio.gather(*(backend.answer(prompt, GREEDY) for prompt in prompts))
            assert all(answer.error is None for answer in answers), [answer.error for answer in answers]
            assert {answer.model for answer in answers} == {backend.label}
            return [answer.turns for answer in answers]

    try:
        for position, folder in enumerate(folders):
            backend = vllm(folder, tmp_path)
            kept.adopt(backend, later=[vllm(folders[1], tmp_path)] if position == 0 else [])
            texts.append(asyncio.run(ask(backend)))
        assert len(pids) == 1
        again = vllm(folders[1], tmp_path)
        kept.adopt(again)
        texts.append(asyncio.run(ask(again, kill=True)))
        assert again.restarts == 1
    finally:
        kept.close()

    one, two, later, two_again = texts
    assert one != two
    assert two != later
    assert one != later
    assert two_again == two


def test_log_probabilities_of_given_answers_equal_those_of_the_model_in_this_process(
    vllm_checkpoint: Path, tmp_path: Path
) -> None:
    pairs = [
        Texts(Prompt(id=f"p{number}", turns=(f"Say {number}.",), category="toy"), (answer, f"{answer} {answer}", "No."))
        for number, answer in enumerate(("Yes.", "A longer answer, with a comma.", "3 + 4 = 7"))
    ]

    def rows(backend: str) -> dict[str, PairLogps]:
        folder = tmp_path / backend
        folder.mkdir()
        serve = ServeSpec()
        score_pairs(Sampler("a", ModelRef.parse(str(vllm_checkpoint)), backend, serve, 0, 0.0), pairs, folder)
        lines = (folder / "logps.jsonl").read_text().splitlines()
        return {row.prompt_id: row for row in map(PairLogps.model_validate_json, lines)}

    served, local = rows("vllm"), rows("in_process")

    for name, row in local.items():
        assert served[name].tokens == row.tokens
        assert served[name].per_token == pytest.approx(row.per_token, abs=0.01)  # the server's kernels round otherwise
        assert row.per_token is not None
        assert max(row.per_token) < -0.001  # so that equal is not equally certain
