"""What servers send is read in all its forms; what is no answer is a failure with its reason, never a crash."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.client import ChatReply, model_entries, read_chat_reply
from harness.records.errors import ReplyError


def body(
    content: object, finish: str = "stop", *, usage: object = None, logprobs: object = None, **more: object
) -> Any:
    message = {"role": "assistant", "content": content, **more}
    return {"choices": [{"message": message, "finish_reason": finish, "logprobs": logprobs}], "usage": usage}


def reason_of(reply: object, **options: bool) -> str:
    with pytest.raises(ReplyError) as error:
        read_chat_reply(reply, **options)  # type: ignore[arg-type]  # what a server may send
    return error.value.reason


@pytest.mark.parametrize(
    "reply",
    [
        body(["a"]),
        body([{"type": "image_url", "image_url": {}}]),
        body([{"type": "text", "text": 5}]),
        body(5),
        body(None, tool_calls=[{"id": "1"}]),
        {"choices": [{"message": "a"}]},
        {"choices": ["a"]},
        {"choices": []},
        {},
    ],
)
def test_a_reply_of_another_form_is_a_failure_not_a_crash(reply: dict[str, object]) -> None:
    with pytest.raises(ReplyError, match="not a chat completion"):
        read_chat_reply(reply)


def test_text_parts_are_joined_and_thinking_parts_are_reasoning() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "3? "}, {"type": "text", "text": "No, 9."}]}
    parts = [thinking, {"type": "text", "text": "Rating: "}, {"type": "text", "text": "[[9]]"}]

    reply = read_chat_reply(body(parts))

    assert (reply.text, reply.reasoning) == ("Rating: [[9]]", "3? No, 9.")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_a_reasoning_parser_sends_apart_stays_apart_and_its_tokens_are_counted(name: str) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}

    reply = read_chat_reply(body("42", usage=usage, **{name: "secret"}))

    assert (reply.text, reply.reasoning) == ("42", "secret")
    assert (reply.prompt_tokens, reply.completion_tokens, reply.reasoning_tokens) == (9, 40, 30)


def test_a_reply_cut_while_reasoning_has_no_text() -> None:
    reply = read_chat_reply(body(None, "length", reasoning_content="hmm"))

    assert (reply.text, reply.reasoning, reply.finish) == ("", "hmm", "length")


def test_the_words_of_a_refusal_are_the_answer() -> None:
    assert read_chat_reply(body(None, refusal="I cannot help.")).text == "I cannot help."
    assert read_chat_reply(body([{"type": "refusal", "refusal": "No."}])).text == "No."


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        *[
            (finish, "content_filter")
            for finish in ("content_filter", "content_filter: SAFETY", "SAFETY", "RECITATION")
        ],
        *[("error", "http"), ("abort", "http")],
    ],
)
def test_a_reply_that_the_server_broke_off_is_a_failure_whatever_text_it_has(finish: str, reason: str) -> None:
    assert reason_of(body("partial tex", finish)) == reason
    assert reason_of({"choices": [{"index": 0, "finish_reason": finish}], "usage": {}}) == reason


def test_a_function_call_is_a_judges_json_but_no_candidates_answer() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"rank": 1}'}}

    assert read_chat_reply(body(None, "tool_calls", tool_calls=[call])).text == '{"rank": 1}'
    assert reason_of(body(None, "tool_calls", tool_calls=[call]), accept_calls=False) == "other"
    assert reason_of(body("Let me look.", "tool_calls", tool_calls=[call]), accept_calls=False) == "other"
    assert reason_of(body(None, "function_call", function_call=call["function"]), accept_calls=False) == "other"
    assert read_chat_reply(body("Paris.", tool_calls=[]), accept_calls=False).text == "Paris."


@pytest.mark.parametrize("finish", ["length", "model_length", "max_tokens", "MAX_TOKENS"])
def test_a_cut_reply_is_known_by_each_gateways_word(finish: str) -> None:
    assert read_chat_reply(body("partial tex", finish)).finish == "length"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1_000_000, "completion_tokens": -1_000_000},
        {"prompt_tokens": 5, "completion_tokens": 10**20},
        {"prompt_tokens": 5, "completion_tokens": 10**400},
        {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
        {"prompt_tokens": "many", "completion_tokens": True},
        [1],
        None,
    ],
)
def test_an_absurd_token_count_is_ignored_and_the_reply_is_kept(usage: object) -> None:
    assert read_chat_reply(body("[[7]]", usage=usage)) == ChatReply("[[7]]", "stop", 0, 0)


@pytest.mark.parametrize("listing", [None, [1], "x", {"data": 5}, {"data": {"m": 1}}, {"data": ["m", {"id": ["m"]}]}])
def test_a_listing_of_another_form_names_no_model(listing: object) -> None:
    assert model_entries(listing) == {}


def test_surrogates_become_question_marks_also_in_tokens_and_reasoning() -> None:
    tops = [{"token": "\ud800", "logprob": -1.0}, {"token": "m", "logprob": -1.0}]

    reply = read_chat_reply(body("a\ud800b", reasoning="\udfff", logprobs={"content": [{"top_logprobs": tops}]}))

    assert (reply.text, reply.reasoning) == ("a?b", "?")
    assert [top.token for top in reply.logprobs] == ["?", "m"]
    json.dumps([top.token for top in reply.logprobs], ensure_ascii=False).encode()


def test_unreadable_log_probabilities_are_left_out() -> None:
    infinite, missing = {"token": "m", "logprob": float("-inf")}, {"token": "x", "logprob": None}
    tops = [
        infinite,
        {"token": "M", "logprob": -0.5},
        missing,
        {"token": 5, "logprob": 0},
        {"token": "y", "logprob": "x"},
    ]
    reply = read_chat_reply(body("a", logprobs={"content": [{"top_logprobs": tops}]}))

    assert [(top.token, top.logprob) for top in reply.logprobs] == [("M", -0.5)]


def test_the_old_form_of_log_probabilities_is_read() -> None:
    legacy = {"tokens": ["m"], "token_logprobs": [-0.1], "top_logprobs": [{"m": -0.1, "M": -2.4}]}

    reply = read_chat_reply(body("m", logprobs=legacy))

    assert [(top.token, top.logprob) for top in reply.logprobs] == [("m", -0.1), ("M", -2.4)]


@pytest.mark.parametrize(
    "logprobs", [None, [], {"content": None, "refusal": None}, {"content": [None]}, {"content": 5}]
)
def test_a_reply_without_log_probabilities_has_none(logprobs: object) -> None:
    assert read_chat_reply(body("m", logprobs=logprobs)).logprobs == ()


def entry(token: str, *tops: tuple[str, float]) -> dict[str, object]:
    return {"token": token, "top_logprobs": [{"token": top, "logprob": value} for top, value in tops]}


@pytest.mark.parametrize(
    ("tokens", "position"),
    [
        (["m"], 0),
        (["<think>", "m", "</think>", "\n\n", "M", "."], 4),
        (["<", "think", ">", "hm", "</", "think", ">", "Ċ", "m"], 8),
        (["**", "m", "**"], 1),
        (["<think>", "m"], 0),
        (["<think>", "m", "</think>"], 0),
        (["**"], 0),
    ],
)
def test_log_probabilities_are_those_of_the_first_token_after_thoughts_and_mark_up(
    tokens: list[str], position: int
) -> None:
    content = [entry(token, (f"{number}", -1.0)) for number, token in enumerate(tokens)]
    legacy = {"tokens": tokens, "top_logprobs": [{f"{number}": -1.0} for number in range(len(tokens))]}

    for logprobs in ({"content": content}, legacy):
        assert [top.token for top in read_chat_reply(body("m", logprobs=logprobs)).logprobs] == [str(position)]
