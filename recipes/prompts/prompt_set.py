"""Turn rows of a data set into prompts with their parts: ids, duplicates, limit and split. Pure.

Prompts are drawn by a digest of (seed, id), so the order of the rows does not change which prompt goes where.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import ConfigError
from harness.records import Prompt, digest

from ..records import Dropped, Part, PromptRow
from ..spec import PromptsSpec
from .dataset import PromptError, Row, prompt_in

ID = re.compile(r"[A-Za-z0-9_][\w.:-]{0,127}", re.ASCII)
"""Ids become part of keys (`id#index`) and pages."""


@dataclass
class Kept:
    """The prompts kept so far, and those dropped."""

    prompts: list[tuple[Prompt, dict[str, str]]] = field(default_factory=list)
    """Each with the additional columns of its row."""
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, prompt: Prompt, reason: str, detail: str = "") -> None:
        self.dropped.append(Dropped(id=prompt.id, reason=reason, detail=detail))

    def sift(self, why: Callable[[Prompt], tuple[str, str] | None]) -> None:
        """Drop the prompts for which `why` returns a (reason, detail)."""
        prompts, self.prompts = self.prompts, []
        for prompt, columns in prompts:
            reason = why(prompt)
            if reason is None:
                self.prompts.append((prompt, columns))
            else:
                self.drop(prompt, *reason)


def read_prompts(rows: Iterable[Row], spec: PromptsSpec) -> Kept:
    """Return the prompts of the rows, and drop those that cannot be asked by themselves.

    Raises ConfigError if a row lacks a column, an id is invalid, or two different prompts share an id.
    """
    kept = Kept()
    taken: dict[str, Prompt] = {}
    for number, row in enumerate(rows, start=1):
        for column in (spec.column, *([spec.id_column] if spec.id_column else []), *spec.columns):
            if column not in row:
                known = ", ".join(sorted(row)) or "none"
                raise ConfigError(f"{spec.dataset}, row {number} has no column {column!r}; it has: {known}")
        try:
            system, words = prompt_in(row, spec.column)
        except PromptError as error:
            kept.dropped.append(Dropped(id=f"row-{number}", reason=error.reason, detail=error.detail))
            continue
        category = row.get("category")
        prompt = Prompt(
            id=_id(row, spec, number) or digest([system, words])[:16],
            turns=(words,),
            category=category if isinstance(category, str) and category else "all",
            system=system,
        )
        first = taken.setdefault(prompt.id, prompt)
        if first is not prompt:
            if (first.turns, first.system) != (prompt.turns, prompt.system):
                raise ConfigError(
                    f"{spec.dataset}, row {number}: the id {prompt.id!r} already belongs to another prompt"
                )
            kept.drop(prompt, "duplicate", prompt.id)
            continue
        kept.prompts.append((prompt, {column: _text(row[column]) for column in spec.columns}))
    return kept


def duplicates() -> Callable[[Prompt], tuple[str, str] | None]:
    """Return a filter for `Kept.sift` that drops repeated prompts, also if only case, white space or width differ."""
    exact: dict[tuple[str | None, str], str] = {}
    plain: dict[tuple[str | None, str], str] = {}

    def why(prompt: Prompt) -> tuple[str, str] | None:
        first = exact.setdefault((prompt.system, prompt.turns[0]), prompt.id)
        if first != prompt.id:
            return "duplicate", first
        first = plain.setdefault((prompt.system, normalised(prompt.turns[0])), prompt.id)
        return None if first == prompt.id else ("near_duplicate", first)

    return why


def normalised(text: str) -> str:
    """Remove differences of case, white space and Unicode form, but keep punctuation: 3 + 4 is not 3 - 4."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def with_parts(kept: Kept, spec: PromptsSpec) -> list[PromptRow]:
    """Return the prompts in use with their parts, in the data set's order.

    Raises ConfigError if there are none, or if holding out validation and test prompts leaves none to train on.
    """
    drawn = sorted((prompt.id for prompt, _ in kept.prompts), key=lambda prompt_id: _place(spec.seed, prompt_id))
    for prompt_id in drawn[spec.limit :] if spec.limit is not None else []:
        kept.dropped.append(Dropped(id=prompt_id, reason="limit"))
    drawn = drawn[: spec.limit]
    held_out = spec.validation + spec.test
    if not drawn:
        reasons = Counter(record.reason for record in kept.dropped).most_common(1)
        raise ConfigError(f"{spec.dataset} has no usable prompt: {reasons[0][0] if reasons else 'it has no rows'}")
    if held_out >= len(drawn):
        raise ConfigError(
            f"prompts: only {len(drawn)} are left, and holding out {held_out} (validation {spec.validation}, test "
            f"{spec.test}) would leave none to train on"
        )
    part = _parts(drawn, spec)
    return [
        PromptRow(prompt=prompt, part=part[prompt.id], columns=columns)
        for prompt, columns in kept.prompts
        if prompt.id in part
    ]


def _parts(drawn: Sequence[str], spec: PromptsSpec) -> Mapping[str, Part]:
    training = len(drawn) - spec.validation - spec.test
    sft = round(training * spec.sft_share)
    sizes: dict[Part, int] = {"validation": spec.validation, "test": spec.test, "sft": sft}
    sizes["preference"] = training - sft
    parts: list[Part] = [part for part, size in sizes.items() for _ in range(size)]
    return dict(zip(drawn, parts, strict=True))


def _place(seed: int, prompt_id: str) -> str:
    return hashlib.sha256(f"{seed}|{prompt_id}".encode()).hexdigest()


def _id(row: Row, spec: PromptsSpec, number: int) -> str | None:
    if spec.id_column is None:
        return None
    prompt_id = str(row[spec.id_column])
    if not ID.fullmatch(prompt_id):
        raise ConfigError(
            f"{spec.dataset}, row {number}: {spec.id_column} = {prompt_id[:80]!r} is not a valid id (at most 128 "
            "letters, digits and . _ : -); leave id_column out to derive ids from the texts"
        )
    return prompt_id


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
