"""One local server per provider quirk: it rejects what the provider rejects, and the judge still gets a verdict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from harness.client.flow import read_headers
from harness.records import Access, Answer, JudgeSpec, JudgeTask, JudgeTemplate, Judgment, Prompt, Rating
from harness.records.errors import ConfigError
from harness.records.judge_choice import find_judge
from judges.llm import LlmJudge, request_body
from tests.fakes.openai_server import FakeOpenAI, Reply, Request

RATE = JudgeTemplate(name="rate", user="Q {question} A {answer}", parser="rating", max_tokens=2048)
FIRST_TOKEN = RATE.model_copy(update={"name": "first", "max_tokens": 1, "top_logprobs": 5})
ANSWER = Answer(prompt_id="q", model="m", turns=("4",), finish=("stop",))
TASK = JudgeTask(
    prompt=Prompt(id="q", turns=("2+2?",), category="math"),
    answer=ANSWER,
    turn=1,
    template=RATE,
    fields={"question": "2+2?", "answer": "4"},
)


def rejecting(*names: str, required: str | None = None) -> Callable[[Request], Reply | str]:
    """A server that answers 400 to each of these parameters, and to requests without the required one."""

    def reply(request: Request) -> Reply | str:
        wrong = [name for name in names if name in request.body]
        if wrong or (required is not None and required not in request.body):
            return Reply(text=f"Unsupported parameter: {wrong or required!r}", status=400)
        return "Fine. [[8]]"

    return reply


def judged(name: str, reply: Callable[[Request], Reply | str]) -> tuple[Judgment, dict[str, Any]]:
    """The judgment by `NAME@SERVER` and the body that the server saw."""

    async def run() -> tuple[Judgment, dict[str, Any]]:
        async with FakeOpenAI(reply=reply) as fake, LlmJudge(find_judge(f"{name}@{fake.url}", {})) as judge:
            judgment = await judge.judge(TASK)
            return judgment, fake.requests[-1].body

    return asyncio.run(run())


NO_SAMPLING = ("temperature", "top_p")


def test_together_is_asked_for_a_number_of_log_probabilities() -> None:
    judge = find_judge("together:some/model", {})

    body = request_body(judge, FIRST_TOKEN, [])
    assert (body["logprobs"], body.get("top_logprobs")) == (5, None)
    assert request_body(find_judge("openai:gpt-5.4", {}), FIRST_TOKEN, [])["logprobs"] is True


@pytest.mark.parametrize(
    ("name", "reply", "limit"),
    [
        ("openai:gpt-5.4", rejecting("max_tokens", required="max_completion_tokens"), 2048 + 15),
        ("openai:o3", rejecting("max_tokens", *NO_SAMPLING, required="max_completion_tokens"), 2048 + 12000),
        ("openai:gpt-4.1", rejecting("reasoning_effort"), 2048),
        ("anthropic:claude-opus-4-8", rejecting(*NO_SAMPLING, "logprobs"), 2048),
        ("anthropic:claude-sonnet-4-6", rejecting("logprobs", required="temperature"), 2048),
        ("gemini:gemini-3-pro", rejecting("seed", "frequency_penalty", "top_k", "logprobs"), 2048 + 16000),
        ("groq:llama-3.3-70b-versatile", rejecting("logprobs", "top_logprobs", "logit_bias"), 2048),
        ("deepseek:deepseek-reasoner", rejecting("logprobs", "top_logprobs"), 2048 + 16000),
        ("deepseek:deepseek-flash", rejecting("logprobs", "temperature"), 2048 + 16000),
        ("xai:grok-4.3", rejecting("reasoning_effort"), 2048 + 16000),
        ("xai:grok-4.20-non-reasoning", rejecting("reasoning_effort"), 2048),
        ("mistral:mistral-large-latest", rejecting("logprobs", "seed"), 2048),
    ],
)
def test_a_judge_by_its_providers_name_sends_nothing_that_is_rejected(
    name: str, reply: Callable[[Request], Reply | str], limit: int
) -> None:
    judgment, body = judged(name, reply)

    assert judgment.verdict == Rating(value=8)
    assert body.get("max_completion_tokens", body.get("max_tokens")) == limit


def test_newer_models_of_openai_judge_without_reasoning_so_that_log_probabilities_exist() -> None:
    _, body = judged("openai:gpt-5.4", rejecting())

    assert body["reasoning_effort"] == "none"
    assert body["temperature"] == 0


@pytest.mark.parametrize(
    "name", ["anthropic:claude-opus-4-8", "gemini:gemini-3-pro", "groq:x", "mistral:x", "openai:o3"]
)
def test_a_judge_without_log_probabilities_is_refused_where_they_are_the_verdict(name: str) -> None:
    judge = LlmJudge(find_judge(f"{name}@http://127.0.0.1:1/v1", {}))

    judge.check(TASK)
    with pytest.raises(ConfigError, match=r"returns no log-probabilities.*evaluator"):
        judge.check(TASK.model_copy(update={"template": FIRST_TOKEN}))


def test_azure_takes_its_key_in_its_own_header_and_the_version_in_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_AZURE_KEY", "azure-secret")
    access = Access(key_header="api-key", query={"api-version": "2024-10-21"})

    async def run() -> tuple[Judgment, dict[str, str], str]:
        from aiohttp import web

        seen: dict[str, str] = {}

        async def chat(request: web.Request) -> web.Response:
            seen.update({"key": request.headers.get("api-key", ""), "bearer": request.headers.get("Authorization", "")})
            seen["address"] = str(request.rel_url)
            message = {"role": "assistant", "content": "[[8]]"}
            return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

        app = web.Application()
        app.router.add_post("/openai/deployments/d1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}/openai/deployments/d1"
        spec = JudgeSpec(name="a", kind="llm", model="d1", url=url, key_env="MY_AZURE_KEY", access=access)
        try:
            async with LlmJudge(spec) as judge:
                return await judge.judge(TASK), seen, url
        finally:
            await runner.cleanup()

    judgment, seen, _ = asyncio.run(run())

    assert judgment.verdict == Rating(value=8)
    assert seen["key"] == "azure-secret"
    assert seen["bearer"] == ""
    assert seen["address"] == "/openai/deployments/d1/chat/completions?api-version=2024-10-21"


def test_rate_limits_are_read_in_each_providers_words() -> None:
    openai = read_headers({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m30s"})
    moment = datetime.fromtimestamp(time.time() + 90, UTC).isoformat().replace("+00:00", "Z")
    names = {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": moment}
    anthropic = read_headers(names)

    assert (openai.requests_left, openai.requests_reset) == (3, 90)
    assert anthropic.tokens_left == 0
    assert anthropic.tokens_reset == pytest.approx(90, abs=5)
