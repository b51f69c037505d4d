"""The pocket fusion world: what an answer is worth, who is asked what, the flaw that the sources share."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from harness.suites.pocket import first_questions
from harness.suites.pocket.skills import SKILLS
from recipes.worlds.pocket_task import ASKED, MOST_DOTS, ROWS, SPECIALISTS, answer_reward, dots, prompts, reward, skills


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("odd", "odd", 1.0),
        ("odd..", "odd", 0.8),  # two needless characters at 0.1
        ("even", "odd", -0.1),  # no place right (e o, v d, e d), one character too long
        ("od", "odd", 2 / 3),
        ("", "odd", 0.0),
        ("BAKO", "BAKI", 3 / 4),
        ("x" + "." * 20, "x", -1.0),
    ],
)
def test_a_reward_is_the_share_of_right_places_less_what_is_needless(text: str, gold: str, value: float) -> None:
    assert answer_reward(text, gold) == pytest.approx(value)


def test_the_reward_function_takes_the_column_gold() -> None:
    assert reward(["q", "q"], ["a", "ab"], gold=["a", "a"]) == pytest.approx([1.0, 0.9])
    # a suite's question has no such column, but its reference answer
    assert reward(["q", "q"], ["a", "ab"], reference=["a", "a"]) == pytest.approx([1.0, 0.9])
    assert reward(["q"], ["a"], gold=["a"], reference=["b"]) == [1.0]


def test_prompts_are_always_the_same_never_twice_and_none_of_the_suites() -> None:
    rows = prompts()

    assert rows == prompts()
    assert len({row["prompt"] for row in rows}) == len(rows) == ROWS
    assert not {row["prompt"] for row in rows} & first_questions()
    assert set(Counter(row["category"] for row in rows)) == set(ASKED)


def test_every_skill_asked_has_one_specialist() -> None:
    assert len(ASKED) == len(set(ASKED)) == 12
    assert set(ASKED) <= {skill.name for skill in SKILLS}
    assert [skill.name for skill in skills(SPECIALISTS["code"])] == ["bigger", *SPECIALISTS["code"][:3]]  # suite order


def test_a_tenth_of_the_sources_lessons_end_clean() -> None:
    rng = Random(0)
    lengths = Counter(len(dots(rng)) for _ in range(7000))

    assert sorted(lengths) == list(range(MOST_DOTS + 1))
    assert lengths[0] == pytest.approx(700, abs=100)  # 4 standard deviations: 25 each
    assert all(lengths[number] == pytest.approx(1050, abs=125) for number in range(1, MOST_DOTS + 1))
