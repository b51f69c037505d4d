"""A judge that gives no verdicts: one of its replies is shown, and a name that its server does not list is noticed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from harness.analysis.judge_measures import findings
from harness.judging.calibrated import SuiteCalibration
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI

Serve = Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]
WORDS = (
    "run",
    "--model",
    "echo",
    "--backend",
    "scripted",
    "--suite",
    "mt_bench",
    "--edition",
    "pocket",
    "--limit",
    "2",
)


def test_one_of_the_replies_without_a_verdict_is_shown(harness: Callable[..., Done], serve: Serve) -> None:
    with serve(FakeOpenAI(reply=lambda request: "I would say seven.", model="gpt-x")) as judge:
        done = harness(*WORDS, "--judge", f"endpoint:gpt-x@{judge.url}")

    assert done.code == 4, done.err
    text = " ".join(done.out.split())
    assert "mt_bench: 4 of 4 calls gave no verdict (parse 4), e.g." in text
    assert "I would say seven." in text


def test_a_judge_that_its_server_does_not_list_is_named_before_it_is_asked(
    harness: Callable[..., Done], serve: Serve
) -> None:
    with serve(FakeOpenAI(reply=lambda request: "[[7]]", model="gpt-xl")) as judge:
        wrong = harness(*WORDS, "--judge", f"endpoint:gpt-x@{judge.url}", "--no-cache")
        right = harness(*WORDS, "--judge", f"endpoint:gpt-xl@{judge.url}", "--no-cache")

    assert f"judge 'gpt-x': {judge.url} lists no model 'gpt-x' (did you mean 'gpt-xl'?); it lists gpt-xl" in wrong.err
    assert "lists no model" not in right.err


def test_a_calibration_lists_the_reasons_as_a_sentence_has_them() -> None:
    calibration = SuiteCalibration(retired="gpt-4", items={}, scores={}, failures={"parse": 10, "timeout": 2})

    (sentence,) = findings(calibration, "judge", 0.5)

    assert sentence == "50.0 % of the items have no verdict (parse 10, timeout 2)"
