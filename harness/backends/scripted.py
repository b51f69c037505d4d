"""Replay answers that are known in advance, from a JSONL file, or echo the prompt. For tests and demonstrations.

The model is a file of rows `{"prompt_id": …, "turns": […]}` (an optional `index` distinguishes draws, an optional
`reasoning` has a text per turn), or the word `echo`. Reasoning inside a text is split off. If the rows have
`"imported": FORMAT` (`harness import` writes it), the answer settings are unknown. `--engine-arg latency=SECONDS` makes
each turn wait; it changes no answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, zip_longest
from pathlib import Path

from pydantic import JsonValue

from ..records import Answer, Failure, Finish, ModelRef, Prompt, Sampling, digest
from ..records.errors import CheckpointError, ConfigError
from ..records.protocols import NothingToOpen, ServeOptions
from ..records.reasoning import Thoughts, split_reasoning
from .chat import pairs, refuse_unknown

ECHO = "echo"


class ScriptedBackend(NothingToOpen):
    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        refuse_unknown(options, "scripted", ("engine_args",))
        if model.scheme != "path":
            raise ConfigError(f"backend 'scripted' needs a JSONL file or {ECHO!r} as --model, not {str(model)!r}")
        self.label = model.label.removesuffix(".jsonl")
        self._latency = _seconds(pairs(options.engine_args, "scripted", ("latency",)).get("latency", "0"))
        self._in_flight = asyncio.Semaphore(options.concurrency)
        self._imported: set[str] = set()
        self._rows = None if model.name == ECHO else _read(Path(model.name), self._imported)

    def identity(self) -> dict[str, JsonValue]:
        rows = None if self._rows is None else sorted([*key, *row.texts()] for key, row in self._rows.items())
        facts: dict[str, JsonValue] = {
            "backend": "scripted",
            "weights": digest(rows if rows is not None else ECHO),
            "chat_template": None,
        }
        if self._imported:
            facts |= {"imported": "+".join(sorted(self._imported)), "answer_settings": "unknown"}
        return facts

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        begin = time.monotonic()
        async with self._in_flight:
            await asyncio.sleep(self._latency * len(prompt.turns))
        row = self._row(prompt, index)
        if row is not None:
            row = replace(row, turns=row.turns[len(prompt.answered) : len(prompt.turns)])
        seconds = time.monotonic() - begin
        if row is None or not row.turns:
            failure = Failure(reason="missing", message=f"the script has no answer to {prompt.id!r}")
            return Answer(prompt_id=prompt.id, model=self.label, index=index, seconds=seconds, error=failure)
        # each turn's prompt contains the earlier questions; the earlier answers are left out of this rough count
        prompt_words = tuple(accumulate(len(text.split()) for text in prompt.turns))
        reasoning = tuple(thoughts.reasoning for thoughts in row.turns)
        reasoning_words = tuple(len(text.split()) for text in reasoning)
        return Answer(
            prompt_id=prompt.id,
            model=self.label,
            index=index,
            turns=tuple(thoughts.visible for thoughts in row.turns),
            reasoning=reasoning if any(reasoning) else (),
            finish=tuple[Finish, ...]("stop" if thoughts.closed else "length" for thoughts in row.turns),
            prompt_tokens=prompt_words[: len(row.turns)],
            completion_tokens=tuple(
                len(thoughts.visible.split()) + words
                for thoughts, words in zip(row.turns, reasoning_words, strict=True)
            ),
            reasoning_tokens=reasoning_words if any(reasoning_words) else (),
            is_split=row.is_split,
            seconds=seconds,
        )

    def _row(self, prompt: Prompt, index: int) -> ScriptRow | None:
        if self._rows is None:
            return ScriptRow(tuple(Thoughts(text) for text in prompt.turns))
        return self._rows.get((prompt.id, str(index))) or self._rows.get((prompt.id, ""))


@dataclass(frozen=True)
class ScriptRow:
    """One recorded answer: its turns, and whether their reasoning was split off here."""

    turns: tuple[Thoughts, ...]
    is_split: bool = False

    def texts(self) -> list[str]:
        """Return the turns' texts, then their reasoning if there is any: what the row's digest covers."""
        reasoning = [thoughts.reasoning for thoughts in self.turns]
        return [thoughts.visible for thoughts in self.turns] + (reasoning if any(reasoning) else [])

    @classmethod
    def of(cls, turns: Sequence[object], reasoning: Sequence[object]) -> ScriptRow:
        texts = [str(text) for text in turns]
        if any(reasoning):
            pairs_of_texts = zip_longest(texts, (str(text) for text in reasoning[: len(texts)]), fillvalue="")
            return cls(tuple(Thoughts(text, thoughts) for text, thoughts in pairs_of_texts))
        split = tuple(split_reasoning(text) for text in texts)
        return cls(split, any(thoughts.visible != text for thoughts, text in zip(split, texts, strict=True)))


def _read(file: Path, imported: set[str]) -> dict[tuple[str, str], ScriptRow]:
    """Return (prompt id, index or "") -> the answer, and add the formats of imported rows to `imported`.

    Raise CheckpointError with the number of the first wrong line.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"script {str(file)!r} cannot be read: {error}; give a JSONL file or {ECHO!r}") from None
    rows = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            answer = ScriptRow.of(list(row["turns"]), list(row.get("reasoning") or ()))
            rows[str(row["prompt_id"]), str(row.get("index", ""))] = answer
            imported.update([str(row["imported"])] if "imported" in row else [])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f'{file}:{number}: not an answer; a row is {{"prompt_id": "81", "turns": ["text", …]}}'
            ) from None
    return rows


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        raise ConfigError(f"engine argument latency={text!r} is not a number of seconds") from None
