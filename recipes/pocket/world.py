"""The world of the pocket fusion recipe: what is asked, who knows what, and how an answer is rewarded.

Questions are those of the pocket edition's skills, drawn anew; none of the edition's own is among them. The target has
seen little of twelve skills; three sources master four of these each. All sources share a flaw that the reward sees:
most of their answers end in needless dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from random import Random

from harness.suites.pocket import first_questions
from harness.suites.pocket.skills import SKILLS, Skill

SPECIALISTS: dict[str, tuple[str, ...]] = {
    "code": ("print_upper", "print_letter", "print_length", "bigger"),
    "words": ("who", "word_form", "robot", "joining"),
    "facts": ("which_word", "units", "base_pairs", "parity"),
}
"""Source -> the skills it masters."""
ASKED = tuple(name for names in SPECIALISTS.values() for name in names)
"""The skills that the recipe's prompts ask for."""
ROWS = 4800
"""Rows that `prompts` gives; a recipe's `limit` takes fewer."""
NEEDLESS = 0.1
"""Reward lost for each character an answer is longer than it should be."""
CLEAN = 0.1
"""Share of a source's lessons that end where they should. A nucleus of 0.95 would cut off 0.05."""
MOST_DOTS = 6


def skills(names: Sequence[str] = ASKED) -> tuple[Skill, ...]:
    """The pocket skills of these names, in the edition's order."""
    return tuple(skill for skill in SKILLS if skill.name in names)


def prompts() -> list[dict[str, str]]:
    """ROWS rows of prompt, category (the skill) and gold, the skills in turn; always the same, no question twice."""
    rng = Random("pocket fusion prompts")
    taken = set(first_questions())
    rows: list[dict[str, str]] = []
    turns = cycle(skills())
    while len(rows) < ROWS:
        skill = next(turns)
        task = skill.make(rng)
        if task.question not in taken:  # a skill with few questions (units has 294) gives up its turn
            taken.add(task.question)
            rows.append({"prompt": task.question, "category": skill.name, "gold": task.gold})
    return rows


def reward(prompts: Sequence[str], completions: Sequence[str], gold: Sequence[str]) -> list[float]:
    """For TRL's reward functions: `answer_reward` of each completion."""
    return [answer_reward(text, right) for text, right in zip(completions, gold, strict=True)]


def answer_reward(text: str, gold: str) -> float:
    """Share of the gold answer's places that hold its character, less NEEDLESS for each character beyond its length.

    In (-inf, 1]; 1: exactly right and nothing else.
    """
    right = sum(letter == expected for letter, expected in zip(text, gold, strict=False))
    return right / len(gold) - NEEDLESS * max(0, len(text) - len(gold))


def dots(rng: Random) -> str:
    """The sources' flaw: nothing in a share of CLEAN, else 1 to MOST_DOTS dots, each number as likely."""
    return "" if rng.random() < CLEAN else "." * rng.randint(1, MOST_DOTS)
