"""Parse rows of FastChat's judgment files, and decide which to trust.

>>> read_rating({"score": 8, "judgment": "Good. Rating: [[8]]"}).value
8.0
>>> read_rating({"score": 8, "judgment": "Good. Rating: [[7]]"}).why
"8 is stored, the judge's words say 7"

The reference trusts stored values. We also read the judge's reply if the row has it: a row whose reply contradicts the
stored score, or contains no verdict by our rules, has no verdict. Reasoning is not part of a reply, even if the
reference read the stored score from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePath
from typing import Literal

from pydantic import JsonValue

from ...records import Prompt
from ...records.reasoning import split_reasoning
from ...store.official import ensure, is_available_offline
from ..exchange import plain_text
from ..files import FAILED_CALL, SourceFile, number, read_files
from .facts import REFERENCE_SETS
from .suite import REFERENCED

Row = Mapping[str, JsonValue]
Reason = Literal["parse", "conflict", "http", "empty", "answer", "truncated"]

RATING = re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]", re.ASCII)
"""common.py:34 one_score_pattern, `\\d+\\.?\\d*`, without its quadratic time on long digits; ASCII digits only."""
FAILED = -1
"""Stored by FastChat if it finds no rating."""
BROKEN_GAME = "error"
"""Stored by FastChat as the winner if it finds no verdict."""
LOWEST, HIGHEST = 1, 10
LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
"""common.py play_a_match_pair: the first answer's points by the letter in [[…]]; C is a tie."""


@dataclass(frozen=True)
class Reading:
    """The content of one judgment: a value, or the reason why there is none."""

    value: float | None = None
    reason: Reason = "parse"
    why: str = ""


ENDLESS = Reading(reason="truncated", why="the judge's words end inside its reasoning")


def is_single(row: Row) -> bool:
    return "model" in row and "question_id" in row and ("score" in row or "judgment" in row)


def is_pair(row: Row) -> bool:
    return "model_1" in row and "model_2" in row and "question_id" in row and "g1_winner" in row


def judge_name(row: Row) -> str:
    """Return the judge of [model, prompt name]; some tools' files have the model only."""
    judge = row.get("judge")
    if isinstance(judge, list):
        judge = judge[0] if judge else None
    return judge if isinstance(judge, str) and judge else "unknown"


def turn_of(row: Row) -> int:
    turn = row.get("turn")
    return int(turn) if isinstance(turn, int | float) and math.isfinite(turn) else 1


def question_of(row: Row) -> str:
    question = row["question_id"]
    return str(int(question) if isinstance(question, float) and question.is_integer() else question)


def stored_score(row: Row) -> float | None:
    """Return the stored number, or None if there is none (the reference's mean leaves it out too)."""
    score = number(row.get("score"))
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return None
    return float(score)


def read_rating(row: Row) -> Reading:
    """Return the rating by our rules: 1..10, from the first `[[n]]` of the reply, equal to the stored score."""
    stored, words = stored_score(row), row.get("judgment")
    if isinstance(words, str):
        if words.strip() in ("", FAILED_CALL):
            return Reading(reason="http" if words.strip() else "empty", why="the judge's call failed")
        thoughts = split_reasoning(words)
        if not thoughts.closed:
            return ENDLESS
        match = RATING.search(thoughts.visible)
        if match is None:
            scored = "" if stored in (None, FAILED) else f", though {stored:g} is stored"
            return Reading(why=f"no [[rating]] in the judge's words{scored}")
        rating = float(match[1])
        misread = RATING.search(words) if thoughts.reasoning else None
        if stored is None and len(set(map(float, RATING.findall(thoughts.visible)))) > 1:
            return Reading(reason="conflict", why="different ratings in the judge's words, and none is stored")
        if stored not in (None, rating) and (misread is None or stored != float(misread[1])):
            return Reading(reason="conflict", why=f"{stored:g} is stored, the judge's words say {rating:g}")
        stored = rating
    if stored is None or stored == FAILED:
        return Reading(why="no rating is stored")
    if not LOWEST <= stored <= HIGHEST:
        return Reading(why=f"rating {stored:g} is outside {LOWEST}..{HIGHEST}")
    return Reading(value=stored)


def stored_game(row: Row, game: Literal[1, 2]) -> Reading:
    """Return the stored winner of a game as points of model_1: model_1 1, model_2 0, tie 0.5, else none.

    The reference counts every winner except "model_1", "tie" and "error" as model_2's; no other word is ever stored.
    """
    winner = row.get(f"g{game}_winner")
    points = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5}
    if isinstance(winner, str) and winner in points:
        return Reading(value=points[winner])
    return Reading(why=f"game {game} has no winner ({winner!r})")


