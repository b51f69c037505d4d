"""What all clients of one endpoint share: places, pace, limits a minute, what the server says, the circuit breaker."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

import pytest
from pydantic import JsonValue

from harness.backends.server import free_port
from harness.client import CallLimits, ChatClient, Patience, connection_words
from harness.client.endpoint import Breaker, Outage
from harness.client.flow import Bucket, Flow, Pace, RateLimitHints, RefusalKind, duration, retry_after
from harness.records.errors import EndpointDownError, ReplyError
from tests.fakes.openai_server import BAD_429, BAD_500, CUT_OFF, FakeOpenAI, Reply, Request, serving

BODY: dict[str, JsonValue] = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


def client_of(fake: FakeOpenAI, *, api_key: str | None = None, **settings: object) -> ChatClient:
    limits = CallLimits(first_wait=0.01, **settings)  # type: ignore[arg-type]  # keywords of the test
    return ChatClient(fake.url, limits, api_key=api_key)


def run(job: Callable[[], Awaitable[None]]) -> float:
    """Seconds it took."""

    async def scene() -> None:
        await job()

    started = time.monotonic()
    asyncio.run(scene())
    return time.monotonic() - started


async def ask(client: ChatClient, times: int) -> list[str]:
    return [reply.text for reply in await asyncio.gather(*(client.chat(dict(BODY)) for _ in range(times)))]


# ------------------------------------------------------------------------------------------------------ headers, pure


def test_retry_after_is_seconds_or_a_date() -> None:
    now = 1_700_000_000.0
    assert retry_after("2.5", now) == 2.5
    assert retry_after(formatdate(now + 7, usegmt=True), now) == 7.0
    assert retry_after(formatdate(now - 7, usegmt=True), now) == 0.0
    assert retry_after("soon", now) is None


def test_a_rate_limits_reset_is_read_as_openai_writes_it() -> None:
    assert duration("6m0s") == 360.0
    assert duration("12ms") == pytest.approx(0.012)
    assert duration("1h2m3.5s") == 3723.5
    assert duration("4") == 4.0
    assert duration("tomorrow") is None


# --------------------------------------------------------------------------------------------------------- flow, pure


def test_a_bucket_lets_one_seconds_worth_go_at_once_and_then_keeps_the_rate() -> None:
    bucket = Bucket(120)  # 2 a second
    for _ in range(2):
        assert bucket.wait(0.0) == 0.0
        bucket.take(0.0)
    assert bucket.wait(0.0) == pytest.approx(0.5)
    assert bucket.wait(0.5) == 0.0


def test_a_call_that_costs_more_than_a_burst_goes_when_the_bucket_is_full_and_is_owed() -> None:
    bucket = Bucket(600)  # 10 a second
    bucket.take(0.0, 40)
    assert bucket.wait(0.0, 40) == pytest.approx(4.0)  # 10 - 40 = -30; full again after 4 s


def test_a_failure_halves_the_places_once_for_all_calls_that_were_out() -> None:
    flow = Flow(64)
    out = [flow.launch(1.0, 0) for _ in range(64)]
    for launch in out[:10]:
        flow.failed(launch, 2.0)
    assert flow.limit == 32
    flow.failed(flow.launch(3.0, 0), 4.0)
    assert flow.limit == 16


def test_places_come_back_by_at_most_one_a_round() -> None:
    flow = Flow(64)
    flow.failed(flow.launch(1.0, 0), 2.0)
    assert flow.limit == 32
    for _ in range(60):
        before = flow.limit
        for _ in range(int(before)):
            while flow.in_flight < int(flow.limit):
                launch = flow.launch(3.0, 0)
            flow.taken(launch, 4.0, None)
        assert flow.limit <= before + 1.05
    assert flow.limit == 64


def test_a_used_up_limit_holds_all_calls_until_it_is_whole_again() -> None:
    flow = Flow(8)
    first, _, _ = (flow.launch(0.0, 0) for _ in range(3))
    flow.taken(first, 0.2, None)
    flow.heard(first, 0.2, RateLimitHints(requests_left=2, requests_reset=1.5))  # two more are out already
    assert flow.wait(0.2, 0) == pytest.approx(1.5)


def simulated(takes: Callable[[float], bool], calls: int) -> tuple[int, float]:
    """(429s, seconds) of an endless client against a server that says at once whether it takes a call."""
    pace, now, refused, taken, number = Pace(), 0.0, 0, 0, 0
    while taken < calls:
        now += max(pace.wait(now), 1e-4)
        number += 1
        pace.launched(now)
        if takes(now):
            taken += 1
            pace.taken(now)
        else:
            refused += 1
            pace.refused(number, now, now)
    return refused, now


def test_the_pace_settles_just_below_what_a_token_bucket_gives() -> None:
    level, at = 60.0, 0.0

    def takes(now: float) -> bool:
        nonlocal level, at
        level, at = min(60.0, level + (now - at) * 60), now
        if level < 1:
            return False
        level -= 1
        return True

    refused, seconds = simulated(takes, 1610)
    assert 60 * seconds * 0.95 <= 1610 <= 60 * seconds + 60
    assert refused < 0.02 * 1610


def test_429s_that_do_not_depend_on_the_pace_do_not_stop_it() -> None:
    numbers = iter(range(10**9))
    refused, seconds = simulated(lambda now: next(numbers) % 5 not in (1, 3), 3000)  # two of five, at any pace
    assert refused == pytest.approx(2000, rel=0.02)
    assert seconds < 60


def test_one_429_in_many_calls_is_a_new_one_and_takes_three_percent() -> None:
    pace = Pace()
    pace.value, pace._opening = 100.0, False
    for number in range(200):
        pace.launched(1.0 + number / 100)
    assert pace.refused(200, 3.0, 3.0) is RefusalKind.NEW


def test_a_breaker_trips_after_failures_in_a_row_and_gives_up_after_its_patience() -> None:
    breaker = Breaker(Patience(down=60))
    breaker.taken()
    for second in range(7):
        breaker.failed(second, Outage())
    assert not breaker.is_tripped
    breaker.failed(7, Outage())
    assert breaker.is_tripped
    assert breaker.down_for(59) is None
    assert breaker.down_for(60) == 60
    breaker.taken()
    assert not breaker.is_tripped


# ---------------------------------------------------------------------------------------------------------- real HTTP


def test_two_clients_of_one_url_and_key_share_connections_and_limits_and_another_key_does_not() -> None:
    async def job() -> None:
        with serving(FakeOpenAI()) as fake:
            one, two, other = client_of(fake), client_of(fake), client_of(fake, api_key="sk-other")
            async with one, two, other:
                assert one._endpoint is two._endpoint
                assert one._endpoint is not other._endpoint

    run(job)


def test_a_limit_of_requests_a_minute_is_shared_by_the_clients_of_an_endpoint() -> None:
    async def job() -> None:
        async with client_of(fake, rpm=600) as one, client_of(fake, rpm=1200) as two:  # the smaller: 10 a second
            await asyncio.gather(ask(one, 10), ask(two, 10))

    with serving(FakeOpenAI()) as fake:
        assert run(job) > 0.9  # a second's worth at once, the other ten in one second


def test_a_caller_that_joins_twice_has_its_places_once_and_callers_have_theirs_each() -> None:
    async def job() -> list[int]:
        judge, again = (
            client_of(fake, caller="judge a", concurrency=3),
            client_of(fake, caller="judge a", concurrency=2),
        )
        rival, unnamed = client_of(fake, caller="judge b", concurrency=5), client_of(fake, concurrency=7)
        places = []
        async with judge, again:
            assert again._endpoint is not None
            places.append(again._endpoint.flow.ceiling)
            async with rival, unnamed:
                places.append(again._endpoint.flow.ceiling)
        return places

    with serving(FakeOpenAI()) as fake:
        assert asyncio.run(job()) == [3, 3 + 5 + 7]


def test_a_limit_of_tokens_a_minute_holds_calls_back() -> None:
    usage = Reply(text="word " * 100)  # the fake counts words: about 100 a call with the prompt

    async def job() -> None:
        async with client_of(fake, tpm=6000) as client:  # 100 a second
            for _ in range(3):
                await ask(client, 1)

    with serving(FakeOpenAI(reply=lambda request: usage)) as fake:
        assert run(job) > 1.5


def test_a_used_up_rate_limit_is_waited_for_before_any_429() -> None:
    left = (("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "900ms"))

    async def job() -> None:
        async with client_of(fake) as client:
            await ask(client, 1)
            await ask(client, 1)

    with serving(FakeOpenAI(reply=lambda request: Reply(text="four", headers=left))) as fake:
        assert run(job) >= 0.9


def test_a_retry_after_that_is_a_date_is_waited_for() -> None:
    later = Reply(text="later", status=429, headers=(("Retry-After", formatdate(time.time() + 2, usegmt=True)),))

    async def job() -> None:
        async with client_of(fake) as client:
            await ask(client, 1)

    with serving(FakeOpenAI(reply=lambda request: "four", failures=[later])) as fake:
        assert run(job) > 0.9


def test_waiting_for_a_retry_holds_no_place() -> None:
    first = iter([Reply(text="later", status=500)])

    def reply(request: Request) -> Reply:
        return next(first, None) or Reply(text="four")

    async def job() -> None:
        client = ChatClient(fake.url, CallLimits(concurrency=1, first_wait=1.0))
        async with client:
            slow = asyncio.create_task(client.chat(dict(BODY)))
            await asyncio.sleep(0.2)
            await client.chat(dict(BODY))
            assert not slow.done()
            await slow

    with serving(FakeOpenAI(reply=reply)) as fake:
        run(job)


def test_a_429_storm_ends_in_success() -> None:
    storm = Reply(text="slow down", status=429, retry_after=0.05)

    async def job() -> None:
        async with client_of(fake, concurrency=32) as client:
            assert await ask(client, 60) == ["four"] * 60

    with serving(FakeOpenAI(reply=lambda request: "four", failures=[storm] * 80)) as fake:
        run(job)


def test_a_third_of_calls_refused_at_random_ends_in_success() -> None:
    count = 0

    def reply(request: Request) -> Reply:
        nonlocal count
        count += 1
        return BAD_429 if count % 3 == 0 else Reply(text="four")

    async def job() -> None:
        async with client_of(fake, concurrency=32) as client:
            assert await ask(client, 200) == ["four"] * 200

    with serving(FakeOpenAI(reply=reply)) as fake:
        run(job)


def test_calls_in_flight_come_down_to_what_the_server_takes_at_once() -> None:
    late: list[int] = []

    def reply(request: Request) -> Reply:
        late.append(fake.in_flight)
        return BAD_500 if fake.in_flight >= 8 else Reply(text="four")

    async def job() -> None:
        async with client_of(fake, concurrency=64, attempts=50) as client:
            assert await ask(client, 300) == ["four"] * 300

    with serving(FakeOpenAI(reply=reply, latency=0.02)) as fake:
        run(job)
    assert fake.peak > 9
    assert sum(late[-100:]) / 100 < 9


def test_an_endpoint_that_stays_down_ends_every_call_with_one_sentence() -> None:
    async def job() -> None:
        async with client_of(fake, patience=Patience.of(0.5)) as client:
            found = await asyncio.gather(*(client.chat(dict(BODY)) for _ in range(40)), return_exceptions=True)
            assert all(isinstance(one, EndpointDownError) for one in found)
            assert "stays down" in str(found[-1])
            assert "HTTP 500: internal error" in str(found[-1])
            with pytest.raises(EndpointDownError):
                await client.chat(dict(BODY))

    with serving(FakeOpenAI(reply=lambda request: BAD_500)) as fake:
        run(job)
    assert len(fake.requests) < 60  # probed, not hammered


@pytest.mark.parametrize("bad", [BAD_500, Reply(body=b"{"), CUT_OFF])
def test_calls_at_which_an_endpoint_breaks_fail_alone_even_if_they_are_all_that_is_left(bad: Reply) -> None:
    poison: list[dict[str, JsonValue]] = [
        {"model": "fake", "messages": [{"role": "user", "content": f"poison {number}"}]} for number in range(4)
    ]

    async def job() -> None:
        async with client_of(fake, patience=Patience.of(0.5)) as client:
            calls = [client.chat(dict(body)) for body in [BODY, *poison, BODY]]
            first, *broken, last = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(error) for error in broken] == [ReplyError] * 4
            assert first == last
            assert await ask(client, 1) == ["four"]  # it is not given up

    with serving(FakeOpenAI(reply=lambda request: bad if "poison" in request.last else "four", latency=0.05)) as fake:
        run(job)


STARTING = Reply(text="loading the model", status=503, retry_after=0.02)


def test_a_server_that_loads_its_model_is_waited_for_from_the_first_call_on() -> None:
    async def job() -> None:
        async with client_of(fake, attempts=2, patience=Patience(unseen=0.1, starting=30)) as client:
            assert await ask(client, 1) == ["four"]

    with serving(FakeOpenAI(reply=lambda request: "four", failures=[STARTING] * 9)) as fake:
        run(job)
    assert len(fake.requests) == 10


def test_a_server_that_never_ends_loading_is_given_up_after_the_patience() -> None:
    async def job() -> None:
        async with client_of(fake, patience=Patience(down=30, unseen=30, starting=0.3)) as client:
            with pytest.raises(EndpointDownError, match=r"stays down.*HTTP 503: loading the model"):
                await ask(client, 1)

    with serving(FakeOpenAI(reply=lambda request: STARTING)) as fake:
        run(job)


def test_a_call_that_alone_gets_503_fails_by_itself() -> None:
    def reply(request: Request) -> Reply:
        return STARTING if request.last == "poison" else Reply(text="four")

    async def job() -> None:
        async with client_of(fake, attempts=3) as client:
            poison = client.chat({"model": "fake", "messages": [{"role": "user", "content": "poison"}]})
            asked = asyncio.gather(*(ask(client, 1) for _ in range(3)), poison, return_exceptions=True)
            for _ in range(40):
                assert await ask(client, 1) == ["four"]
                await asyncio.sleep(0.02)
            assert isinstance((await asked)[-1], ReplyError)

    with serving(FakeOpenAI(reply=reply)) as fake:
        run(job)


def test_a_server_that_starts_late_is_waited_for_and_one_that_never_starts_is_not() -> None:
    fake = FakeOpenAI(port=free_port())

    async def job() -> None:
        async with client_of(fake, attempts=2, patience=Patience.of(30)) as client:
            asked = asyncio.create_task(ask(client, 3))
            await asyncio.sleep(0.5)
            with serving(fake):
                assert all(await asked)

    run(job)

    async def in_vain() -> None:
        async with client_of(fake, patience=Patience.of(0.3)) as client:
            with pytest.raises(
                EndpointDownError, match=r"cannot reach http://\S+: 127\.0\.0\.1:\d+ refused the connection; check"
            ):
                await ask(client, 1)

    run(in_vain)


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (ConnectionRefusedError(111, "refused"), "judge.example:8000 refused the connection; check"),
        (socket.gaierror(-2, "unknown"), "the name judge.example was not found; check"),
        (OSError(113, "no route"), "there is no route to judge.example:8000; check"),
        (TimeoutError(110, "timed out"), "judge.example:8000 did not answer in time; check"),
        (ssl.SSLError(1, "wrong version number"), "judge.example:8000 began no encrypted connection; check"),
        (ConnectionResetError(104, "reset"), "judge.example:8000 closed the connection"),
    ],
)
def test_why_a_server_is_out_of_reach_is_in_plain_words(cause: OSError, sentence: str) -> None:
    assert connection_words("http://judge.example:8000/v1", cause).startswith(sentence)


def test_an_endpoint_that_comes_back_loses_no_call() -> None:
    since = time.monotonic() + 1.5

    def reply(request: Request) -> Reply:
        return Reply(text="four") if time.monotonic() > since else BAD_500

    async def job() -> None:
        async with client_of(fake, patience=Patience.of(30), attempts=6) as client:
            assert await ask(client, 40) == ["four"] * 40

    with serving(FakeOpenAI(reply=reply)) as fake:
        run(job)


def test_a_spent_quota_stops_at_once() -> None:
    spent = Reply(text="You exceeded your current quota, please check your plan and billing details", status=429)

    async def job() -> None:
        async with client_of(fake) as client:
            with pytest.raises(EndpointDownError, match="exceeded your current quota"):
                await client.chat(dict(BODY))

    with serving(FakeOpenAI(reply=lambda request: spent)) as fake:
        run(job)
    assert len(fake.requests) == 1


def test_a_call_too_large_for_the_limit_fails_alone() -> None:
    large = Reply(text="Request too large for gpt-4 on tokens per min: Limit 10000, Requested 20000", status=429)

    async def job() -> None:
        async with client_of(fake) as client:
            with pytest.raises(ReplyError, match="Request too large"):
                await client.chat(dict(BODY))
            assert await ask(client, 1) == ["four"]

    with serving(FakeOpenAI(reply=lambda request: "four", failures=[large])) as fake:
        run(job)
