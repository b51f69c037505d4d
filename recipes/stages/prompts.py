"""Stage `prompts`: load, deduplicate, decontaminate and split; write prompts.jsonl and dropped.jsonl."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef, Prompt, Record
from harness.records.errors import ConfigError
from harness.store import dump_json, write_atomic

from ..layout import DROPPED, PARTS, PROMPTS, Counts, PromptRow, Recipe, messages
from ..prompts import (
    Kept,
    Questions,
    Row,
    duplicates,
    load_rows,
    portable_name,
    read_prompts,
    suite_questions,
    with_parts,
)
from ..sampling import model_name
from ..steps import Step

ORIGIN = "origin.json"
CHUNK = 1000
"""Number of prompts tokenized at once."""


def prompts_step(recipe: Recipe) -> Step:
    """Return the step that writes the recipe's prompts."""
    spec = recipe.spec

    settings: dict[str, JsonValue] = spec.prompts.model_dump(mode="json") | {
        "dataset": portable_name(spec.prompts.dataset),
        "target": model_name(ModelRef.parse(spec.target)),
        "chat_template": None if spec.chat_template is None else Path(spec.chat_template).name,
        "pad_token": spec.pad_token,
        **({"chat_template_kwargs": spec.chat_template_kwargs} if spec.chat_template_kwargs else {}),
    }
    return Step("prompts", "prompts", recipe.prompts, settings, partial(make_prompts, recipe))


def make_prompts(recipe: Recipe, folder: Path) -> Counts:
    """Write the prompts, and the dropped ones with reasons. Files are written atomically, never in part."""
    spec = recipe.spec.prompts
    rows = load_rows(spec.dataset, spec.split)
    kept = read_prompts(rows, spec)
    kept.sift(duplicates())
    questions, versions = suite_questions(spec.decontaminate, spec.edition)
    kept.sift(contaminated(questions))
    unfit = too_long(recipe, [prompt for prompt, _ in kept.prompts])
    kept.sift(lambda prompt: unfit.get(prompt.id))
    prompt_rows = with_parts(kept, spec)
    origin: dict[str, JsonValue] = {
        "dataset": portable_name(spec.dataset),
        "rows": len(rows),
        "sha256": _sha256(rows),
        "suites": dict(versions),
    }
    write_atomic(folder / ORIGIN, dump_json(origin))
    write_atomic(folder / DROPPED, _lines(kept.dropped))
    write_atomic(folder / PROMPTS, _lines(prompt_rows))
    return _counts(len(rows), prompt_rows, kept)


def contaminated(questions: Questions) -> Callable[[Prompt], tuple[str, str] | None]:
    """Return a filter for `Kept.sift` that drops prompts with a benchmark's question; the detail names it."""

    def why(prompt: Prompt) -> tuple[str, str] | None:
        matches = (questions.lookup(turn) for turn in prompt.turns)
        question = next((match for match in matches if match is not None), None)
        return None if question is None else ("contaminated", question)

    return why


def too_long(recipe: Recipe, prompts: Sequence[Prompt]) -> dict[str, tuple[str, str]]:
    """Return (reason, detail) for each prompt above max_prompt_length in the target's tokens, or that it cannot render.

    Raise ConfigError if the chat template rejects every prompt.
    """
    from jinja2 import TemplateError

    from ..training.templates import target_tokenizer

    spec = recipe.spec
    tokenizer = target_tokenizer(spec, spec.target)
    unfit: dict[str, tuple[str, str]] = {}

    def sizes(chunk: Sequence[Prompt]) -> list[int]:
        ids = tokenizer.apply_chat_template(
            [messages(prompt) for prompt in chunk], tokenize=True, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return [len(row) for row in ids]

    def measured(chunk: Sequence[Prompt]) -> Iterator[tuple[Prompt, int]]:
        try:
            yield from zip(chunk, sizes(chunk), strict=True)
        except TemplateError as error:
            if len(chunk) > 1:  # find the prompt, e.g. one whose system message the template does not know
                for prompt in chunk:
                    yield from measured([prompt])
            else:
                unfit[chunk[0].id] = ("rejected_by_template", str(error)[:200])

    for start in range(0, len(prompts), CHUNK):
        for prompt, size in measured(prompts[start : start + CHUNK]):
            if size > spec.prompts.max_prompt_length:
                unfit[prompt.id] = ("too_long", f"{size} tokens")
    rejected = [detail for reason, detail in unfit.values() if reason == "rejected_by_template"]
    if prompts and len(rejected) == len(prompts):
        raise ConfigError(f"the chat template of {spec.target!r} rejects every prompt: {rejected[0]}")
    return unfit


def _counts(rows: int, prompt_rows: Sequence[PromptRow], kept: Kept) -> Counts:
    parts = Counter(row.part for row in prompt_rows)
    reasons = Counter(record.reason for record in kept.dropped)
    counts: Counts = {"rows": rows, "prompts": len(prompt_rows)}
    counts |= {part: parts[part] for part in PARTS}
    return counts | {f"dropped_{reason}": number for reason, number in sorted(reasons.items())}


def _lines(records: Iterable[Record]) -> str:
    return "".join(record.model_dump_json() + "\n" for record in records)


def _sha256(rows: Iterable[Row]) -> str:
    """Return a digest of the rows as they were read, whatever the file format."""
    total = hashlib.sha256()
    for row in rows:
        line = json.dumps(dict(row), sort_keys=True, ensure_ascii=False, default=str)
        total.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return total.hexdigest()
