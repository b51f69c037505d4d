"""Judges as files: templates that work, Azure's address and header, what is said of a judge that is not official."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from harness.judging.jury import judge_differences
from harness.records import Answer, JudgeSpec, JudgeTask, Judgment, Prompt, Rating
from harness.records.errors import ConfigError
from harness.records.judge_choice import find_judge, judge_files, judge_templates
from harness.records.protocols import SuiteOptions
from harness.suites.alpaca_eval import suite as alpaca_eval
from harness.suites.arena_hard import suite as arena_hard
from harness.suites.mt_bench import suite as mt_bench
from judges.llm import LlmJudge
from tests.fakes.commands import Done
from tests.fakes.toys import TEMPLATE, ToySuite

MIRROR = os.environ.get("HARNESS_MIRROR")
needs_mirror = pytest.mark.skipif(MIRROR is None, reason="HARNESS_MIRROR names the folder of pinned upstream files")
TASK = JudgeTask(
    prompt=Prompt(id="q", turns=("?",), category="c"),
    answer=Answer(prompt_id="q", model="m", turns=("4",), finish=("stop",)),
    turn=1,
    template=TEMPLATE,
    fields={"answer": "4"},
)


def written(tmp_path: Path, name: str, **changes: str) -> Path:
    text = judge_templates()[name].read_text("utf-8")
    for word, other in changes.items():
        text = text.replace(word, other)
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return path


async def judged(spec: JudgeSpec, handler: Callable[[web.Request], Any], path: str) -> Judgment:
    app = web.Application()
    app.router.add_post(path, handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        url = re.sub(r"https?://[^/]+", f"http://{host}:{port}", spec.url or "")
        async with LlmJudge(spec.model_copy(update={"url": url})) as judge:
            return await judge.judge(TASK)
    finally:
        await runner.cleanup()


def test_azure_gets_its_path_its_version_and_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "secret")
    spec = find_judge(str(written(tmp_path, "azure", RESOURCE="mine", DEPLOYMENT="d1")), {})
    seen: dict[str, Any] = {}

    async def azure(request: web.Request) -> web.Response:
        seen.update(query=dict(request.query), key=request.headers.get("api-key"), body=await request.json())
        seen["authorization"] = request.headers.get("Authorization")
        return web.json_response({"choices": [{"message": {"content": "[[9]]"}}]})

    row = asyncio.run(judged(spec, azure, "/openai/deployments/d1/chat/completions"))

    assert row.verdict == Rating(value=9)
    assert (seen["query"], seen["key"], seen["authorization"]) == ({"api-version": "2024-10-21"}, "secret", None)
    assert "secret" not in spec.model_dump_json()


def test_azures_filter_is_an_outcome_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "secret")
    spec = find_judge(str(written(tmp_path, "azure", RESOURCE="mine", DEPLOYMENT="d1")), {})

    async def refuses(request: web.Request) -> web.Response:
        message = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy"
        return web.json_response({"error": {"code": "content_filter", "message": message}}, status=400)

    row = asyncio.run(judged(spec, refuses, "/openai/deployments/d1/chat/completions"))

    assert row.error is not None
    assert row.error.reason == "content_filter"


def test_a_reasoning_judge_is_sent_no_temperature_and_its_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    spec = find_judge(str(written(tmp_path, "reasoning", MODEL="o9")), {})
    seen: dict[str, Any] = {}

    async def reasons(request: web.Request) -> web.Response:
        seen.update(await request.json())
        return web.json_response({"choices": [{"message": {"content": "[[9]]"}}]})

    asyncio.run(judged(spec, reasons, "/v1/chat/completions"))

    assert {"temperature", "top_p", "max_tokens"}.isdisjoint(seen)
    assert (seen["max_completion_tokens"], seen["reasoning_effort"]) == (16000, "low")


def test_a_called_functions_arguments_are_the_reply() -> None:
    async def calls(request: web.Request) -> web.Response:
        function = {"name": "rate", "arguments": '{"mark": "[[6]]"}'}
        message = {"content": None, "tool_calls": [{"type": "function", "function": function}]}
        return web.json_response({"choices": [{"message": message}]})

    row = asyncio.run(
        judged(JudgeSpec(name="j", kind="llm", model="m", url="http://h/v1"), calls, "/v1/chat/completions")
    )

    assert row.verdict == Rating(value=6)


@pytest.mark.parametrize("name", judge_templates())
def test_every_template_is_a_valid_file_once_filled_in(name: str, tmp_path: Path) -> None:
    spec = find_judge(str(written(tmp_path, name, MODEL="m", HOST="h", PATH=str(tmp_path))), {})

    assert spec.name not in judge_files()
    assert spec.kind in ("llm", "local", "reward_model")


@pytest.mark.slow
def test_a_template_is_printed_by_name(harness: Callable[..., Done]) -> None:
    assert "key_header: api-key" in harness("judge", "template", "azure").out
    assert "no judge template named 'x'; known: azure, endpoint" in harness("judge", "template", "x").err


@pytest.mark.parametrize(
    "text", ["local:", "replay:", "reward_model:", "alpaca_eval:", "alpaca_eval:x@y", "endpoint:m"]
)
def test_a_form_without_its_setting_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=text.split(":")[0]):
        find_judge(text, {})


@pytest.mark.slow
def test_a_judge_past_its_day_is_refused_before_anything_is_asked(harness: Callable[..., Done]) -> None:
    words = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket")

    for name in ("gpt-4-0613", "openai:gpt-4-0613", "reference+gpt-4-0613"):
        done = harness(*words, "--judge", name, "--dry-run", OPENAI_API_KEY="x")

        assert done.code == 2
        assert "was shut down on 2026-10-23" in done.err
        assert "--judge endpoint:gpt-4-0613@URL" in done.err
    elsewhere = harness(*words, "--judge", "openai:gpt-4-0613@http://127.0.0.1:1/v1", "--dry-run")
    assert elsewhere.code == 0, elsewhere.err


# ------------------------------------------------------------------------------------------ what is not official


class Named:
    """A judge that only has a spec."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec

    async def __aenter__(self) -> Named:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def judge(self, task: JudgeTask) -> Judgment:
        raise AssertionError("what differs is said before anything is asked")


