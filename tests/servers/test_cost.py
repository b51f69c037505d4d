"""What a run costs: said before, never more than --max-cost, counted once, and nothing at all for cached replies.

The real command judges against a server that counts tokens as words and requests as they come.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.client import ChatClient, ChatReply
from harness.judging.calls import Call, CallOptions, Calls
from harness.judging.cost import Budget, dollars, worst_case
from harness.records import JudgeSpec
from harness.records.errors import BudgetReachedError, ConfigError
from harness.store import find_cards
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, judge_reply, serving

SPEC = JudgeSpec(name="j", kind="llm", model="m", url="http://h/v1", price_in=1.0, price_out=10.0)


class Wire:
    """Answers each call with 100 tokens in, 10 out: $0.0002 at SPEC's prices."""

    price_share = 1.0

    def __init__(self) -> None:
        self.sent = 0
        self.most = 0
        self._flying = 0

    async def send(self, call: Call) -> ChatReply:
        self.sent += 1
        self._flying += 1
        self.most = max(self.most, self._flying)
        await asyncio.sleep(0.001)
        self._flying -= 1
        return ChatReply("[[7]]", "stop", 100, 10)

    def forget(self, call: Call) -> None:
        return None


def body(number: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"{number:04}" + "x" * 80}], "max_tokens": 90}


def test_the_worst_case_is_a_token_a_byte_and_the_whole_reply() -> None:
    # 84 bytes, 16 round the message, at $1/M; 90 tokens at $10/M
    assert worst_case(SPEC, body(0)) == pytest.approx((100 * 1 + 90 * 10) / 1e6)
    assert worst_case(SPEC, {**body(0), "n": 2}) == pytest.approx((100 + 1800) / 1e6)
    with pytest.raises(ConfigError, match="set no token limit"):
        worst_case(SPEC, {**body(0), "max_tokens": None})


def test_calls_stop_before_the_limit_and_none_in_flight_is_cut_off() -> None:
    wire, budget = Wire(), Budget(0.01)
    calls = Calls(SPEC, "http://h/v1", ChatClient("http://h/v1"), CallOptions(budget=budget, wire=lambda *_: wire))

    async def run() -> list[ChatReply | BaseException]:
        asked = [calls.chat(calls.call(body(number), 0)) for number in range(100)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(run())

    # a call sets $0.001 aside and costs $0.0002: 46 calls leave $0.0008, too little for another
    assert wire.sent == 46
    assert wire.most == 10
    assert budget.spent == pytest.approx(46 * 0.0002)
    assert Counter(type(one) for one in found) == {ChatReply: 46, BudgetReachedError: 54}
    assert "--max-cost $0.010: $0.0092 paid for this run so far" in str(found[-1])


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "$0.00"), (12.345, "$12.35"), (0.0123, "$0.012"), (0.00012, "$0.00012")]
)
def test_dollars_keep_the_digits_that_matter(amount: float, text: str) -> None:
    assert dollars(amount) == text


# ----------------------------------------------------------------------------------------------------- the real command


@pytest.fixture
def judge() -> Iterator[FakeOpenAI]:
    with serving(FakeOpenAI(reply=judge_reply)) as fake:
        yield fake


Run = Callable[..., Done]


@pytest.fixture
def run(harness: Callable[..., Done], judge: FakeOpenAI, tmp_path: Path) -> Iterator[Run]:
    """`run("--results", "r")`: two pocket suites of 16 prompts each, judged by the fake at $1 and $10 a million."""
    entry = f"{{kind: llm, model: fake, url: '{judge.url}', price_in: 1.0, price_out: 10.0, concurrency: 4}}"
    (tmp_path / "harness.yaml").write_text(f"judges: {{fake: {entry}}}\n")
    with serving(FakeOpenAI()) as model:
        words = (
            "run",
            "--model",
            f"endpoint:fake@{model.url}",
            "--edition",
            "pocket",
            "--judge",
            "fake",
            "--limit",
            "8",
        )
        yield lambda *more: harness(*words, "--suite", "mt_bench,arena_hard", "--limit", "16", *more)


def usage(results: Path) -> dict[str, Any]:
    """Sums of the suites' judgment figures."""
    cards = [json.loads(path.read_text()) for path in find_cards(results)]
    names = ("judgment_calls", "judgment_cost", "judgment_paid")
    return {name: sum(card["usage"][name] for card in cards) for name in names}


def paid(results: Path) -> float:
    """US dollars in the rows of a run that has no card yet."""
    rows = [row for path in results.glob("runs/*/*/*/judgments.jsonl") for row in path.read_text().splitlines()]
    return sum(float(json.loads(row)["paid"]) for row in rows)


