"""Determine which reference answers an MT-Bench judge was shown, from the stored judge prompts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from ..official import ensure, is_available_offline
from ..suites.mt_bench_data import REFERENCE_SETS, REFERENCED
from .fastchat_rows import Row, question_of, turn_of
from .files import read_files
from .mt_questions import OFFICIAL

NOT_STATED, UNKNOWN, OTHER, MIXED = "not stated", "unknown", "other", "mixed"
References = dict[str, tuple[str, ...]]
"""Question id -> reference answers, one per turn."""


def reference_set(rows: Iterable[Row], mirror: str | None) -> str:
    """Return `official` or `pr3158` if every prompt that needs a reference shows that set's; `mixed` for both.

    `other` if a prompt shows neither; `not stated` if no row has such a prompt; `unknown` if no pinned file is
    available.
    """
    shown = [
        (question_of(row), turn_of(row), prompt)
        for row in rows
        if OFFICIAL.get(question_of(row)) in REFERENCED
        and isinstance(prompt := row.get("user_prompt", row.get("g1_user_prompt")), str)
    ]
    if not shown:
        return NOT_STATED
    known = {name: references for name in REFERENCE_SETS if (references := _references(name, mirror))}
    if not known:
        return UNKNOWN
    fits = [{name for name, references in known.items() if _is_shown(*prompt_row, references)} for prompt_row in shown]
    everywhere = set.intersection(*fits)  # a short answer of one set may be part of the other's
    if everywhere:
        return min(everywhere)
    return MIXED if all(fits) else OTHER


def _is_shown(question: str, turn: int, prompt: str, references: References) -> bool:
    texts = references.get(question, ())[:turn]
    return bool(texts) and all(text in prompt for text in texts)


@cache
def _references(name: str, mirror: str | None) -> References:
    """Return the set's references; empty if its file is not available, since nothing is downloaded for this."""
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