def read_game(row: Row, game: Literal[1, 2]) -> Reading:
    """Return the winner by our rules: exactly one letter in the judge's reply, equal to the stored winner."""
    stored, words = stored_game(row, game), row.get(f"g{game}_judgment")
    if not isinstance(words, str):
        return stored
    thoughts = split_reasoning(words)
    if not thoughts.closed:
        return ENDLESS
    letters = _letters(thoughts.visible)
    if not letters:
        reason: Reason = "http" if words.strip() == FAILED_CALL else "parse"
        return Reading(reason=reason, why=f"game {game}: no verdict in the judge's words")
    if len(letters) > 1:
        return Reading(reason="conflict", why=f"game {game}: two verdicts in the judge's words")
    points = _points(letters[0], game)
    misread = _points(_letters(words)[0], game) if thoughts.reasoning else points
    if row.get(f"g{game}_winner") == BROKEN_GAME or stored.value not in (None, points, misread):
        return Reading(reason="conflict", why=f"game {game}: the stored winner is not the one in the judge's words")
    return Reading(value=points)


def _letters(words: str) -> list[str]:
    """Return the verdicts in a judge's words; the reference takes the first in this order, wherever they stand."""
    return [letter for letter in LETTERS if f"[[{letter}]]" in words]


def _points(letter: str, game: Literal[1, 2]) -> float:
    """Return the points of model_1; game 2 shows model_2 first."""
    return LETTERS[letter] if game == 1 else 1.0 - LETTERS[letter]


# ------------------------------------------------------------------------------------------------------------ questions
# Known from their numbers: scoring judgments needs no data file.


