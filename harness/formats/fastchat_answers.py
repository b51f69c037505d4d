"""Find the judged answers of MT-Bench: in FastChat's answer files, and in the stored judge prompts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from pydantic import JsonValue

from .fastchat_rows import FAILED_CALL, Row, is_pair, question_of, turn_of
from .files import SourceFile

Answers = dict[str, dict[str, tuple[str, ...]]]
"""Model -> question id -> texts of its first answer. A model is listed by the name in its rows and by its file's
name."""
FAILED_ANSWER = re.compile(r"^\s*\$ERROR\$\s*$", re.MULTILINE)
"""A failed call's mark on its own line, in the place of an answer in a judge's prompt."""


def read_answers(files: Iterable[SourceFile]) -> Answers:
    """Return all answers of FastChat's `model_answer` files; of several rows for one question the last wins."""
    answers: Answers = {}
    aliases: dict[str, str] = {}
    for file in files:
        stem = PurePath(file.name).stem
        for row in file.rows:
            match row:
                case {"question_id": _, "choices": [{"turns": [*turns]}, *_]}:
                    model = str(row.get("model_id", stem))
                    answers.setdefault(model, {})[question_of(row)] = tuple(map(_text, turns))
                    aliases.setdefault(stem, model)
    for stem, model in aliases.items():
        answers.setdefault(stem, answers[model])
    return answers


def _text(turn: JsonValue) -> str:
    return turn if isinstance(turn, str) else FAILED_CALL


def judged_failure(row: Row, answers: Answers) -> bool:
    """Return whether a failed call was judged like an answer, according to the judge's prompt or the answer files."""
    if any(FAILED_ANSWER.search(prompt) for prompt in _prompts(row)):
        return True
    return any(text.strip() == FAILED_CALL for text in _given(row, answers))


def judged_others(rows: Iterable[Row], answers: Answers) -> int:
    """Return the number of rows whose judge prompts do not show the answers of the files."""
    return sum(any(text not in prompt for prompt in _prompts(row) for text in _given(row, answers)) for row in rows)


def _given(row: Row, answers: Answers) -> Sequence[str]:
    """Return the answers of the files that a row's turn is about: all turns up to it."""
    models = [row["model_1"], row["model_2"]] if is_pair(row) else [row["model"]]
    return [text for model in models for text in answers.get(str(model), {}).get(question_of(row), ())[: turn_of(row)]]


def _prompts(row: Row) -> list[str]:
    values = [row.get(name) for name in ("user_prompt", "g1_user_prompt", "g2_user_prompt")]
    return [prompt for prompt in values if isinstance(prompt, str)]
