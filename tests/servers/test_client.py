"""The HTTP client retries what may mend, waits as it is told, and gives the server's own sentence otherwise."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import JsonValue

from harness.client import ChatClient, ChatReply
from harness.records.errors import EndpointDownError, ReplyError
from tests.fakes.openai_server import BAD_429, BAD_500, CUT_OFF, TOO_LONG, FakeOpenAI, Reply, serving

BODY: dict[str, JsonValue] = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
T = TypeVar("T")


def ask(fake: FakeOpenAI, job: Callable[[ChatClient], Awaitable[T]], **settings: object) -> T:
    async def scene() -> T:
        client = ChatClient(fake.url, first_wait=0.01, **settings)  # type: ignore[arg-type]  # keywords of the test
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


def test_a_server_that_is_not_there_is_a_transport_failure() -> None:
    fake = FakeOpenAI(port=9)  # discard: nobody listens
    with pytest.raises(ReplyError, match=r"cannot reach http://127\.0\.0\.1:9/v1") as error:
        ask(fake, once, attempts=2)

    assert error.value.reason == "transport"


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
