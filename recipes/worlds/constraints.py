"""Verify constraints on an answer by program: length, shape, words, first and last words, letter case.

>>> credits("- Bees dance.\\n- Bees sing.", {"about": ["bee"], "bullets": 2, "words_at_most": 2})
{'bullets': 1.0, 'words_at_most': 0.0}
>>> followed("- Bees dance.\\n- Bees sing.", {"about": ["bee"], "bullets": 2, "words_at_most": 2})
0.5

The idea is IFEval's (arXiv 2311.07911): ask for what can be counted. Constraints, wording and code are ours. An answer
that does not mention what it was asked about follows nothing, else an empty one would follow half of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.records import Answer, Prompt

Constraints = Mapping[str, Any]
"""Name of a constraint -> its value. `about` is required: beginnings of words, one of which the answer must have."""
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
BULLET = re.compile(r"^\s*[-*•]\s+\S", re.MULTILINE)
BREAK = re.compile(r"\n\s*\n")
FENCE = re.compile(r"```(?:json)?\n(.*)\n```", re.DOTALL)


def _at_most(text: str, limit: int) -> float:
    return max(0.0, min(1.0, 2 - len(WORD.findall(text)) / limit))


def _at_least(text: str, limit: int) -> float:
    return min(1.0, len(WORD.findall(text)) / limit)


def _near(count: int, goal: int) -> float:
    return max(0.0, 1 - abs(count - goal) / goal)


def _bullets(text: str, goal: int) -> float:
    return _near(len(BULLET.findall(text)), goal)


def _paragraphs(text: str, goal: int) -> float:
    return _near(len([block for block in BREAK.split(text.strip()) if block.strip()]), goal)


def _heading(text: str, _: object) -> float:
    return float(re.match(r"\s*#{1,6} +\S", text) is not None)


def _json_keys(text: str, keys: Sequence[str]) -> float:
    """Half for a JSON object, maybe in a code block, and half for the share of its keys that are the wanted ones."""
    fenced = FENCE.fullmatch(text.strip())
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(value, dict):
        return 0.0
    return 0.5 + 0.5 * len(set(value) & set(keys)) / max(1, len(set(value) | set(keys)))


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _includes(text: str, words: Sequence[str]) -> float:
    return sum(_has(text, word) for word in words) / len(words)


def _avoids(text: str, words: Sequence[str]) -> float:
    return sum(not _has(text, word) for word in words) / len(words)


def _no_commas(text: str, _: object) -> float:
    return float("," not in text)


def _opens_with(text: str, phrase: str) -> float:
    return float(text.lstrip().startswith(phrase))


def _ends_with(text: str, phrase: str) -> float:
    return float(text.rstrip().endswith(phrase))


def _case(text: str, case: str) -> float:
    return float(text == (text.lower() if case == "lower" else text.upper()))


CREDITS: Mapping[str, Callable[[str, Any], float]] = {
    "words_at_most": _at_most,
    "words_at_least": _at_least,
    "bullets": _bullets,
    "paragraphs": _paragraphs,
    "heading": _heading,
    "json_keys": _json_keys,
    "includes": _includes,
    "avoids": _avoids,
    "no_commas": _no_commas,
    "opens_with": _opens_with,
    "ends_with": _ends_with,
    "case": _case,
}
"""Constraint -> its credit for a text, 0 to 1; 1 only if the text follows it."""


def is_about(text: str, constraints: Constraints) -> bool:
    """Return whether a word of the text begins like one of `about`, in any letter case."""
    return any(re.search(rf"(?<!\w){re.escape(stem)}", text, re.IGNORECASE) for stem in constraints["about"])


def credits(text: str, constraints: Constraints) -> dict[str, float]:
    """Return constraint -> credit in [0, 1], all 0 if the text is about something else.

    Counts get credit for being near, so that of two answers that miss a limit the nearer one is better. Raise
    KeyError for an unknown constraint.
    """
    is_relevant = is_about(text, constraints)
    return {
        name: CREDITS[name](text, value) if is_relevant else 0.0
        for name, value in constraints.items()
        if name != "about"
    }


def followed(text: str, constraints: Constraints) -> float:
    """Return the share of the constraints that the text follows, without credit for being near."""
    values = credits(text, constraints).values()
    return sum(value == 1 for value in values) / len(values)


def check(prompt: Prompt, answer: Answer) -> float:
    """`fusion_harness.checks` entry point "constraints": the share that the last turn follows.

    The prompt's last reference has its constraints as JSON. Raise ValueError, KeyError or TypeError if it does not.
    """
    return followed(answer.turns[-1], json.loads(prompt.reference[-1]))
