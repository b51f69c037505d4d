"""Parse rows of Arena-Hard's judgment files into questions with two games each, scored or with a reason why not.

Reads v0.1 (`question_id`, games of user_prompt, judgment, score), v2.0 (`uid`, games of score, judgment.answer,
prompt), and v0.1's intermediate table of battles (model_a, model_b, winner).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pydantic import JsonValue

from ..errors import ConfigError
from ..suites.arena_hard_labels import V01_LABELS, V2_LABELS, v01_labels, v2_label
from .files import SourceFile

Version = Literal["v0.1", "v2.0"]
Row = dict[str, JsonValue]

ERROR = "$ERROR$"  # stored by the original tools for a failed call
FAILED_ANSWER = re.compile(r"\|>\s*\$ERROR\$\s*<\|")
"""A failed call's mark between the start and end of an answer in the judge's prompt, in any language."""
SPLITS = {1: (1,), 2: (1, 1), 3: (3,), 6: (3, 3)}
"""Battles of one question -> weights of its games; 4 is 3 + 1 or 1 + 3."""


@dataclass(frozen=True)
class Game:
    """One judged game, from the candidate's side."""

    points: float | None
    """Points that the candidate won: 0, 0.5 or 1; None: unscored."""
    weight: int = 0
    """Battles it counts as: 1, or 3 for a ">>" verdict; 0 if unscored."""
    reason: str | None = None
    """Why it is unscored by our rules; the reference may score it anyway."""
    differs: bool = False
    """Whether the label in the judge's text differs from the stored one."""


@dataclass(frozen=True)
class ArenaQuestion:
    """One question's games, in order: the baseline shown first, then the candidate shown first."""

    id: str
    model: str
    judge: str
    version: Version
    category: str
    baseline: str | None
    """None if the row does not state it (v0.1)."""
    games: tuple[Game, ...]
    file: str


MISSING = Game(None, reason="missing game")


def is_judgment(row: Row) -> bool:
    """Return whether a row has games or a battle; other rows of such a file are answers."""
    return "games" in row or "winner" in row


def read_questions(files: Iterable[SourceFile], *, strict: bool) -> Iterator[ArenaQuestion]:
    """Yield questions in the files' order. `strict`: score as the reference does, broken answers and replies included.

    Raise ConfigError for a row without a model, a question or games.
    """
    for file in files:
        battles = [row for row in file.rows if "winner" in row]
        if battles:
            yield from _battles(file.name, battles)
        for row in file.rows:
            if "games" in row:
                yield _question(file.name, row, strict)


def _question(file: str, row: Row, strict: bool) -> ArenaQuestion:
    version: Version = "v2.0" if "uid" in row else "v0.1"
    name = row.get("uid", row.get("question_id"))
    model, games = row.get("model"), row.get("games")
    if name is None or not isinstance(model, str) or not isinstance(games, list | None):
        raise ConfigError(f"{file}: a row without question_id or uid, model or games is not an Arena-Hard judgment")
    pair = [*(games or []), None, None][:2]
    parsed = tuple(_game(game, position, version, strict) for position, game in enumerate(pair))
    if version == "v2.0" and any(game.points is None for game in parsed):
        # v2.0 load_judgments drops a question completely if one game is broken
        parsed = tuple(
            game if game.points is None else Game(None, reason="the other game is broken", differs=game.differs)
            for game in parsed
        )
    baseline = row.get("baseline")
    return ArenaQuestion(
        id=str(name),
        model=model,
        judge=str(row.get("judge", "unknown")),
        version=version,
        category=str(row.get("category", "arena-hard-v0.1")),
        baseline=baseline if isinstance(baseline, str) else None,
        games=parsed,
        file=file,
    )


def _game(game: JsonValue, position: int, version: Version, strict: bool) -> Game:
    if not isinstance(game, dict):
        return MISSING
    labels = V01_LABELS if version == "v0.1" else V2_LABELS
    stored, text = game.get("score"), _text(game.get("judgment"))
    read = v01_labels(text) if version == "v0.1" else [label for label in (v2_label(text),) if label]
    agreed = read[0] if len(read) == 1 else None
    differs = bool(text.strip()) and agreed != stored
    reason = _reason(stored, read, text, _prompt(game), labels)
    known = labels.get(stored) if isinstance(stored, str) else None
    if known is None or (reason is not None and not strict):
        return Game(None, reason=reason, differs=differs)
    points, weight = known
    return Game(points if position else 1.0 - points, weight, reason, differs)


def _reason(
    stored: JsonValue, read: list[str], text: str, prompt: str, labels: dict[str, tuple[float, int]]
) -> str | None:
    """Return why a game is unscored by our rules; None if it is valid."""
    if ERROR in prompt and FAILED_ANSWER.search(prompt):
        return f"an answer is {ERROR}"
    if ERROR in text and not read:
        return f"the judge's reply is {ERROR}"
    if len(read) > 1:
        return "two different labels"
    if stored is None or stored == "":
        return "no label"
    return None if stored in labels else f"label {str(stored)[:12]!r}"


def _text(judgment: JsonValue) -> str:
    text = judgment.get("answer") if isinstance(judgment, dict) else judgment
    return text if isinstance(text, str) else ""


def _prompt(game: Row) -> str:
    """Return the judge's prompt: a text (v0.1), or the messages sent (v2.0)."""
    prompt = game.get("user_prompt", game.get("prompt"))
    if isinstance(prompt, list):
        return "\n".join(str(part.get("content")) for part in prompt if isinstance(part, dict))
    return prompt if isinstance(prompt, str) else ""


# ---------------------------------------------------------------------------------------------------------- battles


def _battles(file: str, rows: list[Row]) -> Iterator[ArenaQuestion]:
    """Yield questions of a battle table, which has three rows per ">>" verdict; a model against itself is skipped."""
    for (baseline, model, name), group in groupby(
        rows, key=lambda row: (row.get("model_a"), row.get("model_b"), row.get("question_id"))
    ):
        if not isinstance(baseline, str) or not isinstance(model, str) or name is None:
            raise ConfigError(f"{file}: a battle without model_a, model_b or question_id")
        if baseline == model:
            continue
        points = [{"model_a": 0.0, "model_b": 1.0}.get(str(row["winner"]), 0.5) for row in group]
        games, start = [], 0
        for weight in _split(points):
            games.append(Game(points[start], weight))
            start += weight
        missing = [Game(None, reason="no battle: no label, or a failed call")] * (2 - len(games))
        yield ArenaQuestion(
            id=str(name),
            model=model,
            judge="unknown",
            version="v0.1",
            category="arena-hard-v0.1",
            baseline=baseline,
            games=(*games, *missing),
            file=file,
        )


def _split(points: list[float]) -> tuple[int, ...]:
    """Return how a question's rows form games: a game is 1 or 3 equal rows."""
    if len(points) == 4:
        return (3, 1) if len(set(points[:3])) == 1 else (1, 3)
    return SPLITS.get(len(points), (1,) * len(points))
