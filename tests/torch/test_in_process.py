"""Backend in_process: a draw's text depends on the draw alone, and is what transformers' own generation gives."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.records import Answer, ModelRef, Prompt, Sampling
from harness.records.errors import ConfigError
from harness.records.protocols import Draw, ServeOptions
from harness.records.settings import ServeSpec
from recipes.in_process.backend import InProcessBackend, stream_key
from recipes.in_process.generation import choose, uniforms
from recipes.worlds.tiny import CHAT_TEMPLATE
from tests.fakes.tiny_models import make_checkpoint, random_prompts

SAMPLED = Sampling(temperature=0.8, top_p=0.95, max_tokens=12, n=3, seed=5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def backend(checkpoint: Path, **options: object) -> InProcessBackend:
    serve = ServeSpec.model_validate(options)
    return InProcessBackend(ModelRef.parse(str(checkpoint)), ServeOptions(checkpoint, **serve.model_dump()))


def draws(prompts: Sequence[Prompt], sampling: Sampling) -> list[Draw]:
    return [Draw(prompt, sampling, index) for prompt in prompts for index in range(sampling.n)]


def many(made: InProcessBackend, wanted: Sequence[Draw]) -> dict[str, Answer]:
    async def ask() -> dict[str, Answer]:
        async with made:
            return {answer.key: answer async for answer in made.answer_many(wanted)}

    return asyncio.run(ask())


def single(made: InProcessBackend, wanted: Sequence[Draw], *, places: int) -> dict[str, Answer]:
    async def ask() -> dict[str, Answer]:
        left = iter(wanted)
        found: dict[str, Answer] = {}

        async def work() -> None:
            for draw in left:
                answer = await made.answer(draw.prompt, draw.sampling, draw.index)
                found[answer.key] = answer

        async with made, asyncio.TaskGroup() as group:
            for _ in range(places):
                group.create_task(work())
        return found

    return asyncio.run(ask())


def texts(answers: dict[str, Answer]) -> dict[str, tuple[str, ...]]:
    return {key: answer.turns for key, answer in answers.items()}


@pytest.mark.slow
def test_a_text_depends_on_its_draw_alone(checkpoint: Path) -> None:
    wanted = draws(random_prompts(12), SAMPLED)
    at_once = texts(many(backend(checkpoint), wanted))

    assert len(at_once) == 36
    assert len(set(at_once.values())) > 24  # draws of one prompt differ
    assert texts(many(backend(checkpoint, engine_args=("batch_size=7",)), wanted[::-1])) == at_once
    assert texts(many(backend(checkpoint), wanted[20:23])).items() <= at_once.items()
    assert texts(single(backend(checkpoint), wanted, places=16)) == at_once


@pytest.mark.slow
def test_another_seed_gives_other_texts(checkpoint: Path) -> None:
    prompts = random_prompts(10)
    one = texts(many(backend(checkpoint), draws(prompts, SAMPLED)))
    other = texts(many(backend(checkpoint), draws(prompts, SAMPLED.model_copy(update={"seed": 6}))))

    assert sum(one[key] == other[key] for key in one) <= 3


@pytest.mark.slow
def test_greedy_is_what_transformers_generates_alone(checkpoint: Path) -> None:
    prompts = random_prompts(12, seed=3)
    found = many(backend(checkpoint), draws(prompts, Sampling(temperature=0.0, max_tokens=20)))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)

    for prompt in prompts:
        talk = [{"role": "user", "content": prompt.turns[0]}]
        ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        made = model.generate(**ids, do_sample=False, max_new_tokens=20)[0, ids["input_ids"].shape[1] :]
        answer = found[f"{prompt.id}#0"]
        assert answer.turns == (tokenizer.decode(made, skip_special_tokens=True),)
        assert answer.completion_tokens == (len(made),)
        assert answer.prompt_tokens == (ids["input_ids"].shape[1],)
        assert answer.finish == ("stop" if int(made[-1]) == tokenizer.eos_token_id else "length",)


def first_token(checkpoint: Path, prompt: Prompt) -> int:
    """The id that greedy decoding begins with."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    talk = [{"role": "user", "content": prompt.turns[0]}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    return int(model(**ids).logits[0, -1].argmax())


