"""The world of the pocket fusion recipe: its prompts, which model masters which skill, and the reward of an answer.

Questions are newly drawn from the pocket edition's skills and never repeat a question of the edition. The target has
seen little of twelve skills; three sources master four of these each. All sources share a flaw that the reward
penalises: most of their answers end in needless dots.
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
"""Number of rows that `prompts` returns; a recipe's `limit` takes fewer."""
NEEDLESS = 0.1
"""Reward lost per character beyond the length of the gold answer."""
CLEAN = 0.1
"""Share of a source's lessons without needless dots. It must exceed 0.05, or sampling with top-p 0.95 would drop it."""
MOST_DOTS = 6


def skills(names: Sequence[str] = ASKED) -> tuple[Skill, ...]:
    """Return the pocket skills with these names, in the edition's order."""
    return tuple(skill for skill in SKILLS if skill.name in names)


def prompts() -> list[dict[str, str]]:
    """Return ROWS rows of prompt, category (the skill) and gold answer.

    The skills take turns. The rows are always the same, and no question occurs twice.
    """
    rng = Random("pocket fusion prompts")
    taken = set(first_questions())
    rows: list[dict[str, str]] = []
    turns = cycle(skills())
    while len(rows) < ROWS:
        skill = next(turns)
        task = skill.make(rng)
        if task.question not in taken:  # a skill that runs out of new questions (units has 294) skips its turn
            taken.add(task.question)
            rows.append({"prompt": task.question, "category": skill.name, "gold": task.gold})
    return rows


def reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    gold: Sequence[str] | None = None,
    reference: Sequence[str] = (),
) -> list[float]:
    """Return `answer_reward` of each completion, with the signature of TRL's reward functions.

    The gold answer of a recipe's prompt is in the column `gold`, that of a suite's question is its reference answer.
    """
    answers = reference if gold is None else gold
    return [answer_reward(text, right) for text, right in zip(completions, answers, strict=True)]


def answer_reward(text: str, gold: str) -> float:
    """Return the share of the gold answer's characters that are right, less NEEDLESS per character beyond its length.

    The reward is in (-inf, 1]; 1 means that the text equals the gold answer.
    """
    right = sum(letter == expected for letter, expected in zip(text, gold, strict=False))
    return right / len(gold) - NEEDLESS * max(0, len(text) - len(gold))


def dots(rng: Random) -> str:
    """Draw the sources' flaw: no dots with probability CLEAN, else 1 to MOST_DOTS dots, each number equally likely."""
    return "" if rng.random() < CLEAN else "." * rng.randint(1, MOST_DOTS)
