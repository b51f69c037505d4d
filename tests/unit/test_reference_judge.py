"""The reference judge: ratings by written rules, replies in the judge protocol, read by the common parser."""

from __future__ import annotations

import asyncio
import math

import pytest

from harness.records import Answer, JudgeSpec, JudgeTask, JudgeTemplate, Judgment, Order, Preference, Prompt, Rating
from harness.records.errors import ConfigError
from judges.reference import ReferenceJudge, rate


def said(text: str, *more: str, model: str = "candidate") -> Answer:
    turns = (text, *more)
    return Answer(prompt_id="p", model=model, turns=turns, finish=tuple("stop" for _ in turns))


def judged(
    answer: Answer,
    *,
    parser: str,
    gold: tuple[str, ...] = ("fox",),
    baseline: str | None = None,
    order: Order | None = None,
    turn: int | None = None,
) -> Judgment:
    task = JudgeTask(
        prompt=Prompt(id="p", turns=("a", "b"), category="c", reference=gold),
        answer=answer,
        baseline=said(baseline, model="base") if baseline is not None else None,
        turn=turn,
        order=order,
        template=JudgeTemplate(name="t", user="{question}", parser=parser),
        fields={},
    )
    return asyncio.run(ReferenceJudge(JudgeSpec(name="reference", kind="reference")).judge(task))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("fox", 10.0),
        ("  fox \n", 10.0),
        ("fox.", 10.0),
        ("", 1.0),
        ("   ", 1.0),
        ("FOX", 1.0),  # letter case counts: nothing in common
        ("it is fox", 7.0),  # 6 characters of other text
        ("x" * 19 + " fox", 6.0),  # 20 characters of other text
        ("fox " + "x" * 400, 2.0),  # the floor
        ("foxes", 4.0),  # ratio 2*3/8 = 0.75; 1 + 4*0.75 = 4
        ("box", 3.5),  # ratio 2*2/6 = 0.667; 1 + 2.667, down to a half
        ("abc", 1.0),
    ],
)
def test_marks_follow_the_written_rules(answer: str, expected: float) -> None:
    assert rate(answer, "fox") == expected


def test_a_full_stop_of_the_gold_answer_is_wanted() -> None:
    assert rate("fox", "fox.") < 10 == rate("fox.", "fox.")


def test_gold_with_signs_is_found_as_a_word_of_its_own() -> None:
    assert rate("it is [fox]!", "[fox]") == 7


def test_rating_is_of_the_judged_turn() -> None:
    answer = said("fox", "wrong")

    assert judged(answer, parser="rating", gold=("fox", "FOX"), turn=1).verdict == Rating(value=10)
    assert judged(answer, parser="rating", gold=("fox", "FOX"), turn=2).verdict == Rating(value=1)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_label_does_not_depend_on_the_order_shown(order: Order) -> None:
    far = judged(said("fox"), parser="arena_label", baseline="abc", order=order)
    near = judged(said("it is fox"), parser="arena_label", baseline="fox", order=order)
    same = judged(said("fox"), parser="arena_label", baseline="fox.", order=order)

    assert far.verdict == Preference(value=1, strength=2)  # 10 against 1
    assert near.verdict == Preference(value=0, strength=1)  # 7 against 10
    assert same.verdict == Preference(value=0.5)
    assert far.reply is not None
    assert ("[[B>>A]]" if order == "ab" else "[[A>>B]]") in far.reply


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_letter_probability_is_a_sigmoid_of_half_the_difference(order: Order) -> None:
    judgment = judged(said("fox"), parser="letter_logprob", baseline="it is fox", order=order)

    assert isinstance(judgment.verdict, Preference)
    assert judgment.verdict.value == pytest.approx(1 / (1 + math.exp(-1.5)))  # 10 against 7
    assert judgment.reply == ("M" if order == "ab" else "m")
    assert {top.token for top in judgment.logprobs} == {"m", "M"}


def test_prompt_without_gold_is_a_failure_not_a_score() -> None:
    judgment = judged(said("fox"), parser="rating", gold=())

    assert judgment.verdict is None
    assert judgment.error is not None
    assert judgment.error.reason == "other"
    assert "gold" in judgment.error.message


def test_answer_without_the_judged_turn_is_a_failure() -> None:
    judgment = judged(said("fox"), parser="rating", gold=("fox", "FOX"), turn=2)

    assert judgment.error is not None
    assert judgment.error.reason == "answer"


def test_unknown_parser_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="rating, arena_label, letter_logprob"):
        judged(said("fox"), parser="stars")
