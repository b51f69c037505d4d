"""How a model is asked: turns, seeds, retries, room in the context; FastChat's templates."""

import asyncio
from typing import Any

import pytest

from harness.backends import served as fastchat
from harness.backends.chat import Asker, ChatCompletions, ContextWindow, Message, request_seed
from harness.client import CallLimits, ChatClient
from harness.records import Answer, Prompt, Sampling
from harness.records.errors import CheckpointError
from tests.fakes.openai_server import BAD_429, BAD_500, TOO_LONG, FakeOpenAI, Reply, Request
from tests.fakes.toys import GREEDY, prompt

EXPECTED_SEED = 145888465  # sha256("7|p1|0|0"), first 8 bytes, modulo 2**31


async def ask(
    fake: FakeOpenAI, asked: Prompt, sampling: Sampling = GREEDY, *, limit: int | None = None, index: int = 0
) -> Answer:
    """One answer through a client of its own; the template is said to add 4 tokens, and 2 for each further message."""
    context = ContextWindow(limit, overhead=4, per_message=2)
    async with ChatClient(fake.url.removesuffix("/v1"), CallLimits(attempts=3, first_wait=0.01)) as client:
        asker = Asker(ChatCompletions(client.post, "fake", tokenize=fake.tokenize is not None), context, "toy", seed=7)
        return await asker.answer(asked, sampling, index)


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


# -------------------------------------------------------------------------------------------------------------- context


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
    fits = ContextWindow(100, overhead=0).surely_fits

    assert fits([Message("user", "é" * 40)], 20)
    assert not fits([Message("user", "é" * 41)], 20)


# ------------------------------------------------------------------------------------------------------------- fastchat


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
                answer = await Asker(made, ContextWindow(None), "toy").answer(prompt("2+2?"), GREEDY)
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