def test_every_end_token_ends_an_answer(tmp_path: Path) -> None:
    folder, prompt = make_checkpoint(tmp_path / "ends"), random_prompts(1)[0]
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [2, {first_token(folder, prompt)}]}}')

    answer = many(backend(folder), draws([prompt], Sampling(temperature=0.0, max_tokens=20)))["p0#0"]

    assert answer.turns == ("",)
    assert (answer.finish, answer.completion_tokens) == (("stop",), (1,))


@pytest.mark.slow
def test_a_stop_string_ends_an_answer_and_is_not_in_it(checkpoint: Path) -> None:
    prompts = random_prompts(6)
    plain = many(backend(checkpoint), draws(prompts, Sampling(temperature=0.0, max_tokens=20)))
    whole = plain["p0#0"].turns[0]
    stop = whole[3:5]

    answer = many(backend(checkpoint), draws(prompts[:1], Sampling(temperature=0.0, max_tokens=20, stop=(stop,))))

    assert answer["p0#0"].turns == (whole[: whole.index(stop)],)
    assert answer["p0#0"].finish == ("stop",)


@pytest.mark.slow
def test_a_second_turn_sees_the_first_answer(checkpoint: Path) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=8)
    talk = Prompt(id="talk", turns=("abc", "more"), category="all")
    alone = Prompt(id="alone", turns=("abc",), category="all")
    found = many(backend(checkpoint), [Draw(talk, sampling), Draw(alone, sampling)])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    assert found["talk#0"].turns[0] == found["alone#0"].turns[0]
    said = found["talk#0"].turns[0]
    messages = [("user", "abc"), ("assistant", said), ("user", "more")]
    ids = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert found["talk#0"].prompt_tokens[1] == len(ids)
    assert texts(single(backend(checkpoint), [Draw(talk, sampling)], places=1))["talk#0"] == found["talk#0"].turns


@pytest.mark.slow
def test_a_text_that_goes_on_with_the_prompts_reasoning_is_no_answer(checkpoint: Path, tmp_path: Path) -> None:
    template = tmp_path / "thinks.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}{{ opens }}")
    asked = draws(random_prompts(2), Sampling(temperature=0.0, max_tokens=8))
    options = {"chat_template": str(template), "reasoning_room": 4}

    thinking = many(backend(checkpoint, **options, chat_template_kwargs={"opens": "<think>"}), asked)
    plain = many(backend(checkpoint, **options), asked)

    assert all(answer.is_cut_in_reasoning and answer.turns == ("",) for answer in thinking.values())
    assert max(sum(answer.completion_tokens) for answer in thinking.values()) == 12  # the answer's 8 and the room's 4
    assert all(0 < sum(answer.reasoning_tokens) <= 12 for answer in thinking.values())
    assert not any(answer.reasoning for answer in plain.values())


def test_a_prompt_without_room_fails_and_the_others_are_answered(checkpoint: Path) -> None:
    long = Prompt(id="long", turns=("x" * 600,), category="all")
    found = many(backend(checkpoint), draws([long, *random_prompts(2)], Sampling(temperature=0.0, max_tokens=20)))

    assert found["long#0"].error is not None
    assert found["long#0"].error.reason == "context"
    assert found["p0#0"].error is None