FIRST, LAST = 81, 160  # question.jsonl at the pinned revision: ten questions per category, in this order
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
OFFICIAL = {str(number): CATEGORIES[(number - FIRST) // 10] for number in range(FIRST, LAST + 1)}
OTHER = "other"


def is_official(ids: Collection[str]) -> bool:
    """Return whether all these question ids are MT-Bench's."""
    return all(question_id in OFFICIAL for question_id in ids)


def questions(ids: Collection[str], turns: int) -> list[Prompt]:
    """Return the 80 questions if all `ids` are among them, so that missing ones are known; else the ids themselves.

    Texts are empty: scoring needs only ids, categories and the number of turns.
    """
    categories = OFFICIAL if is_official(ids) else {each: OFFICIAL.get(each, OTHER) for each in ids}
    return [Prompt(id=each, turns=("",) * turns, category=category) for each, category in categories.items()]


# ------------------------------------------------------------------------------------------------------- judged answers
# In FastChat's answer files, and in the stored judge prompts.


Answers = dict[str, dict[str, tuple[str, ...]]]
"""Model -> question id -> texts of its first answer, for the names of a model in its rows and of its file."""
FAILED_ANSWER = re.compile(r"^\s*\$ERROR\$\s*$", re.MULTILINE)
"""A failed call's mark on its own line, in the place of an answer in a judge's prompt."""


def read_answers(files: Iterable[SourceFile]) -> Answers:
    """Return all answers of FastChat's `model_answer` files; of several rows for one question the last wins."""
    answers: Answers = {}
    aliases: dict[str, str] = {}
    for file in files:
        stem = PurePath(file.name).stem
        for row in file.rows:
            answer = _answer_of(row, stem)
            if answer is not None:
                model, question, turns = answer
                answers.setdefault(model, {})[question] = turns
                aliases.setdefault(stem, model)
    for stem, model in aliases.items():
        answers.setdefault(stem, answers[model])
    return answers


def _answer_of(row: Row, stem: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return model, question and turns of a row of an answer file, or None for any other row."""
    match row:
        case {"question_id": _, "choices": [{"turns": [*turns]}, *_]}:
            return str(row.get("model_id", stem)), question_of(row), tuple(map(_text, turns))
    return None


def _text(turn: JsonValue) -> str:
    return turn if isinstance(turn, str) else FAILED_CALL


@dataclass
class FailedAnswers:
    """Which turns of which answers are failed calls. Nothing else of the answers stays in memory."""

    first: dict[tuple[str, str], int] = field(default_factory=dict)
    """(model, question id) -> its first failed turn, from 1, by the names of a model in its rows and of its file."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Stem of an answer file -> the model of its first row."""

    def add_texts(self, answers: Answers) -> None:
        """Add the failed calls among these answers."""
        for model, by_question in answers.items():
            for question, turns in by_question.items():
                self._add(model, question, turns)

    def add_row(self, row: Row, file: str) -> None:
        """Add a row of an answer file; other rows are skipped."""
        answer = _answer_of(row, PurePath(file).stem)
        if answer is not None:
            self.aliases.setdefault(PurePath(file).stem, answer[0])
            self._add(*answer)

    def _add(self, model: str, question: str, turns: Sequence[str]) -> None:
        failed = next((turn for turn, text in enumerate(turns, start=1) if text.strip() == FAILED_CALL), None)
        if failed is None:
            self.first.pop((model, question), None)  # of several rows for one question the last counts
        else:
            self.first[model, question] = failed

    def covers(self, model: str, question: str, turn: int) -> bool:
        """Return whether a judge of this turn was shown a failed call: a judge sees all turns up to it."""
        failed = self.first.get((model, question), self.first.get((self.aliases.get(model, model), question)))
        return failed is not None and failed <= turn


def failed_prompt(row: Row) -> bool:
    """Return whether a failed call was judged like an answer, according to the judge's prompts."""
    return any(FAILED_CALL in prompt and FAILED_ANSWER.search(prompt) for prompt in _prompts(row))


def judged_other(row: Row, answers: Answers) -> bool:
    """Return whether a row's judge prompts do not show the answers of the files."""
    return any(not _shows(prompt, text) for text in _answers_up_to(row, answers) for prompt in _prompts(row))


def _shows(prompt: str, text: str) -> bool:
    return text in prompt or plain_text(text) in plain_text(prompt)


def _answers_up_to(row: Row, answers: Answers) -> Sequence[str]:
    """Return the answers of the files that a row's turn is about: all turns up to it."""
    models = [row["model_1"], row["model_2"]] if is_pair(row) else [row["model"]]
    return [text for model in models for text in answers.get(str(model), {}).get(question_of(row), ())[: turn_of(row)]]


def _prompts(row: Row) -> list[str]:
    values = [row.get(name) for name in ("user_prompt", "g1_user_prompt", "g2_user_prompt")]
    return [prompt for prompt in values if isinstance(prompt, str)]


# ---------------------------------------------------------------------------------------------------- reference answers
# Which ones the judge was shown is read from the stored judge prompts.


NOT_STATED, UNKNOWN, OTHER_QUESTION, MIXED = "not stated", "unknown", "other", "mixed"
References = dict[str, tuple[str, ...]]
"""Question id -> reference answers, one per turn."""


def fitting_references(row: Row, mirror: str | None) -> frozenset[str] | None:
    """Return the reference sets that a row's judge prompt shows, or None if the row has no prompt that needs one."""
    prompt = row.get("user_prompt", row.get("g1_user_prompt"))
    if not isinstance(prompt, str) or OFFICIAL.get(question_of(row)) not in REFERENCED:
        return None
    question, turn = question_of(row), turn_of(row)
    return frozenset(name for name in REFERENCE_SETS if _is_shown(question, turn, prompt, _references(name, mirror)))


def reference_set(fits: Iterable[frozenset[str] | None], mirror: str | None) -> str:
    """Return `official` or `pr3158` if every prompt that needs a reference shows that set's; `mixed` for both.

    `fits`: `fitting_references` of each row. `other` if a prompt shows neither; `not stated` if no row has such a
    prompt; `unknown` without pinned files.
    """
    shown = [names for names in fits if names is not None]
    if not shown:
        return NOT_STATED
    if not any(_references(name, mirror) for name in REFERENCE_SETS):
        return UNKNOWN
    everywhere = frozenset.intersection(*shown)  # a short answer of one set may be part of the other's
    if everywhere:
        return min(everywhere)
    return MIXED if all(shown) else OTHER_QUESTION


def _is_shown(question: str, turn: int, prompt: str, references: References) -> bool:
    texts = references.get(question, ())[:turn]
    return bool(texts) and all(_shows(prompt, text) for text in texts)


@cache
def _references(name: str, mirror: str | None) -> References:
    """Return the set's references, or nothing if its file is not available, since nothing is downloaded for this."""
    file = f"mt_bench/references/{name}"
    if not is_available_offline(file, mirror):
        return {}
    [source] = read_files([ensure([file], mirror)[file]])
    references: References = {}
    for row in source.rows:
        match row:
            case {"question_id": _, "choices": [{"turns": [str(first), str(second)]}, *_]}:
                references[question_of(row)] = (first, second)
    return references
