"""The LLM judge against a small OpenAI-compatible server: what is sent, what is read, what ends the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import JsonValue

from harness.client import REFUSALS_TO_STOP, ChatClient
from harness.records import Answer, JudgeSpec, JudgeTask, JudgeTemplate, Judgment, Preference, Prompt, Rating
from harness.records.errors import ConfigError, JudgeUnavailableError
from harness.records.judge_choice import find_judge, judge_files
from judges.llm import LlmJudge, render

RATE = JudgeTemplate(name="rate", system="Be just.", user="Q {question} A {answer}", parser="rating", extra={"n": 1})
LABEL = JudgeTemplate(name="label", user="{answer_1} / {answer_2}", parser="arena_label", reask="go on")
LETTER = JudgeTemplate(
    name="letter",
    user="{output_1} or {output_2}",
    filling="replace",
    parser="letter_logprob",
    temperature=1.0,
    max_tokens=1,
    top_logprobs=5,
    identical_is_draw=True,
)
Reply = str | tuple[int, dict[str, Any]] | dict[str, Any]


def completion(text: str, **changes: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **changes}
    return {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 100}}


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives these replies in turn, the last for ever; yields its URL and the bodies received."""
    bodies: list[dict[str, Any]] = []

    async def chat(request: web.Request) -> web.Response:
        bodies.append({**await request.json(), "authorization": request.headers.get("Authorization")})
        reply = replies[min(len(bodies), len(replies)) - 1]
        if isinstance(reply, tuple):
            return web.json_response(reply[1], status=reply[0])
        return web.json_response(completion(reply) if isinstance(reply, str) else reply)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/v1", bodies
    finally:
        await runner.cleanup()


def said(text: str, model: str = "m") -> Answer:
    return Answer(prompt_id="q", model=model, turns=(text,), finish=("stop",))


def task(template: JudgeTemplate, **fields: str) -> JudgeTask:
    rating = template.parser == "rating"
    return JudgeTask(
        prompt=Prompt(id="q", turns=("?",), category="c"),
        answer=said(fields.get("answer", "mine")),
        baseline=None if rating else said("theirs", "base"),
        order=None if rating else "ab",
        turn=1 if rating else None,
        template=template,
        fields=fields,
    )


RATING_TASK = task(RATE, question="2+2?", answer="4 {x}")
LABEL_TASK = task(LABEL, answer_1="theirs", answer_2="mine")
LETTER_TASK = task(LETTER, output_1="theirs", output_2="mine")


def asked(tasks: Sequence[JudgeTask], *replies: Reply, **spec: Any) -> tuple[list[Judgment], list[dict[str, Any]]]:
    """The judgments of the tasks, one after the other, and the bodies the server saw."""

    async def run() -> tuple[list[Judgment], list[dict[str, Any]]]:
        async with serving(*replies) as (url, bodies):
            judge = LlmJudge(JudgeSpec(name="j", kind="llm", model="gpt-x", url=url, **spec))
            async with judge:
                return [await judge.judge(one) for one in tasks], bodies

    return asyncio.run(run())


def test_a_rating_with_its_words_tokens_and_cost() -> None:
    [found], [body] = asked([RATING_TASK], "Fine. [[8]]", price_in=2.0, price_out=8.0)
    assert found.verdict == Rating(value=8)
    assert found.reply == "Fine. [[8]]"
    assert found.cost == pytest.approx((1000 * 2 + 100 * 8) / 1e6)
    assert (found.prompt_tokens, found.completion_tokens) == (1000, 100)
    assert found.key == RATING_TASK.model_copy(update={"judge": "j"}).key
    assert body == {
        "model": "gpt-x",
        "messages": [
            {"role": "system", "content": "Be just."},
            {"role": "user", "content": "Q 2+2? A 4 {x}"},
        ],
        "temperature": 0.0,
        "max_tokens": 2048,
        "n": 1,
        "authorization": None,
    }


def test_the_judges_own_parameters_replace_and_null_leaves_out() -> None:
    params: dict[str, JsonValue] = {"max_tokens": None, "max_completion_tokens": 900, "temperature": None}
    _, [body] = asked([RATING_TASK], "[[5]]", params=params)
    assert "max_tokens" not in body
    assert "temperature" not in body
    assert body["max_completion_tokens"] == 900


def test_a_reply_without_label_is_asked_again_once_and_joined() -> None:
    [found], bodies = asked([LABEL_TASK], "let me think", "[[B>>A]]")
    assert found.verdict == Preference(value=1.0, strength=2)  # "ab": B is the candidate
    assert found.reply == "let me think\n[[B>>A]]"
    assert found.flags == ("reasked",)
    assert found.completion_tokens == 200
    assert bodies[1]["messages"][1:] == [
        {"role": "assistant", "content": "let me think"},
        {"role": "user", "content": "go on"},
    ]


def test_two_attempts_without_label_are_a_failure() -> None:
    [found], bodies = asked([LABEL_TASK], "hm", "well")
    assert found.error is not None
    assert found.error.reason == "parse"
    assert found.reply == "hm\nwell"
    assert len(bodies) == 2


