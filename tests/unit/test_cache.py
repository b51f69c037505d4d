"""The reply cache: one call for one question, whoever asks it, however often, whatever happens to the process."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.client import ChatReply
from harness.judging.cache import CREATE, ReplyCache, cached_keys, prune, request_key, shares
from harness.records import TokenLogprob
from harness.records.errors import ConfigError, ReplyError, StoreError
from tests.fakes.disks import network_file_system

ASKED: list[JsonValue] = [{"role": "user", "content": "2+2?"}]
BODY: dict[str, JsonValue] = {"model": "m", "messages": ASKED, "temperature": 0}
KEY = request_key("http://h/v1", BODY, 0)
FOUR = ChatReply("four", "stop", 10, 2, (TokenLogprob(token="m", logprob=-0.25),))


class Asked:
    """An endpoint that counts."""

    def __init__(self, *replies: ChatReply | Exception) -> None:
        self.count = 0
        self._replies = replies

    async def __call__(self) -> ChatReply:
        self.count += 1
        await asyncio.sleep(0.01)
        reply = self._replies[min(self.count, len(self._replies)) - 1]
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_the_second_run_gets_the_same_reply_without_a_call(tmp_path: Path) -> None:
    async def run(asked: Asked) -> ChatReply:
        async with ReplyCache(tmp_path / "deep" / "r.sqlite") as cache:
            return await cache.reply(KEY, "m at h", asked)

    asked = Asked(FOUR)
    first, second = asyncio.run(run(asked)), asyncio.run(run(asked))

    assert asked.count == 1
    assert first == FOUR
    assert second == ChatReply("four", "stop", 10, 2, FOUR.logprobs, cached=True)


@pytest.mark.parametrize(
    "other",
    [
        request_key("http://other/v1", BODY, 0),
        request_key("http://h/v1", BODY, 1),
        request_key("http://h/v1", {**BODY, "temperature": 1}, 0),
        request_key("http://h/v1", {**BODY, "model": "n"}, 0),
        request_key("http://h/v1", {**BODY, "messages": [*ASKED, *ASKED]}, 0),
    ],
)
def test_another_endpoint_repeat_parameter_model_or_message_is_another_question(other: bytes) -> None:
    assert other != KEY
    assert (
        request_key("http://h/v1", {key: BODY[key] for key in sorted(BODY, reverse=True)}, 0) == KEY
    )  # order of keys is no difference


def test_two_that_ask_at_once_make_one_call_and_a_failure_is_not_kept(tmp_path: Path) -> None:
    refused = ReplyError("HTTP 500: no", reason="http", status=500)
    asked = Asked(refused, FOUR)

    async def run() -> list[ChatReply | BaseException]:
        async with ReplyCache(tmp_path / "r.sqlite") as cache:
            return await asyncio.gather(*(cache.reply(KEY, "m", asked) for _ in range(5)), return_exceptions=True)

    found = asyncio.run(run())

    assert asked.count == 2
    assert found[0] is refused
    assert [reply.cached for reply in found[1:] if isinstance(reply, ChatReply)] == [False, True, True, True]


def test_without_a_file_nothing_is_kept() -> None:
    asked = Asked(FOUR)

    async def run() -> None:
        async with ReplyCache(None) as cache:
            await cache.reply(KEY, "m", asked)
            await cache.reply(KEY, "m", asked)
            await cache.forget([KEY])

    asyncio.run(run())
    assert asked.count == 2


def test_a_forgotten_reply_is_asked_again(tmp_path: Path) -> None:
    asked = Asked(FOUR)

    async def run() -> None:
        async with ReplyCache(tmp_path / "r.sqlite") as cache:
            await cache.reply(KEY, "m", asked)
            await cache.forget([KEY])
            await cache.reply(KEY, "m", asked)

    asyncio.run(run())
    assert asked.count == 2


def fill(path: Path, count: int, judge: str = "m at h", *, text: str = "four") -> None:
    async def run() -> None:
        async with ReplyCache(path) as cache:
            for number in range(count):
                key = request_key(judge, {"number": number}, 0)
                await cache.reply(key, judge, Asked(ChatReply(text, "stop", 10, 2)))

    asyncio.run(run())


def test_stats_and_prune_by_judge_and_age(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    fill(path, 3, "gpt at h")
    fill(path, 2, "other at h")

    assert [(share.judge, share.replies, share.prompt_tokens) for share in shares(path)] == [
        ("gpt at h", 3, 30),
        ("other at h", 2, 20),
    ]
    keys = [request_key("gpt at h", {"number": number}, 0) for number in (0, 2, 9)]
    assert cached_keys(path, keys) == set(keys[:2])
    assert prune(path, older_than=3600, judge=None) == 0
    assert prune(path, older_than=None, judge="other") == 2
    assert prune(path, older_than=0, judge=None) == 3
    assert shares(path) == shares(tmp_path / "none") == []


def test_a_file_that_is_no_cache_is_one_sentence_and_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite"
    letter = "this is a letter, not a database\n" * 100
    path.write_text(letter)

    fill(path, 1)
    assert cached_keys(path, [KEY]) == set()

    assert "r.sqlite is damaged or not a cache" in caplog.text
    assert "--no-cache; this run continues without it" in caplog.text
    assert path.read_text() == letter
    with pytest.raises(ConfigError, match="damaged or not a cache"):
        shares(path)


def test_a_cache_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")

    with pytest.raises(ConfigError, match="has version 9, but this harness writes 2"):
        fill(path, 1)


def test_a_run_continues_without_a_cache_that_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite"
    fill(path, 1)
    monkeypatch.setattr("harness.judging.cache.BUSY_SECONDS", 0.1)
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")

        async def run() -> None:
            async with ReplyCache(path) as cache:
                paid = await cache.reply(KEY, "m", Asked(FOUR))
                assert paid == FOUR  # it is paid for: whoever asked gets it
                asked = Asked(FOUR)
                assert await cache.reply(KEY, "m", asked) == FOUR
                assert asked.count == 1

        asyncio.run(run())
        holder.execute("ROLLBACK")
    assert caplog.text.count("database is locked") == 1
    assert "this run continues without it" in caplog.text


def test_without_shared_memory_the_cache_has_a_plain_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "r.sqlite"
    with network_file_system(monkeypatch):
        fill(path, 2)

        assert len(shares(path)) == 1
    assert "has no write-ahead log here (locking protocol), so it is slower" in caplog.text
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("failing", ["unable to open database file", "disk I/O error"])
def test_a_cache_that_cannot_be_opened_costs_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failing: str
) -> None:
    def refused(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError(failing)

    monkeypatch.setattr("harness.judging.cache.sqlite3.connect", refused)
    asked = Asked(FOUR)

    async def run() -> ChatReply:
        async with ReplyCache(tmp_path / "r.sqlite") as cache:
            return await cache.reply(KEY, "m", asked)

    assert asyncio.run(run()) == FOUR
    assert f"{failing}; free space or unlock it" in caplog.text


def test_a_reply_is_kept_with_its_reasoning_and_a_file_of_the_version_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with sqlite3.connect(path) as old:
        old.execute(CREATE)
        old.execute("INSERT INTO replies VALUES (?, 'm at h', 'four', 'stop', 10, 2, '', 1.0, 0.0)", (KEY,))
        old.execute("PRAGMA user_version = 1")
    old.close()
    thinking = ChatReply("[[7]]", "stop", 10, 90, reasoning="hmm", reasoning_tokens=80)
    other = request_key("http://h/v1", BODY, 1)

    async def run(asked: Asked) -> list[ChatReply]:
        async with ReplyCache(path) as cache:
            return [await cache.reply(key, "m at h", asked) for key in (KEY, other)]

    asked = Asked(thinking)
    asyncio.run(run(asked))

    assert asyncio.run(run(asked)) == [ChatReply("four", "stop", 10, 2, cached=True), replace(thinking, cached=True)]
    assert asked.count == 1


@pytest.mark.parametrize(
    "damage",
    [
        "logprobs = '[[\"m\"'",
        "logprobs = '[[\"m\", null]]'",
        "text = X'ff'",
        "text = CAST(X'ff' AS TEXT)",
        "finish = 'perhaps'",
        "prompt_tokens = -5",
        "completion_tokens = 'many'",
        "reasoning_tokens = 1e30",
        "price_share = 'free'",
    ],
)
def test_a_damaged_reply_is_asked_again_and_replaced(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "r.sqlite"
    asked = Asked(FOUR)

    async def run() -> ChatReply:
        async with ReplyCache(path) as cache:
            return await asyncio.wait_for(cache.reply(KEY, "m at h", asked), 10)

    asyncio.run(run())
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE replies SET {damage}")
    database.close()

    assert asyncio.run(run()) == FOUR
    assert asyncio.run(run()) == replace(FOUR, cached=True)
    assert asked.count == 2


def test_a_surrogate_in_a_cached_token_becomes_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"

    async def run() -> ChatReply:
        async with ReplyCache(path) as cache:
            return await cache.reply(KEY, "m at h", Asked(FOUR))

    asyncio.run(run())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE replies SET logprobs = ?", ('[["\\ud800", -1.0]]',))
    database.close()

    assert [top.token for top in asyncio.run(run()).logprobs] == ["?"]


def test_what_no_database_can_store_ends_the_run_with_a_sentence_instead_of_hanging(tmp_path: Path) -> None:
    async def run() -> None:
        async with ReplyCache(tmp_path / "r.sqlite") as cache:
            reply = await asyncio.wait_for(cache.reply(KEY, "m", Asked(ChatReply("a", "stop", 10**20, 1))), 10)
            assert reply.text == "a"  # it is paid for
            with pytest.raises(StoreError, match="cannot use the reply cache"):
                await asyncio.wait_for(cache.reply(request_key("h", BODY, 7), "m", Asked(FOUR)), 10)

    asyncio.run(run())
