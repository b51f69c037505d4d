"""Find Arena-Hard's verdict labels in a judge's text, and parse the rows of its files.

>>> v2_label("Both are fine, but A is better: [[a>b]]"), V01_LABELS["A>B"]  # points of A, strength
('A>B', (1.0, 1))

Judgments: v0.1 (`question_id`, games of user_prompt, judgment, score; config/judge_config.yaml and gen_judgment.py at
efc012e), v2.0 (`uid`, games of score, judgment.answer, prompt; config/arena-hard-v2.0.yaml, gen_judgment.py and
show_result.py at 196f6b8), and v0.1's intermediate table of battles (model_a, model_b, winner).

Answers: v0.1 (`choices[0].turns[0]`, `conv_metadata` or an older `token_len`), v2.0 (`messages`, `metadata`) and tables
of metadata only. Token counts are the file's own (tiktoken, cl100k_base); nothing is counted here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import PurePath
from sys import intern
from typing import Literal

from pydantic import JsonValue

from ...records.errors import ConfigError
from ...records.reasoning import split_reasoning
from ..files import FAILED_CALL, SourceFile
from ..scoring import STRONG_WEIGHT

DOUBLE = re.compile(r"\[\[([AB<>=]+)\]\]")
SINGLE = re.compile(r"\[([AB<>=]+)\]")

V01_LABELS: dict[str, tuple[float, int]] = {
    "A>>B": (1.0, 2),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, 2),
}
"""Label -> (points of A, strength). A verdict of strength 2 counts as `STRONG_WEIGHT` battles (../scoring.py)."""
V2_LABELS: dict[str, tuple[float, int]] = V01_LABELS | {
    "A<<B": (0.0, 2),
    "A<B": (0.0, 1),
    "B=A": (0.5, 1),
    "B<A": (1.0, 1),
    "B<<A": (1.0, 2),
}
"""The mirrored spellings count in v2.0 only."""


def label_of(points: float, strength: int) -> str | None:
    """Return the label of A's points and strength, or None if no label means them, as for a jury's mean."""
    return next((label for label, verdict in V01_LABELS.items() if verdict == (points, strength)), None)


def v01_labels(text: str) -> list[str]:
    """Return the distinct labels in a text, sorted; v0.1 accepts a verdict with exactly one."""
    return sorted(set(DOUBLE.findall(text)))


def v2_label(text: str) -> str | None:
    """Return the last label in double brackets, else in single ones, in upper case, or None if there is none."""
    upper = text.upper()
    labels = DOUBLE.findall(upper) or SINGLE.findall(upper)
    return str(labels[-1]) if labels else None


Version = Literal["v0.1", "v2.0"]
Row = dict[str, JsonValue]

FAILED_ANSWER = re.compile(r"\|>\s*\$ERROR\$\s*<\|")
"""A failed call's mark between the start and end of an answer in the judge's prompt, in any language."""
ROWS_PER_STRONG_VERDICT = 3
"""Equal rows that stand for one ">>" verdict in v0.1's table of battles: part of the format, unlike STRONG_WEIGHT."""
V01_CATEGORY = "arena-hard-v0.1"
ANSWER_KEYS = {"choices", "messages", "conv_metadata", "metadata"}
"""A row without any of these is not an answer, but for example a judgment without games."""
Style = tuple[float, float, float, float]
"""Tokens, headers, list items, bold spans of one answer."""


@dataclass(frozen=True, slots=True)
class Game:
    """One judged game, from the candidate's side."""

    points: float | None
    """Points that the candidate won: 0, 0.5 or 1; None: unscored."""
    strength: int = 1
    """2 for a ">>" verdict."""
    reason: str | None = None
    """Why it is unscored by our rules; the reference may score it anyway."""
    differs: bool = False
    """Whether the label in the judge's text differs from the stored one."""

    @property
    def weight(self) -> int:
        """Return the number of battles that a scored game counts as."""
        return STRONG_WEIGHT if self.strength == 2 else 1


@dataclass(frozen=True, slots=True)
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
    """Name of its file."""
    location: str = ""
    """Path of its file."""

    @property
    def verdict(self) -> tuple[tuple[float | None, int], ...] | None:
        """Return points and strength of the games, or None if no game is scored."""
        if all(game.points is None for game in self.games):
            return None
        return tuple((game.points, game.strength) for game in self.games)