@pytest.mark.parametrize("reply", ["[[A>B]] no, [[B>A]]", "[[A>>A]]"])
def test_a_double_or_wrong_label_is_not_asked_again(reply: str) -> None:
    [found], bodies = asked([LABEL_TASK], reply)
    assert found.verdict is None
    assert len(bodies) == 1


def test_a_rating_template_without_reask_fails_at_once() -> None:
    [found], bodies = asked([RATING_TASK], "no number")
    assert found.error is not None
    assert found.error.reason == "parse"
    assert len(bodies) == 1


def test_an_empty_reply_has_its_own_reason() -> None:
    [found], _ = asked([RATING_TASK], "  ")
    assert found.error is not None
    assert found.error.reason == "empty"


def test_a_preference_from_log_probabilities() -> None:
    tops = [{"token": "M", "logprob": -0.2876820724517809}, {"token": "m", "logprob": -1.3862943611198906}]
    reply = completion("M", logprobs={"content": [{"token": "M", "top_logprobs": tops}]}, finish_reason="length")
    [found], [body] = asked([LETTER_TASK], reply)
    # p(m) = 1/4 is the baseline's, shown first
    assert found.verdict is not None
    assert found.verdict.value == pytest.approx(0.75)
    assert found.flags == ()
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 5, 1)


def test_equal_answers_are_a_draw_without_a_call() -> None:
    equal = LETTER_TASK.model_copy(update={"answer": said("theirs")})
    [found], bodies = asked([equal], "never asked", price_in=1.0, price_out=1.0)
    assert found.verdict == Preference(value=0.5)
    assert found.flags == ("identical",)
    assert found.cost == 0
    assert bodies == []


def test_a_cut_reply_is_flagged() -> None:
    [found], _ = asked([RATING_TASK], completion("[[3]] and more", finish_reason="length"))
    assert found.flags == ("truncated",)


def test_a_filtered_reply_is_one_tasks_failure() -> None:
    [found, second], _ = asked([RATING_TASK] * 2, completion("", finish_reason="content_filter"), "[[6]]")
    assert found.error is not None
    assert found.error.reason == "content_filter"
    assert second.verdict == Rating(value=6)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_unknown_model_stops_the_run(status: int) -> None:
    reply = (status, {"error": {"message": "The model `gpt-x` does not exist"}})
    with pytest.raises(JudgeUnavailableError, match="does not exist"):
        asked([RATING_TASK], reply)


def test_many_refusals_in_a_row_stop_the_run_and_fewer_do_not() -> None:
    refusal = (400, {"error": {"message": "messages: role is missing"}})
    few, _ = asked([RATING_TASK] * REFUSALS_TO_STOP, *[refusal] * (REFUSALS_TO_STOP - 1), "[[4]]")
    assert [one.error.reason if one.error else "ok" for one in few] == ["http"] * (REFUSALS_TO_STOP - 1) + ["ok"]
    with pytest.raises(JudgeUnavailableError, match="8 calls in a row: HTTP 400: messages: role is missing"):
        asked([RATING_TASK] * REFUSALS_TO_STOP, refusal)


def test_a_parameter_that_the_model_refuses_stops_the_run_at_once_with_the_servers_sentence_and_a_hint() -> None:
    refusal = (400, {"error": {"message": "Unsupported parameter: 'temperature'"}})
    with pytest.raises(JudgeUnavailableError, match=r"judge 'j' .*Unsupported parameter: 'temperature'.*`params:`"):
        asked([RATING_TASK], refusal)


def test_an_endpoint_that_is_down_stops_the_run() -> None:
    async def run() -> None:
        spec = JudgeSpec(name="j", kind="llm", model="x", url="http://127.0.0.1:9/v1", patience=0.2)
        async with LlmJudge(spec) as judge:
            await asyncio.gather(*(judge.judge(RATING_TASK) for _ in range(10)))

    with pytest.raises(JudgeUnavailableError, match=r"judge 'j' .*stays down.*cannot reach.*the same command resumes"):
        asyncio.run(run())


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "secret")
    _, [body] = asked([RATING_TASK], "[[5]]", key_env="OWN_KEY")
    assert body["authorization"] == "Bearer secret"


def test_a_missing_key_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OWN_KEY", raising=False)
    with pytest.raises(ConfigError, match="OWN_KEY"):
        LlmJudge(JudgeSpec(name="j", kind="llm", model="x", url="http://h/v1", key_env="OWN_KEY"))
    with pytest.raises(ConfigError, match="model"):
        LlmJudge(JudgeSpec(name="j", kind="llm", url="http://h/v1"))


def test_a_slots_name_in_an_answer_is_text() -> None:
    forger = task(LETTER, output_1="{output_2}", output_2="b", answer="{output_2}")
    forger = forger.model_copy(
        update={"answer": said("{output_2}"), "fields": {"output_1": "{output_2}", "output_2": "b"}}
    )

    assert render(forger) == [{"role": "user", "content": "{output_2} or b"}]
    # as alpaca_eval: the second slot's name inside the first text is taken for the slot
    assert render(forger.model_copy(update={"strict": True})) == [{"role": "user", "content": "b or {output_2}"}]
    assert forger.names_slots
    assert not LETTER_TASK.names_slots
    reply = completion("m", logprobs={"content": [{"top_logprobs": [{"token": "m", "logprob": 0.0}]}]})
    for strict in (False, True):
        [judgment], _ = asked([forger.model_copy(update={"strict": strict})], reply)
        assert judgment.flags == ("injection",)


