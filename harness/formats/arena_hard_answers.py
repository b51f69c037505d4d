"""Parse Arena-Hard's answer files: the length and markdown of each answer, and whether it is a valid answer.

Reads v0.1 (`choices[0].turns[0]`, `conv_metadata` or an older `token_len`), v2.0 (`messages`, `metadata`) and tables of
metadata only. Token counts are the file's own (tiktoken, cl100k_base); nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from pydantic import JsonValue

from .arena_hard_rows import ERROR, Row, is_judgment
from .files import SourceFile

ANSWER_KEYS = {"choices", "messages", "conv_metadata", "metadata"}
"""A row without any of these is not an answer, but for example a judgment without games."""
Style = tuple[float, float, float, float]
"""Tokens, headers, list items, bold spans of one answer."""


@dataclass(frozen=True)
class AnswerFacts:
    """The facts that an answer file states about one answer."""

    tokens: int | None
    style: Style | None
    """None if the file has no markdown counts."""
    broken: bool
    """The stored text is the mark of a failed call."""


Answers = dict[str, dict[str, AnswerFacts]]
"""Model -> question id -> facts. A model is listed by the name in its rows and by its file's name."""


def read_answers(files: Iterable[SourceFile]) -> Answers:
    """Return facts of all answers in the files; of several rows for one answer the last wins. Other rows are
    skipped."""
    answers: Answers = {}
    aliases: dict[str, str] = {}
    for file in files:
        for model, question, facts in _facts(file.rows):
            answers.setdefault(model, {})[question] = facts
            aliases.setdefault(PurePath(file.name).stem, model)
    for stem, model in aliases.items():
        answers.setdefault(stem, answers[model])
    return answers


def _facts(rows: Iterable[Row]) -> Iterator[tuple[str, str, AnswerFacts]]:
    for row in rows:
        model, question = row.get("model_id", row.get("model")), row.get("question_id", row.get("uid"))
        if not isinstance(model, str) or question is None or is_judgment(row) or not ANSWER_KEYS & row.keys():
            continue
        turn, metadata = _turn(row), row.get("conv_metadata", row.get("metadata"))
        counts = metadata if isinstance(metadata, dict) else {}
        tokens = counts.get("token_len", turn.get("token_len"))
        text = turn.get("content")
        broken = row.get("error") is True or (isinstance(text, str) and text.strip() == ERROR)
        yield (
            model,
            str(question),
            AnswerFacts(
                tokens=int(tokens) if isinstance(tokens, int | float) else None,
                style=_style(counts),
                broken=broken,
            ),
        )


def _turn(row: Row) -> Row:
    """Return the answer part of a row (text, and a token count in older files); empty if there is none."""
    match row:
        case {"choices": [{"turns": [dict(turn), *_]}, *_]}:
            return turn
        case {"messages": [*_, {"content": {"answer": str(text)}}]}:
            return {"content": text}
        case _:
            return {}


def _style(counts: Row) -> Style | None:
    parts = [_total(counts.get(name)) for name in ("token_len", "header_count", "list_count", "bold_count")]
    if any(part is None for part in parts):
        return None
    tokens, headers, lists, bold = (part or 0.0 for part in parts)
    return tokens, headers, lists, bold


def _total(count: JsonValue) -> float | None:
    """Return a count, or the sum of counts by kind (h1…h6; ordered, unordered; ** and __)."""
    if isinstance(count, dict):
        return float(sum(value for value in count.values() if isinstance(value, int | float)))
    return float(count) if isinstance(count, int | float) else None