def test_a_prompt_that_the_template_rejects_fails_and_the_others_are_answered(checkpoint: Path, tmp_path: Path) -> None:
    template = tmp_path / "no_system.jinja"
    refuses = "{%- if messages[0].role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}"
    template.write_text(refuses + CHAT_TEMPLATE)
    odd = Prompt(id="odd", turns=("hello",), category="all", system="be brief")
    prompts = draws([odd, *random_prompts(2)], Sampling(temperature=0.0, max_tokens=4))
    answers = many(backend(checkpoint, chat_template=str(template)), prompts)

    assert answers["odd#0"].error is not None
    assert answers["odd#0"].error.message == "the chat template rejects the conversation: no system role"
    assert answers["p0#0"].error is None


@pytest.mark.slow
def test_the_model_is_freed_at_the_end(checkpoint: Path) -> None:
    made = backend(checkpoint)

    async def use() -> weakref.ref[torch.nn.Module]:
        async with made as server:
            await server.answer(random_prompts(1)[0], SAMPLED)
            return weakref.ref(server._model.model)

    model = asyncio.run(use())
    gc.collect()
    assert model() is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tensor_parallel": 2}, "cannot honour --tensor-parallel 2"),
        ({"engine_args": ["batch_size=0"]}, "batch_size='0' is not a number of rows"),
        ({"chat_template": "fastchat:vicuna_v1.1"}, "cannot honour --chat-template 'fastchat:vicuna_v1.1'"),
    ],
)
def test_what_it_cannot_do_is_refused(checkpoint: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        backend(checkpoint, **options)


def test_a_checkpoint_whose_defaults_it_cannot_honour_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tiny")
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.05}')

    with pytest.raises(ConfigError, match=r"cannot honour repetition_penalty = 1.05 of tiny's generation_config"):
        backend(folder)


# ------------------------------------------------------------------------------------------------------ the draws


def pick(probs: Sequence[float], *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0) -> list[float]:
    """Share of each token among 20,000 draws from these probabilities."""
    rows = 20000
    logits = torch.tensor(probs).log().expand(rows, -1)
    keys = np.array([stream_key(0, "p", 0, row) for row in range(rows)], dtype=np.uint64)
    full = torch.full((rows,), 1.0)
    token = choose(logits, keys, 0, full * temperature, full * top_p, torch.full((rows,), top_k))
    shares: list[float] = (torch.bincount(token, minlength=len(probs)) / rows).tolist()
    return shares


def test_tokens_are_drawn_by_their_probability() -> None:
    # 4 standard errors of a share of 20,000 draws: at most 4 * sqrt(0.25 / 20000) = 0.0141
    assert pick([0.5, 0.3, 0.15, 0.05]) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.0142)


def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p() -> None:
    # likelier ones have 0, 0.5, 0.8, 0.95 of the probability: top_p 0.7 keeps the first two, 0.5 / 0.8 and 0.3 / 0.8
    assert pick([0.5, 0.3, 0.15, 0.05], top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.0142)
    assert pick([0.05, 0.15, 0.3, 0.5], top_p=0.1) == [0, 0, 0, 1]


def test_top_k_keeps_the_likeliest_and_the_nucleus_is_taken_of_them() -> None:
    assert pick([0.5, 0.3, 0.15, 0.05], top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.0142)
    # of the two, the first has 0.625 of the probability
    assert pick([0.5, 0.3, 0.15, 0.05], top_k=2, top_p=0.6) == [1, 0, 0, 0]


def test_a_temperature_of_two_takes_the_root_of_probabilities() -> None:
    # sqrt(0.64) : sqrt(0.36) = 0.8 : 0.6
    assert pick([0.64, 0.36], temperature=2.0) == pytest.approx([0.8 / 1.4, 0.6 / 1.4], abs=0.0142)


def test_uniforms_are_those_of_splitmix64() -> None:
    # the outputs for seed 1234567 that Rosetta Code's task of this name lists
    keys = np.array([1234567], dtype=np.uint64)

    assert uniforms(keys, 0)[0] == (6457827717110365317 >> 11) * 2.0**-53
    assert uniforms(keys, 1)[0] == (3203168211198807973 >> 11) * 2.0**-53
