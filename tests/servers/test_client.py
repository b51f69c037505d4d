"""The HTTP client retries what may mend, waits as it is told, and gives the server's own sentence otherwise."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import JsonValue

from harness.client import REFUSALS_TO_STOP, CallLimits, ChatClient, ChatReply, refusal_reason
from harness.records.errors import EndpointDownError, ReplyError
from tests.fakes.openai_server import BAD_429, BAD_500, CUT_OFF, TOO_LONG, FakeOpenAI, Reply, serving

BODY: dict[str, JsonValue] = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
T = TypeVar("T")


def ask(
    fake: FakeOpenAI, job: Callable[[ChatClient], Awaitable[T]], *, api_key: str | None = None, **settings: object
) -> T:
    async def scene() -> T:
        limits = CallLimits(first_wait=0.01, **settings)  # type: ignore[arg-type]  # keywords of the test
        client = ChatClient(fake.url, limits, api_key=api_key)
        async with client:
            return await job(client)

    return asyncio.run(scene())


def once(client: ChatClient) -> Awaitable[ChatReply]:
    return client.chat(dict(BODY))


@pytest.mark.parametrize("failure", [BAD_429, BAD_500, CUT_OFF])
def test_what_may_mend_is_asked_again(failure: Reply) -> None:
    with serving(FakeOpenAI(reply=lambda request: "four", failures=[failure, failure])) as fake:
        reply = ask(fake, once)

    assert reply.text == "four"
    assert len(fake.requests) == 3


def test_a_refused_request_is_not_asked_again_and_gives_the_servers_sentence() -> None:
    refusal = Reply(text="messages: role is missing", status=400)
    with serving(FakeOpenAI(failures=[refusal])) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once)

    assert (error.value.reason, error.value.status) == ("http", 400)
    assert "messages: role is missing" in str(error.value)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("reply", "reason"),
    [(TOO_LONG, "context"), (Reply(text="blocked by our content policy", status=400), "content_filter")],
)
def test_a_refusal_is_told_apart_by_its_words(reply: Reply, reason: str) -> None:
    with serving(FakeOpenAI(failures=[reply])) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once)

    assert error.value.reason == reason


def test_a_filtered_completion_is_a_failure_of_its_own() -> None:
    filtered = Reply(finish="content_filter")
    with serving(FakeOpenAI(reply=lambda request: filtered)) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once)

    assert error.value.reason == "content_filter"


def test_what_a_server_says_in_an_error_cannot_steer_a_terminal_or_repeat_the_key() -> None:
    hostile = Reply(text="\x1b]0;pwned\x07\x1b[2J bad key sk-right \u202e", status=400)
    with serving(FakeOpenAI(failures=[hostile])) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once, api_key="sk-right")

    assert str(error.value) == "HTTP 400: ]0;pwned [2J bad key ***"


def test_a_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serving(FakeOpenAI(key="sk-right")) as fake:
        assert ask(fake, once, api_key="sk-right").text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
        (400, "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens)."),
        (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000"),
        (422, "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 `inputs` tokens"),
        (400, "request (5123 tokens) exceeds the available context size (4096 tokens), try increasing it"),
        (400, "The input token count (1250000) exceeds the maximum number of tokens allowed (1048576)."),
        (413, "prompt is too long: 210000 tokens > 200000 maximum"),
        (400, "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"),
        (400, "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"),
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_the_words_of_each_server(status: int, words: str) -> None:
    assert refusal_reason(status, words) == "context"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "openai/gpt-4o requires moderation on OpenAI. Your input was flagged for violence."),
        (400, "The response was filtered due to the prompt triggering Azure OpenAI's content management policy."),
        (400, "Invalid prompt: your prompt was flagged as potentially violating our usage policy."),
        (400, "bad request content_filter"),
    ],
)
def test_a_moderated_prompt_is_known_by_the_words_of_each_gateway(status: int, words: str) -> None:
    assert refusal_reason(status, words) == "content_filter"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "Your account was flagged; request was blocked by our usage policies"),
        (403, "this key may not use that model"),
        (401, "content policy"),
        (400, "messages: role is missing"),
        (413, "Request Entity Too Large"),
    ],
)
def test_what_is_wrong_with_the_sender_or_the_request_is_neither(status: int, words: str) -> None:
    assert refusal_reason(status, words) == "http"


def test_a_moderated_prompt_fails_alone_however_many_there_are() -> None:
    moderated = Reply(text="The model requires moderation and the input was flagged", status=403)

    async def job(client: ChatClient) -> list[str]:
        reasons = []
        for _ in range(2 * REFUSALS_TO_STOP):
            with pytest.raises(ReplyError) as error:
                await once(client)
            reasons.append(error.value.reason)
        return [*reasons, (await once(client)).text]

    with serving(FakeOpenAI(reply=lambda request: "four", failures=[moderated] * 2 * REFUSALS_TO_STOP)) as fake:
        assert ask(fake, job) == ["content_filter"] * 2 * REFUSALS_TO_STOP + ["four"]


@pytest.mark.parametrize(
    "failure",
    [
        {"error": {"message": "Rate limit exceeded: free-models-per-min", "code": 429}},
        {"error": {"message": "Provider returned error", "code": "502"}, "user_id": "u"},
        {"error": "upstream unavailable"},
        {"choices": [{"finish_reason": "error", "message": {"content": ""}}]},
        {"choices": [{"error": {"code": 502, "message": "overloaded"}, "message": {"content": "par"}}]},
    ],
)
def test_an_error_sent_as_200_is_retried_by_the_code_inside(failure: dict[str, object]) -> None:
    with serving(FakeOpenAI(reply=lambda request: "four", failures=[Reply(body=failure)])) as fake:
        assert ask(fake, once).text == "four"
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ({"error": {"message": "prompt is too long: 9 tokens > 8", "code": 400}}, "context"),
        ({"error": {"message": "Your input was flagged", "code": 403}}, "content_filter"),
    ],
)
def test_a_refusal_sent_as_200_is_not_retried(failure: dict[str, object], reason: str) -> None:
    with serving(FakeOpenAI(failures=[Reply(body=failure)])) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once)
    assert (error.value.reason, len(fake.requests)) == (reason, 1)


@pytest.mark.parametrize("count", [10**400, -5, 10**20, True, "z", float("inf")])
def test_an_absurd_total_of_tokens_changes_nothing(count: object) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": count}
    body = {"choices": [{"message": {"content": "four"}, "finish_reason": "stop"}], "usage": usage}
    with serving(FakeOpenAI(reply=lambda request: Reply(body=body))) as fake:
        assert ask(fake, lambda client: asyncio.gather(once(client), once(client)), tpm=60_000)[0].text == "four"


@pytest.mark.slow
def test_a_body_that_unpacks_to_gigabytes_is_one_failed_call_in_little_memory() -> None:
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    packed = Reply(body=bomb, headers=(("Content-Encoding", "gzip"),))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB
    with serving(FakeOpenAI(reply=lambda request: packed)) as fake:
        errors = ask(fake, lambda client: asyncio.gather(*(once(client) for _ in range(8)), return_exceptions=True))

    assert [str(error) for error in errors] == [f"{fake.url} sent a reply that is larger than 64 MB"] * 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_a_body_that_is_not_packed_as_its_header_says_is_a_failure_in_plain_words() -> None:
    unpacked = Reply(body=b"no gzip", headers=(("Content-Encoding", "gzip"),))
    with serving(FakeOpenAI(reply=lambda request: unpacked)) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once, attempts=2)
    assert str(error.value) == (
        f"{fake.url} sent a reply that cannot be unpacked: its Content-Encoding is not what it contains"
    )


def test_a_redirect_is_not_followed_and_ends_the_run_with_where_it_leads() -> None:
    elsewhere = Reply(status=308, headers=(("Location", "http://elsewhere.example/v1"),))
    with serving(FakeOpenAI(reply=lambda request: elsewhere)) as fake, pytest.raises(EndpointDownError) as error:
        ask(fake, once, api_key="sk-hidden")
    assert "HTTP 308: it redirects to http://elsewhere.example/v1, which is not followed" in str(error.value)
    assert len(fake.requests) == 1


@pytest.mark.parametrize("words", ["Forbidden", "<title>Attention Required!</title>Sorry, you have been blocked"])
def test_a_prompt_that_a_firewall_blocks_fails_alone(words: str) -> None:
    blocked = Reply(text=words, status=403)
    order: list[Reply | str] = ["four", blocked, "four"] if words == "Forbidden" else [blocked, "four", "four"]
    replies = iter(order)

    async def thrice(client: ChatClient) -> list[ChatReply | BaseException]:
        return [(await asyncio.gather(once(client), return_exceptions=True))[0] for _ in range(3)]

    with serving(FakeOpenAI(reply=lambda request: next(replies))) as fake:
        outcomes = ask(fake, thrice)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ChatReply", "ChatReply", "ReplyError"]


@pytest.mark.parametrize(("status", "hint"), [(400, "; if the model rejects a parameter, use --omit;"), (418, ";")])
def test_only_a_rejected_request_has_a_hint_about_parameters(status: int, hint: str) -> None:
    refusal = Reply(text="no", status=status)

    def eight(client: ChatClient) -> Awaitable[list[ChatReply | BaseException]]:
        return asyncio.gather(*(once(client) for _ in range(8)), return_exceptions=True)

    with serving(FakeOpenAI(reply=lambda request: refusal)) as fake:
        errors = ask(fake, eight, parameters="use --omit")
    (down,) = (str(error) for error in errors if isinstance(error, EndpointDownError))
    assert f"rejected 8 calls in a row: HTTP {status}: no{hint}" in down


def test_a_broken_character_costs_no_reply() -> None:
    broken = b'{"choices": [{"message": {"content": "\xff\xfe Rating: [[7]]"}, "finish_reason": "stop"}]}'
    with serving(FakeOpenAI(reply=lambda request: Reply(body=broken))) as fake:
        assert ask(fake, once).text == "\ufffd\ufffd Rating: [[7]]"


def test_a_body_that_trickles_ends_with_the_timeout() -> None:
    trickle = Reply(body=b"{" + b" " * 1000, seconds_per_byte=0.05)
    with serving(FakeOpenAI(reply=lambda request: trickle)) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once, timeout=0.4)
    assert error.value.reason == "timeout"


def test_retries_end_with_the_last_failure() -> None:
    with serving(FakeOpenAI(reply=lambda request: BAD_500)) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once, attempts=3)

    assert (error.value.reason, error.value.status) == ("http", 500)
    assert len(fake.requests) == 3


def test_retry_after_is_honoured() -> None:
    wait = Reply(text="later", status=429, retry_after=0.7)
    with serving(FakeOpenAI(failures=[wait])) as fake:
        started = time.monotonic()
        ask(fake, once)

    assert time.monotonic() - started >= 0.7


def test_a_call_has_a_time_limit() -> None:
    with serving(FakeOpenAI(latency=5)) as fake, pytest.raises(ReplyError) as error:
        ask(fake, once, timeout=0.2, attempts=1)

    assert error.value.reason == "timeout"


def test_no_more_requests_are_in_flight_than_there_are_places() -> None:
    async def many(client: ChatClient) -> None:
        await asyncio.gather(*(once(client) for _ in range(40)))

    with serving(FakeOpenAI(latency=0.02)) as fake:
        ask(fake, many, concurrency=5)

    assert fake.peak == 5


def test_the_key_is_sent_and_written_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(FakeOpenAI(key="sk-right")) as fake:
        ask(fake, once, api_key="sk-right")
        with pytest.raises(EndpointDownError, match="wrong key") as error:
            ask(fake, once, api_key="sk-wrong")

    assert fake.requests[0].key == "sk-right"
    assert "sk-" not in caplog.text + str(error.value)