@pytest.mark.slow
def test_judging_the_same_answers_in_another_run_costs_nothing(run: Run, judge: FakeOpenAI, tmp_path: Path) -> None:
    assert run("--results", "one").code == 0
    asked = len(judge.requests)
    first = usage(tmp_path / "one")

    again = run("--results", "two")

    assert again.code == 0, again.err
    assert len(judge.requests) == asked == first["judgment_calls"] > 30
    assert first["judgment_paid"] == pytest.approx(first["judgment_cost"])
    assert first["judgment_paid"] > 0
    assert usage(tmp_path / "two") == {"judgment_calls": 0, "judgment_cost": first["judgment_cost"], "judgment_paid": 0}
    assert "mt_bench: 0 judge calls, $0.00 paid; the verdicts are worth $0.0" in again.out
    assert run("--results", "three", "--no-cache").code == 0
    assert len(judge.requests) == 2 * asked


@pytest.mark.slow
def test_max_cost_stops_before_crossing_and_a_higher_limit_goes_on(run: Run, judge: FakeOpenAI, tmp_path: Path) -> None:
    one = ("--suite", "arena_hard")
    assert run("--results", "free", "--no-cache", *one).code == 0
    whole, calls = usage(tmp_path / "free")["judgment_paid"], len(judge.requests)
    judge.requests.clear()
    limit = f"{whole / 2 + 0.043:.4f}"  # room for the worst case of a call: 4,096 tokens at $10/M

    stopped = run("--max-cost", limit, *one)

    assert stopped.code == 4
    assert f"stopped before crossing --max-cost {dollars(float(limit))}" in stopped.err.splitlines()[-1]
    some = len(judge.requests)
    assert 0 < some < calls
    assert run("--max-cost", limit, *one).code == 4  # the limit is of the run, not of a session
    assert 0 < paid(tmp_path / "results") <= float(limit)
    done = run("--max-cost", "1000", *one)
    assert done.code == 0, done.err
    assert len(judge.requests) == calls
    assert usage(tmp_path / "results")["judgment_paid"] == pytest.approx(whole)


@pytest.mark.slow
def test_max_cost_needs_a_price(harness: Callable[..., Done], judge: FakeOpenAI, tmp_path: Path) -> None:
    with serving(FakeOpenAI()) as model:
        words = ("run", "--model", f"endpoint:fake@{model.url}", "--edition", "pocket", "--max-cost", "1")
        done = harness(*words, "--judge", f"endpoint:fake@{judge.url}")

        assert done.code == 2
        assert "--max-cost needs the price of judge 'fake': give price_in and price_out" in done.err
        assert list(tmp_path.iterdir()) == []
        assert harness(*words[:-1], "0").code == 2
        assert model.requests == []


def test_a_budget_that_cannot_be_kept_archives_nothing(run: Run, judge: FakeOpenAI, tmp_path: Path) -> None:
    assert run().code == 0
    before = sorted(tmp_path.rglob("*"))

    done = run("--fresh", "--max-cost", "1", "--judge", f"endpoint:fake@{judge.url}")

    assert done.code == 2
    assert "--max-cost needs the price of judge 'fake'" in done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_a_dry_run_says_what_is_done_and_what_is_cached(run: Run, judge: FakeOpenAI) -> None:
    before = json.loads(run("--dry-run", "--json").out)["dry_run"]
    assert run().code == 0
    asked = len(judge.requests)

    after = json.loads(run("--dry-run", "--json").out)["dry_run"]

    assert sum(part["judge_calls"] for part in before) == sum(part["judge_calls_done"] for part in after) == asked
    assert all(part["judge_cost_open"] == pytest.approx(part["judge_cost"]) for part in before)
    assert [part["judge_cost_open"] for part in after] == [0, 0]
    assert len(judge.requests) == asked


@pytest.mark.slow
def test_the_cache_is_shown_and_pruned(harness: Callable[..., Done], run: Run, judge: FakeOpenAI) -> None:
    assert run().code == 0

    shown = json.loads(harness("cache", "stats", "--json").out)

    assert [(row["judge"], row["replies"]) for row in shown["judges"]] == [
        (f"fake at {judge.url}", len(judge.requests))
    ]
    assert shown["bytes"] > 0
    assert "fake at" in harness("cache", "stats").out
    assert harness("cache", "prune").code == 2
    assert "is not an age" in harness("cache", "prune", "--older-than", "30").err
    assert json.loads(harness("cache", "prune", "--older-than", "30d", "--json").out) == {"removed": 0}
    assert json.loads(harness("cache", "prune", "--judge", "other", "--json").out) == {"removed": 0}
    assert harness("cache", "prune", "--all").out == f"removed {len(judge.requests)} replies\n"
    assert json.loads(harness("cache", "stats", "--json").out)["judges"] == []