MISSING = Game(None, reason="missing game")
CUT_REASONING = "the judge's reply ends inside its reasoning"


def is_judgment(row: Row) -> bool:
    """Return whether a row has games or a battle; other rows of such a file are answers."""
    return "games" in row or "winner" in row


def read_questions(
    files: Iterable[SourceFile], *, strict: bool, other_row: Callable[[Row, str], None] | None = None
) -> Iterator[ArenaQuestion]:
    """Yield questions in the files' order, reading each row once.

    `strict`: score as the reference does, broken answers and replies included. `other_row` gets every other row with
    its file's name. Raise ConfigError for a row without a model, a question or games.
    """
    for file in files:
        for pair, rows in groupby(file.rows, key=_battle_of):
            if pair is not None:
                yield from _battle(file, pair, rows)
                continue
            for row in rows:
                if "games" in row:
                    yield _question(file, row, strict)
                elif other_row is not None:
                    other_row(row, file.name)


def _question(file: SourceFile, row: Row, strict: bool) -> ArenaQuestion:
    version: Version = "v2.0" if "uid" in row else "v0.1"
    name = row.get("uid", row.get("question_id"))
    model, games = row.get("model"), row.get("games")
    if name is None or not isinstance(model, str) or not isinstance(games, list | None):
        raise ConfigError(
            f"{file.name}: a row without question_id or uid, model or games is not an Arena-Hard judgment"
        )
    pair = [*(games or []), None, None][:2]
    parsed = tuple(_game(game, position, version, strict) for position, game in enumerate(pair))
    if version == "v2.0" and any(game.points is None for game in parsed):
        # v2.0 load_judgments drops a question completely if one game is broken
        parsed = tuple(
            game
            if game.points is None
            else _shared(Game(None, reason="the other game is broken", differs=game.differs))
            for game in parsed
        )
    baseline = row.get("baseline")
    return ArenaQuestion(
        id=intern(str(name)),
        model=intern(model),
        judge=intern(str(row.get("judge", "unknown"))),
        version=version,
        category=intern(str(row.get("category", V01_CATEGORY))),
        baseline=intern(baseline) if isinstance(baseline, str) else None,
        games=parsed,
        file=file.name,
        location=file.location,
    )


@lru_cache(maxsize=4096)
def _shared(game: Game) -> Game:
    """Return one object per distinct game: there are few, and files have many rows."""
    return game


def _game(game: JsonValue, position: int, version: Version, strict: bool) -> Game:
    if not isinstance(game, dict):
        return MISSING
    labels = V01_LABELS if version == "v0.1" else V2_LABELS
    stored, whole = game.get("score"), _text(game.get("judgment"))
    thoughts = split_reasoning(whole)
    text = thoughts.visible
    read = v01_labels(text) if version == "v0.1" else [label for label in (v2_label(text),) if label]
    agreed = read[0] if len(read) == 1 else None
    differs = bool(whole.strip()) and agreed != stored
    if thoughts.reasoning and not strict:
        stored = agreed  # the reference reads the reasoning too, so what it stored may be a thought
    reason = _reason(stored, read, text, _prompt(game), labels) if thoughts.closed else CUT_REASONING
    verdict = labels.get(stored) if isinstance(stored, str) else None
    if verdict is None or (reason is not None and not strict):
        return _shared(Game(None, reason=reason, differs=differs))
    points, strength = verdict
    return _shared(Game(points if position else 1.0 - points, strength, reason, differs))


def _reason(
    stored: JsonValue, read: list[str], text: str, prompt: str, labels: dict[str, tuple[float, int]]
) -> str | None:
    """Return why a game is unscored by our rules, or None if it is valid."""
    if FAILED_CALL in prompt and FAILED_ANSWER.search(prompt):
        return f"an answer is {FAILED_CALL}"
    if FAILED_CALL in text and not read:
        return f"the judge's reply is {FAILED_CALL}"
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


def _battle_of(row: Row) -> tuple[JsonValue, JsonValue, JsonValue] | None:
    """Return baseline, model and question of a row of a battle table, or None for any other row."""
    return (row.get("model_a"), row.get("model_b"), row.get("question_id")) if "winner" in row else None


