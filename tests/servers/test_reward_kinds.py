"""Kinds `pooling` and `judge`, each against a real server on loopback: what is asked, what comes of the replies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from harness.records import Failure, Prompt
from harness.records.errors import ConfigError, EndpointDownError, JudgeUnavailableError
from harness.records.protocols import RewardOptions
from recipes.layout import PromptRow
from recipes.rewards.scorer import RewardItem, Scorer
from tests.fakes.openai_server import FakeOpenAI, judge_reply
from tests.fakes.openai_server import serving as serving_judge

TOO_LONG = "This model's maximum context length is 40 tokens. However, your request has 52 input tokens."
"""As vLLM 0.32 says it."""


def items(*completions: str, system: str | None = None, reference: str = "", **columns: str) -> list[RewardItem]:
    asked = Prompt(
        id="p", turns=("say p",), category="math", system=system, reference=(reference,) if reference else ()
    )
    return [RewardItem(PromptRow(prompt=asked, part="preference", columns=columns), text) for text in completions]


@dataclass
class PoolingStub:
    """vLLM's /classify: the score is the answer's length less 3; several labels, a refusal or a 401 where asked for."""

    labels: int = 1
    key: str | None = None
    url: str = ""
    bodies: list[dict[str, object]] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0

    async def classify(self, request: web.Request) -> web.Response:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Unauthorized"}}, status=401)
        body = await request.json()
        self.bodies.append(body)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.02)
        self.in_flight -= 1
        text = body["messages"][-1]["content"]
        if len(text) > 40:
            return web.json_response({"error": {"message": TOO_LONG, "code": 400}}, status=400)
        score = len(text) - 3.0
        row = {"index": 0, "label": "LABEL_0", "probs": [score] * self.labels, "num_classes": self.labels}
        return web.json_response({"id": "c", "object": "list", "data": [row], "usage": {"prompt_tokens": 5}})


@contextmanager
def serving(stub: PoolingStub) -> Iterator[PoolingStub]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/classify", stub.classify)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield stub
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def pooling(stub: PoolingStub, **further: object) -> Scorer:
    return Scorer(RewardOptions("pooling", model="skywork", url=stub.url, **further))  # type: ignore[arg-type]


def test_a_pooling_server_gives_the_heads_own_number() -> None:
    with serving(PoolingStub()) as stub, pooling(stub) as scorer:
        found = scorer.score(items("a", "a fox", system="Be brief."))

    assert found == [-2.0, 2.0]  # a sigmoid would have left neither
    assert stub.bodies[0] == {
        "model": "skywork",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "say p"},
            {"role": "assistant", "content": "a"},
        ],
        "use_activation": False,
    }


def test_what_a_pooling_server_refuses_as_too_long_has_no_reward() -> None:
    with serving(PoolingStub()) as stub, pooling(stub) as scorer:
        fine, long = scorer.score(items("a fox", "x" * 41))

    assert fine == 2.0
    assert isinstance(long, Failure)
    assert long.reason == "context"
    assert "maximum context length" in long.message


def test_batch_size_is_the_number_of_requests_in_flight() -> None:
    with serving(PoolingStub()) as stub, pooling(stub, batch_size=3) as scorer:
        scorer.score(items(*[str(number) for number in range(12)]))

    assert stub.most == 3
    assert scorer.at_once == 24


def test_no_more_calls_of_a_judge_are_in_flight_than_batch_size_says() -> None:
    with serving_judge(FakeOpenAI(reply=judge_reply, latency=0.02)) as fake:
        options = RewardOptions("judge", model=f"endpoint:fake@{fake.url}", params={"edition": "pocket"}, batch_size=3)
        with Scorer(options) as scorer:
            scorer.score(items(*[str(number) for number in range(12)]))

    assert fake.peak == 3


def test_a_model_with_several_scores_is_no_reward_model() -> None:
    with (
        serving(PoolingStub(labels=2)) as stub,
        pooling(stub) as scorer,
        pytest.raises(ConfigError, match="'skywork' gives 2 scores per answer; a reward model gives one"),
    ):
        scorer.score(items("a"))


def test_the_key_of_a_pooling_server_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(PoolingStub(key="sesame")) as stub:
        with pytest.raises(ConfigError, match="its API key in the environment variable MY_KEY"):
            pooling(stub, key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "sesame")
        with pooling(stub, key_env="MY_KEY") as scorer:
            assert scorer.score(items("a")) == [-2.0]
            assert "sesame" not in str(scorer.identity())
        monkeypatch.setenv("MY_KEY", "wrong")
        with pooling(stub, key_env="MY_KEY") as scorer, pytest.raises(EndpointDownError, match="cannot be used"):
            scorer.score(items("a"))


def test_a_server_that_others_run_is_not_cached_by_its_name() -> None:
    with serving(PoolingStub()) as stub:
        assert not pooling(stub).cacheable


def judge(**params: object) -> Scorer:
    return Scorer(RewardOptions("judge", model="reference", params={"edition": "pocket", **params}))  # type: ignore[dict-item]


def test_a_rating_judges_mark_is_the_reward() -> None:
    with judge() as scorer:
        right, wrong = scorer.score(items("fox", "a whole different thing", reference="fox"))

    assert right == 10.0  # docs/pocket.md: 10 for exactly the gold answer
    assert isinstance(wrong, float)
    assert wrong < 5.5


def test_a_comparison_with_a_column_is_the_mean_preference_over_both_orders() -> None:
    with judge(suite="arena_hard", baseline="other") as scorer:
        found = scorer.score(items("fox", "cat", "dog", reference="fox", other="cat"))

    assert found[0] == 1.0
    assert found[1] == 0.5
    assert isinstance(found[2], float)


def test_what_a_judge_cannot_read_has_no_reward() -> None:
    with judge() as scorer:
        (found,) = scorer.score(items("fox"))

    assert isinstance(found, Failure)
    assert "has no gold answer" in found.message


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"baseline": "nothing"}, r"prompt 'p' has no column 'nothing' to compare with; it has \['prompt_id'\]"),
        (
            {"suite": "arena_hard"},
            "suite 'arena_hard' does not rate single answers; use mt_bench, or compare with a column",
        ),
        ({"word": 1}, "reward: params: unknown key 'word'; known: baseline, edition, suite"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_one_sentence(params: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence), judge(**params) as scorer:
        scorer.score(items("fox"))


def test_a_judges_replies_are_kept_and_asked_for_once() -> None:
    with serving_judge(FakeOpenAI(reply=judge_reply)) as fake:
        options = RewardOptions("judge", model=f"endpoint:fake@{fake.url}", params={"edition": "pocket"})
        with Scorer(options) as scorer:
            first = scorer.score(items("a fox", "a dog"))
        with Scorer(options) as scorer:
            again = scorer.score(items("a fox", "a dog", "a hare"))

    assert again[:2] == first
    assert all(isinstance(value, float) and 1 <= value <= 10 for value in again)
    assert len(fake.requests) == 3
    assert not Scorer(options).cacheable  # its replies are


def test_a_judge_that_refuses_the_key_stops_it() -> None:
    with serving_judge(FakeOpenAI(reply=judge_reply, key="another")) as fake:
        options = RewardOptions("judge", model=f"endpoint:fake@{fake.url}", params={"edition": "pocket"})
        with Scorer(options) as scorer, pytest.raises(JudgeUnavailableError, match=r"judge 'fake' .* cannot be used"):
            scorer.score(items("a fox", "a dog"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            RewardOptions("function", model="m:f", url="http://x/v1"),
            r"function does not support `url` \('http://x/v1'\)",
        ),
        (RewardOptions("judge", model="reference", serve={"dtype": "x"}), r"judge does not support `serve` \(dtype\)"),
        (RewardOptions("armorm", model="m", params={"a": 1}), r"armorm does not support `params` \(a\)"),
        (RewardOptions("pooling", model="m", key_env="KEY"), r"pooling does not support `key_env` \('KEY'\)"),
        (RewardOptions("reward_model", model="m", serve={"engine_args": []}), "does not support 'engine_args'"),
    ],
)
def test_an_option_that_a_kind_cannot_honour_is_refused(options: RewardOptions, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Scorer(options)
