"""Judging through the Batch API: the real command against a server that speaks it, killed between its steps."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.client import ChatReply
from harness.judging import batch as wire_module
from harness.judging.batch import BatchWire, chunks, request_line
from harness.judging.cache import request_key
from harness.judging.calls import Call
from harness.records import JudgeSpec
from harness.records.errors import JudgeUnavailableError, ReplyError
from harness.store import find_cards
from tests.fakes.batch_server import FakeBatchOpenAI
from tests.fakes.commands import Done, ended, harness_process, run_command
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, judge_reply, serving
from tests.servers.test_cost import usage

CALLS = 64
"""Judge calls of two pocket suites at 16 prompts: two ratings a conversation, two games a question."""


def call(number: int) -> Call:
    body: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": f"question {number}"}]}
    return Call(request_key("u", body, 0), body)


def asked(fake: FakeBatchOpenAI, folder: Path, count: int, **limits: int) -> list[ChatReply | BaseException]:
    """What `count` calls at once come to."""

    async def run() -> list[ChatReply | BaseException]:
        async with fake:
            spec = JudgeSpec(name="j", kind="llm", model="fake", url=fake.url)
            wire = BatchWire(spec, folder, **limits)
            calls = (wire.send(call(number)) for number in range(count))
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "QUIET", 0.05)
    monkeypatch.setattr(wire_module, "FIRST_WAIT", 0.01)


def echo(request: Request) -> str:
    return f"reply to {request.last}"


def test_every_call_gets_its_own_reply_at_half_the_price(tmp_path: Path) -> None:
    fake = FakeBatchOpenAI(reply=echo, polls=3)

    found = asked(fake, tmp_path, 5)

    assert [reply.text for reply in found if isinstance(reply, ChatReply)] == [
        f"reply to question {n}" for n in range(5)
    ]
    assert {reply.price_share for reply in found if isinstance(reply, ChatReply)} == {0.5}
    assert fake.steps == ["upload", "create", "poll", "poll", "poll", "download"]
    assert fake.requests == []


def test_too_many_for_one_batch_are_split(tmp_path: Path) -> None:
    calls = [call(number) for number in range(5)]
    size = len(request_line(calls[0]))

    assert [len(piece) for piece in chunks(calls, most=2)] == [2, 2, 1]
    assert [len(piece) for piece in chunks(calls, most_bytes=3 * size)] == [3, 2]
    assert [len(piece) for piece in chunks(calls, most_bytes=1)] == [1] * 5
    fake = FakeBatchOpenAI(reply=echo)
    assert not [reply for reply in asked(fake, tmp_path, 5, most=2) if isinstance(reply, BaseException)]
    assert fake.steps.count("create") == 3


def test_what_expired_goes_into_another_batch(tmp_path: Path) -> None:
    fake = FakeBatchOpenAI(reply=echo, end=lambda number: "expired" if number == 1 else "completed")

    found = asked(fake, tmp_path, 4)

    assert not [reply for reply in found if isinstance(reply, BaseException)]
    assert fake.steps.count("create") == 2
    assert max(Counter(fake.answered).values()) == 1


def test_what_breaks_in_three_batches_is_a_failure(tmp_path: Path) -> None:
    broken = {call(1).key.hex(): Reply("overloaded", status=503)}
    fake = FakeBatchOpenAI(reply=echo, fails=lambda _, name: broken.get(name))

    found = asked(fake, tmp_path, 2)

    assert isinstance(found[0], ChatReply)
    assert isinstance(found[1], ReplyError)
    assert "HTTP 503: overloaded" in str(found[1])
    assert fake.steps.count("create") == 3


def test_a_refused_request_fails_alone_and_a_broken_one_is_asked_again(tmp_path: Path) -> None:
    bad = {call(0).key.hex(): Reply("maximum context length is 64 tokens", status=400)}
    broken = {call(1).key.hex(): Reply("internal", status=500)}
    fake = FakeBatchOpenAI(
        reply=echo, fails=lambda number, name: bad.get(name) or (broken.get(name) if number < 2 else None)
    )

    found = asked(fake, tmp_path, 3)

    assert isinstance(found[0], ReplyError)
    assert (found[0].reason, found[0].status) == ("context", 400)
    assert [isinstance(reply, ChatReply) for reply in found[1:]] == [True, True]
    assert Counter(fake.answered)[call(2).key.hex()] == 1


@pytest.mark.parametrize(
    ("end", "sentence"), [("failed", "rejected the batch: Line 1 is no request"), ("cancelled", "was cancelled")]
)
def test_a_batch_that_fails_whole_stops_with_the_servers_sentence(tmp_path: Path, end: str, sentence: str) -> None:
    found = asked(FakeBatchOpenAI(reply=echo, end=lambda _: end), tmp_path, 2)

    assert isinstance(found[1], JudgeUnavailableError)
    assert sentence in str(found[1])
    again = asked(FakeBatchOpenAI(reply=echo), tmp_path / "other", 2)
    assert not [reply for reply in again if isinstance(reply, BaseException)]


def test_an_endpoint_without_batches_is_told_in_its_own_words(tmp_path: Path) -> None:
    class Plain(FakeBatchOpenAI):
        def routes(self, app: Any) -> None:
            return None

    [found] = asked(Plain(), tmp_path, 1)

    assert isinstance(found, JudgeUnavailableError)
    assert "did not take the file of a batch: HTTP 404: 404: Not Found; if the endpoint has no Batch API, use" in str(
        found
    )


def test_a_creation_whose_reply_is_lost_is_found_again_and_not_made_twice(tmp_path: Path) -> None:
    class Forgetful(FakeBatchOpenAI):
        async def _create(self, request: Any) -> Any:
            await super()._create(request)
            request.transport.abort()

    fake = Forgetful(reply=echo)
    [lost] = asked(fake, tmp_path, 1)
    assert isinstance(lost, JudgeUnavailableError)
    assert "the same command collects it" in str(lost)

    [found] = asked(fake, tmp_path, 1)

    assert isinstance(found, ChatReply)
    assert (fake.steps.count("upload"), fake.steps.count("create")) == (1, 1)


# ----------------------------------------------------------------------------------------------------- the real command


class World:
    """A fake model, a fake judge with batches, and the command that uses both."""

    def __init__(self, model: FakeOpenAI, judge: FakeBatchOpenAI, folder: Path) -> None:
        self.model, self.judge, self.folder = model, judge, folder
        self.process: Any = None
        self.killing = False
        prices = "price_in: 1.0, price_out: 10.0"
        (folder / "harness.yaml").write_text(
            f"judges: {{fake: {{kind: llm, model: fake, url: '{judge.url}', {prices}}}}}\n"
        )

    def run(self, *more: str) -> Done:
        words = ("run", "--model", f"endpoint:fake@{self.model.url}", "--edition", "pocket", "--judge", "fake")
        suites = ("--suite", "mt_bench,arena_hard", "--limit", "16")
        command = (*words, *suites, "--transport", "batch", *more)
        if not self.killing:
            return run_command(*command, cwd=self.folder)
        self.process = harness_process(*command, cwd=self.folder)
        return ended(self.process)

    def kill_at(self, wanted: str) -> None:
        """Kills the running command when the server has done this step, before its reply."""

        def on_step(step: str) -> None:
            if step == wanted and self.process.poll() is None:
                os.kill(self.process.pid, signal.SIGKILL)
                self.judge.on_step = lambda _: None
                self.killing = False

        self.judge.on_step = on_step
        self.killing = True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    model, judge = FakeOpenAI(), FakeBatchOpenAI(reply=judge_reply)
    with serving(model), serving(judge):
        yield World(model, judge, tmp_path)


def scores(results: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in find_cards(results)]
    return {card["suite"]: (card["scores"], card["counts"]) for card in found}


@pytest.mark.slow
def test_a_batched_run_scores_as_a_live_one_for_half_the_price(world: World) -> None:
    done = world.run("--results", "batch")

    assert done.code == 0, done.err
    assert (len(world.judge.answered), len(world.judge.requests)) == (CALLS, 0)
    assert world.judge.steps.count("create") == 1
    live = world.run("--results", "live", "--transport", "live", "--no-cache")
    assert live.code == 0, live.err
    assert scores(world.folder / "batch") == scores(world.folder / "live")
    half, whole = usage(world.folder / "batch"), usage(world.folder / "live")
    assert half["judgment_paid"] == half["judgment_cost"] == pytest.approx(whole["judgment_paid"] / 2)
    cached = world.run("--results", "again")
    assert cached.code == 0, cached.err
    assert len(world.judge.answered) == CALLS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "flags"),
    [
        ("create", ("--no-cache",)),
        *(pytest.param(step, (), marks=pytest.mark.slow) for step in ("upload", "create", "poll", "download")),
        *(pytest.param(step, ("--no-cache",), marks=pytest.mark.slow) for step in ("upload", "poll", "download")),
    ],
)
def test_killed_after_any_step_it_goes_on_without_a_second_upload(
    world: World, step: str, flags: tuple[str, ...]
) -> None:
    world.judge.polls = 2
    world.kill_at(step)
    assert world.run(*flags).code == -signal.SIGKILL

    done = world.run(*flags)

    assert done.code == 0, done.err
    assert (world.judge.steps.count("upload"), world.judge.steps.count("create")) == (1, 1)
    assert max(Counter(world.judge.answered).values()) == 1
    assert len(world.judge.answered) == CALLS
    assert len(world.model.requests) == 16 * 3  # answers were there before the first upload


@pytest.mark.slow
def test_a_jury_of_one_endpoint_asks_in_batches_of_their_own_and_both_are_taken_up(world: World) -> None:
    entry = f"{{kind: llm, model: MODEL, url: '{world.judge.url}'}}"
    entries = ", ".join(f"{name}: {entry.replace('MODEL', name)}" for name in ("strict", "lenient"))
    (world.folder / "harness.yaml").write_text(f"judges: {{{entries}}}\n")
    world.judge.polls = 2
    world.kill_at("create")
    assert world.run("--judge", "strict+lenient").code == -signal.SIGKILL

    done = world.run("--judge", "strict+lenient")

    assert done.code == 0, done.err
    assert (world.judge.steps.count("upload"), world.judge.steps.count("create")) == (2, 2)
    assert len(world.judge.answered) == len(set(world.judge.answered)) == 2 * CALLS


@pytest.mark.slow
def test_max_cost_holds_for_a_batch(world: World) -> None:
    stopped = world.run("--max-cost", "0.025")

    assert stopped.code == 4
    assert "stopped before crossing --max-cost $0.025" in stopped.err.splitlines()[-1]
    some = len(world.judge.answered)
    assert 0 < some < CALLS
    done = world.run("--max-cost", "100")
    assert done.code == 0, done.err
    assert len(world.judge.answered) == CALLS


@pytest.mark.slow
def test_a_reply_without_verdict_is_asked_again_by_the_same_command(world: World) -> None:
    world.judge.reply = lambda request: "I would rather not say."
    broken = world.run()
    assert broken.code == 4
    assert "too much unscored" in broken.err
    world.judge.reply = judge_reply

    done = world.run()

    assert done.code == 0, done.err
