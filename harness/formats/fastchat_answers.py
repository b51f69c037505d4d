"""What MT-Bench judgments were about: the answers in FastChat's answer files, and those in the stored judge prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from pydantic import JsonValue

from .fastchat_rows import FAILED_CALL, Row, is_pair, question_of, turn_of
from .files import SourceFile

Answers = dict[str, dict[str, tuple[str, ...]]]
"""Model -> question id -> the texts of its first answer. A model is found by the name in its rows and by its file's."""
FAILED_ANSWER = re.compile(r"^\s*\$ERROR\$\s*$", re.MULTILINE)
"""A failed call's mark on a line of its own, where a judge's prompt shows an answer."""


def read_answers(files: Iterable[SourceFile]) -> Answers:
    """All answers of FastChat's `model_answer` files; of several rows for one question the last wins."""
    found: Answers = {}
    aliases: dict[str, str] = {}
    for file in files:
        stem = PurePath(file.name).stem
        for row in file.rows:
            match row:
                case {"question_id": _, "choices": [{"turns": [*turns]}, *_]}:
                    model = str(row.get("model_id", stem))
                    found.setdefault(model, {})[question_of(row)] = tuple(map(_text, turns))
                    aliases.setdefault(stem, model)
    for stem, model in aliases.items():
        found.setdefault(stem, found[model])
    return found


def _text(turn: JsonValue) -> str:
    return turn if isinstance(turn, str) else FAILED_CALL


def judged_failure(row: Row, answers: Answers) -> bool:
    """Whether a failed call was judged as if it were an answer: by the judge's prompt, or by the answers given."""
    if any(FAILED_ANSWER.search(prompt) for prompt in _prompts(row)):
        return True
    return any(text.strip() == FAILED_CALL for text in _given(row, answers))


def judged_others(rows: Iterable[Row], answers: Answers) -> int:
    """How many rows' judge prompts do not show the answers given."""
    return sum(any(text not in prompt for prompt in _prompts(row) for text in _given(row, answers)) for row in rows)


def _given(row: Row, answers: Answers) -> Sequence[str]:
    """The answers that the row's turn is about, of those given: all turns up to it."""
    models = [row["model_1"], row["model_2"]] if is_pair(row) else [row["model"]]
    return [text for model in models for text in answers.get(str(model), {}).get(question_of(row), ())[: turn_of(row)]]


def _prompts(row: Row) -> list[str]:
    found = [row.get(name) for name in ("user_prompt", "g1_user_prompt", "g2_user_prompt")]
    return [prompt for prompt in found if isinstance(prompt, str)]