def named(model: str, **changes: Any) -> Named:
    return Named(JudgeSpec(name=model, kind="llm", model=model, url="http://h/v1", **changes))


@needs_mirror
def test_what_differs_from_the_official_judge_is_said() -> None:
    arena = arena_hard.build(SuiteOptions(mirror=MIRROR))
    ratings = mt_bench.build(SuiteOptions(mirror=MIRROR))
    corrected = mt_bench.build(SuiteOptions(mirror=MIRROR, references="pr3158"))

    assert judge_differences(arena, [named("gpt-4-1106-preview")]) == ()
    assert judge_differences(ratings, [named("gpt-4-0613")]) == ()
    assert judge_differences(corrected, [named("gpt-4-0125-preview")]) == ()
    assert judge_differences(arena, [named("gpt-4.1")]) == (
        "judged by gpt-4.1 instead of the official gpt-4-1106-preview",
    )
    params = {"temperature": None, "max_completion_tokens": 900}
    (sentence,) = judge_differences(ratings, [named("gpt-4-0613", params=params)])
    assert sentence.startswith("judge gpt-4-0613: temperature left out, max_completion_tokens = 900, instead of")
    jury = [named("gpt-4-1106-preview"), named("gpt-4")]
    assert judge_differences(arena, jury)[-1] == "a jury of 2 instead of one judge"


@needs_mirror
@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        ("weighted_alpaca_eval_gpt4_turbo", ()),
        (
            "alpaca_eval_gpt4_turbo_fn",
            (
                "judge alpaca_eval:alpaca_eval_gpt4_turbo_fn: words, parser and parameters of evaluator "
                "alpaca_eval_gpt4_turbo_fn, not the official",
            ),
        ),
    ],
)
def test_an_evaluators_words_are_said_unless_they_are_the_suites_own(
    evaluator: str, said: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("alpaca_eval") is None:
        pytest.skip("alpaca-eval is not installed")
    from judges.llm import AlpacaEvalJudge

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    suite = alpaca_eval.build(SuiteOptions(mirror=MIRROR))

    assert judge_differences(suite, [AlpacaEvalJudge(find_judge(f"alpaca_eval:{evaluator}", {}))]) == said


def test_a_suite_without_official_judge_says_nothing() -> None:
    assert judge_differences(ToySuite(), [named("gpt-4.1")]) == ()
    assert judge_differences(arena_hard.build(SuiteOptions(edition="pocket")), [named("gpt-4.1")]) == ()
