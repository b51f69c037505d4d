"""Parse rows of FastChat's judgment files, and decide which to trust.

The reference trusts stored values. We also read the judge's reply if the row has it: a row whose reply contradicts the
stored score, or contains no verdict by our rules, has no verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from .files import number

Row = Mapping[str, JsonValue]
Reason = Literal["parse", "conflict", "http", "empty", "answer"]

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]", re.ASCII)  # common.py:34 one_score_pattern; ASCII digits only
FAILED = -1
"""Stored by FastChat if it finds no rating."""
BROKEN_GAME = "error"
"""Stored by FastChat as the winner if it finds no verdict."""
FAILED_CALL = "$ERROR$"
LOWEST, HIGHEST = 1, 10
LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
"""common.py play_a_match_pair: the first answer's points by the letter in [[…]]; C is a tie."""


@dataclass(frozen=True)
class Reading:
    """The content of one judgment: a value, or the reason why there is none."""

    value: float | None = None
    reason: Reason = "parse"
    why: str = ""


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
    """Return the stored number; None if there is none (the reference's mean leaves it out too)."""
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
        match = RATING.search(words)
        if match is None:
            scored = "" if stored in (None, FAILED) else f", though {stored:g} is stored"
            return Reading(why=f"no [[rating]] in the judge's words{scored}")
        rating = float(match[1])
        if stored is not None and stored != rating:
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
    letters = {letter for letter in LETTERS if f"[[{letter}]]" in words}
    if not letters:
        reason: Reason = "http" if words.strip() == FAILED_CALL else "parse"
        return Reading(reason=reason, why=f"game {game}: no verdict in the judge's words")
    if len(letters) > 1:
        return Reading(reason="conflict", why=f"game {game}: two verdicts in the judge's words")
    points = LETTERS[letters.pop()]
    points = points if game == 1 else 1.0 - points  # game 2 shows model_2 first
    if row.get(f"g{game}_winner") == BROKEN_GAME or (stored.value is not None and stored.value != points):
        return Reading(reason="conflict", why=f"game {game}: the stored winner is not the one in the judge's words")
    return Reading(value=points)
