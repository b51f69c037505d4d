"""From rows of a data set to prompts with their parts: ids, duplicates, draws and splits. Pure.

Every draw goes by a digest of (seed, id): a row more or less moves no other prompt to another part.
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
"""Ids end up in keys (`id#index`) and on pages."""


@dataclass
class Kept:
    """What came through so far, and what did not."""

    prompts: list[tuple[Prompt, dict[str, str]]] = field(default_factory=list)
    """With the row's further columns."""
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, prompt: Prompt, reason: str, detail: str = "") -> None:
        self.dropped.append(Dropped(id=prompt.id, reason=reason, detail=detail))

    def sift(self, why: Callable[[Prompt], tuple[str, str] | None]) -> None:
        """Drops the prompts that `why` gives a (reason, detail) for."""
        prompts, self.prompts = self.prompts, []
        for prompt, columns in prompts:
            reason = why(prompt)
            if reason is None:
                self.prompts.append((prompt, columns))
            else:
                self.drop(prompt, *reason)


def read_prompts(rows: Iterable[Row], spec: PromptsSpec) -> Kept:
    """The rows' prompts, those that cannot be asked alone dropped.

    Raises ConfigError for a column that no row has, an id that cannot be one, or two prompts of one id.
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
                raise ConfigError(f"{spec.dataset}, row {number}: another prompt has the id {prompt.id!r} already")
            kept.drop(prompt, "duplicate", prompt.id)
            continue
        kept.prompts.append((prompt, {column: _text(row[column]) for column in spec.columns}))
    return kept


def duplicates() -> Callable[[Prompt], tuple[str, str] | None]:
    """For `Kept.sift`: a prompt equal to an earlier one, or equal but for letter case, white space and its width."""
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
    """Without differences of case, white space and Unicode form; punctuation stays, as 3 + 4 is not 3 - 4."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def with_parts(kept: Kept, spec: PromptsSpec) -> list[PromptRow]:
    """The prompts that are used, in the data set's order. Raises ConfigError where too few are left to hold out."""
    drawn = sorted((prompt.id for prompt, _ in kept.prompts), key=lambda prompt_id: _place(spec.seed, prompt_id))
    for prompt_id in drawn[spec.limit :] if spec.limit is not None else []:
        kept.dropped.append(Dropped(id=prompt_id, reason="limit"))
    drawn = drawn[: spec.limit]
    held_out = spec.validation + spec.test
    if not drawn:
        reasons = Counter(record.reason for record in kept.dropped).most_common(1)
        raise ConfigError(f"{spec.dataset} gives no prompt: {reasons[0][0] if reasons else 'it has no rows'}")
    if held_out >= len(drawn):
        raise ConfigError(
            f"prompts: {len(drawn)} are left and {held_out} are to be held out (validation {spec.validation}, test "
            f"{spec.test}); nothing would be left to train on"
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
            f"{spec.dataset}, row {number}: {spec.id_column} = {prompt_id[:80]!r} is no id (letters, digits, . _ : - , at "
            "most 128); leave id_column out, and ids are made of the texts"
        )
    return prompt_id


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