# ------------------------------------------------------------------------------------------- judges that reason


def test_a_judges_reasoning_is_kept_beside_its_reply() -> None:
    [judgment], _ = asked(
        [RATING_TASK], "<think>At first [[3]], but it is right.</think>\nIt is good.\n\nRating: [[9]]"
    )

    assert judgment.verdict == Rating(value=9)
    assert judgment.reply == "It is good.\n\nRating: [[9]]"
    assert judgment.reasoning == "At first [[3]], but it is right."
    [plain], _ = asked([RATING_TASK], "Rating: [[9]]")
    assert "reasoning" not in plain.model_dump()  # rows of other judges are what they were


def test_reasoning_is_not_sent_back_when_asked_again() -> None:
    [judgment], bodies = asked([LABEL_TASK], "<think>[[B>>A]]</think>Hm.", "<think>so</think>[[A>B]]")

    assert bodies[1]["messages"][1:] == [{"role": "assistant", "content": "Hm."}, {"role": "user", "content": "go on"}]
    assert judgment.verdict == Preference(value=0)
    assert (judgment.reply, judgment.reasoning) == ("Hm.\n[[A>B]]", "[[B>>A]]\nso")


@pytest.mark.parametrize(
    "reply",
    [
        completion("<think>First I would say [[3]]", finish_reason="length"),
        "<think>First I would say [[3]]",
        completion("", finish_reason="length"),
    ],
)
def test_a_reply_that_ends_inside_its_reasoning_is_unscored(reply: Reply) -> None:
    [judgment], bodies = asked([LABEL_TASK], reply)

    assert judgment.error is not None
    assert judgment.error.reason == "truncated"
    assert len(bodies) == 1 or judgment.reply == "\n"  # an empty reply is asked once more, as the original does


def test_the_strict_reference_reads_the_reasoning_too() -> None:
    [judgment], _ = asked([RATING_TASK.model_copy(update={"strict": True})], "<think>[[3]]</think>Rating: [[9]]")

    assert (judgment.verdict, judgment.reasoning) == (Rating(value=3), "")


def test_room_to_reason_is_added_to_the_limit_of_the_reply() -> None:
    _, [body] = asked([RATING_TASK], "[[8]]", reasoning_room=8000)
    assert body["max_tokens"] == 2048 + 8000

    limits: dict[str, JsonValue] = {"max_tokens": None, "max_completion_tokens": 900}
    _, [body] = asked([RATING_TASK], "[[8]]", reasoning_room=8000, params=limits)
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 8900)
    spec = JudgeSpec(name="j", kind="llm", model="x", url="http://h/v1", reasoning_room=8000)
    assert LlmJudge(spec).identity() == {"reasoning_room": 8000}  # a part of the protocol


def test_a_letter_after_the_reasoning_is_read_from_its_own_position() -> None:
    tokens = [("<think>", "<think>"), ("M", "M"), ("</think>", "</think>"), ("m", "m")]
    content = [{"token": token, "top_logprobs": [{"token": top, "logprob": 0.0}]} for token, top in tokens]
    reply = completion("<think>M</think>m", logprobs={"content": content})
    [judgment], [body] = asked([LETTER_TASK], reply, reasoning_room=8000)

    assert judgment.verdict == Preference(value=0)  # m is the baseline, shown first
    assert (judgment.reply, judgment.reasoning) == ("m", "M")
    assert body["max_tokens"] == 1 + 8000


def test_a_huge_reply_is_read_in_linear_time() -> None:
    [judgment], _ = asked([RATING_TASK], "<think>[[1]]</think>\n" * 100_000 + "[" * 500_000 + "[[" + "1" * 500_000)
    assert judgment.error is not None
    assert judgment.error.reason == "parse"
    assert len(judgment.error.message) < 300


def test_a_slot_without_a_field_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="'rate' cannot be filled"):
        render(task(RATE, question="x"))


def test_every_shipped_judge_is_a_valid_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("GEMINI_API_KEY", "k")
    names = [name for name, path in judge_files().items() if "kind: llm" in path.read_text("utf-8")]
    official = {"gpt-4.1", "gpt-4-0613", "gpt-4-1106-preview", "gpt-4-0125-preview", "gemini-2.5-pro"}
    assert official <= set(names)
    for name in names:
        spec = find_judge(name, {})
        assert spec.name == name
        assert json.loads(spec.model_dump_json())["key_env"] in ("OPENAI_API_KEY", "GEMINI_API_KEY")
        assert name not in official or (spec.retired is not None and str(spec.retired) in (spec.note or ""))
        assert spec.price_in is not None
        assert spec.price_out is not None
        assert isinstance(LlmJudge(spec)._client, ChatClient)
