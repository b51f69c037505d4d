"""The judge `longest`: a rule by length, the yardstick for judges."""

from __future__ import annotations

import asyncio

import pytest

from harness.records import Answer, Failure, JudgeTask, JudgeTemplate, Judgment, Order, Preference, Prompt
from harness.records.errors import ConfigError
from harness.records.judge_choice import find_judge
from judges.checks import LongestJudge

TEMPLATE = JudgeTemplate(name="pair", user="{answer_a} {answer_b}", parser="pair_letter")
PROMPT = Prompt(id="q", turns=("Count.", "Go on."), category="math")


def judged(candidate: tuple[str, ...], baseline: tuple[str, ...] | None, turn: int | None = None) -> Judgment:
    answers = [
        None if turns is None else Answer(prompt_id="q", model=name, turns=turns, finish=tuple("stop" for _ in turns))
        for name, turns in (("new", candidate), ("old", baseline))
    ]
    assert answers[0] is not None
    order: Order | None = None if baseline is None else "ab"
    task = JudgeTask(
        prompt=PROMPT, answer=answers[0], baseline=answers[1], turn=turn, order=order, template=TEMPLATE, fields={}
    )
    return asyncio.run(LongestJudge(find_judge("longest", {})).judge(task))


@pytest.mark.parametrize(
    ("candidate", "baseline", "turn", "value"),
    [
        (("one two",), ("one",), None, 1.0),
        (("one",), ("one two",), None, 0.0),
        (("one",), ("two",), None, 0.5),
        (("",), ("two",), None, 0.0),
        (("one", "two three"), ("one more", ""), 1, 0.0),  # the first turn alone
        (("one", "two three"), ("one more", ""), 2, 1.0),  # a judge of the second turn sees both
    ],
)
def test_the_longer_answer_wins(
    candidate: tuple[str, ...], baseline: tuple[str, ...], turn: int | None, value: float
) -> None:
    assert judged(candidate, baseline, turn).verdict == Preference(value=value)


def test_one_answer_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="'longest' only compares two answers by length; 'pair' asks about one"):
        judged(("one",), None)


def test_a_failed_answer_is_no_verdict() -> None:
    failed = Answer(prompt_id="q", model="new", turns=(), error=Failure(reason="http", message="500"))
    old = Answer(prompt_id="q", model="old", turns=("one",), finish=("stop",))
    task = JudgeTask(prompt=PROMPT, answer=failed, baseline=old, order="ab", template=TEMPLATE, fields={})

    judgment = asyncio.run(LongestJudge(find_judge("longest", {})).judge(task))

    assert judgment.verdict is None
    assert judgment.error is not None
    assert judgment.error.reason == "answer"