def _battle(
    file: SourceFile, pair: tuple[JsonValue, JsonValue, JsonValue], rows: Iterable[Row]
) -> Iterator[ArenaQuestion]:
    """Yield a question of a battle table, which has three rows per ">>" verdict; a model against itself is skipped."""
    baseline, model, name = pair
    if not isinstance(baseline, str) or not isinstance(model, str) or name is None:
        raise ConfigError(f"{file.name}: a battle without model_a, model_b or question_id")
    if baseline == model:
        return
    games = _split([{"model_a": 0.0, "model_b": 1.0}.get(str(row["winner"]), 0.5) for row in rows])
    missing = [Game(None, reason="no battle: no label, or a failed call")] * (2 - len(games))
    yield ArenaQuestion(
        id=intern(str(name)),
        model=intern(model),
        judge="unknown",
        version="v0.1",
        category=V01_CATEGORY,
        baseline=intern(baseline),
        games=tuple(map(_shared, (*games, *missing))),
        file=file.name,
        location=file.location,
    )


def _split(points: list[float]) -> list[Game]:
    """Return the games of a question's rows: one row is a plain verdict, three equal ones are a strong verdict."""
    strong = ROWS_PER_STRONG_VERDICT
    mixed = (strong, 1) if len(set(points[:strong])) == 1 else (1, strong)
    sizes = {strong: (strong,), strong + 1: mixed, 2 * strong: (strong, strong)}.get(len(points), (1,) * len(points))
    starts = accumulate(sizes, initial=0)
    return [Game(points[start], 2 if size == strong else 1) for start, size in zip(starts, sizes, strict=False)]


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """The facts that an answer file states about one answer."""

    tokens: int | None
    style: Style | None
    """None if the file has no markdown counts."""
    broken: bool
    """The stored text is the mark of a failed call."""


Answers = dict[str, dict[str, AnswerFacts]]
"""Model -> question id -> facts. A model is listed by the name in its rows and by its file's name."""


@dataclass
class CollectedAnswers:
    """Facts of all answers, collected row by row; the last row of an answer wins, and other rows are skipped."""

    answers: Answers = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Stem of a file -> the model of its first answer."""

    def add_row(self, row: Row, file: str) -> None:
        facts = _facts(row)
        if facts is not None:
            model, question, answer = facts
            self.answers.setdefault(model, {})[question] = answer
            self.aliases.setdefault(PurePath(file).stem, model)

    def by_model(self) -> Answers:
        """Return model -> question id -> facts, also by the names of the files."""
        return {stem: self.answers[model] for stem, model in self.aliases.items()} | self.answers


def read_answers(files: Iterable[SourceFile]) -> Answers:
    """Return facts of all answers in the files."""
    collected = CollectedAnswers()
    for file in files:
        for row in file.rows:
            collected.add_row(row, file.name)
    return collected.by_model()


def _facts(row: Row) -> tuple[str, str, AnswerFacts] | None:
    model, question = row.get("model_id", row.get("model")), row.get("question_id", row.get("uid"))
    if not isinstance(model, str) or question is None or is_judgment(row) or not ANSWER_KEYS & row.keys():
        return None
    turn, metadata = _turn(row), row.get("conv_metadata", row.get("metadata"))
    counts = metadata if isinstance(metadata, dict) else {}
    tokens = counts.get("token_len", turn.get("token_len"))
    text = turn.get("content")
    broken = row.get("error") is True or (isinstance(text, str) and text.strip() == FAILED_CALL)
    count = int(tokens) if isinstance(tokens, int | float) else None
    return intern(model), intern(str(question)), AnswerFacts(count, _style(counts), broken)


def _turn(row: Row) -> Row:
    """Return the answer part of a row (text, and a token count in older files), or nothing if there is none."""
    match row:
        case {"choices": [{"turns": [dict(turn), *_]}, *_]}:
            return turn
        case {"messages": [*_, {"content": {"answer": str(text)}}]}:
            return {"content": text}
        case _:
            return {}


def _style(counts: Row) -> Style | None:
    match [_total(counts.get(name)) for name in ("token_len", "header_count", "list_count", "bold_count")]:
        case [float(tokens), float(headers), float(lists), float(bold)]:
            return tokens, headers, lists, bold
    return None


def _total(count: JsonValue) -> float | None:
    """Return a count, or the sum of counts by kind (h1…h6; ordered, unordered; ** and __)."""
    if isinstance(count, dict):
        return float(sum(value for value in count.values() if isinstance(value, int | float)))
    return float(count) if isinstance(count, int | float) else None
