"""Answers that are known in advance: a JSONL file of them, or an echo. For tests, demonstrations and replays.

The model is a file of rows `{"prompt_id": …, "turns": […]}` (an optional `index` distinguishes draws), or the word
`echo`. If the rows have `"imported": FORMAT` (`harness import` writes it), the answer settings are unknown.
`--engine-arg latency=SECONDS` makes each turn wait; it changes no answer.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import accumulate
from pathlib import Path

from pydantic import JsonValue

from ..records import Answer, Failure, Finish, ModelRef, Prompt, Sampling, digest
from ..records.errors import CheckpointError, ConfigError
from ..records.protocols import NothingToOpen, ServeOptions
from .chat import pairs, refuse_unknown

ECHO = "echo"


class ScriptedBackend(NothingToOpen):
    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        refuse_unknown(options, "scripted", ("engine_args",))
        if model.scheme != "path":
            raise ConfigError(f"backend 'scripted' needs a JSONL file or {ECHO!r} as --model, not {str(model)!r}")
        self.label = model.label.removesuffix(".jsonl")
        self._latency = _seconds(pairs(options.engine_args, "scripted", ("latency",)).get("latency", "0"))
        self._places = asyncio.Semaphore(options.concurrency)
        self._imported: set[str] = set()
        self._texts = None if model.name == ECHO else _read(Path(model.name), self._imported)

    def identity(self) -> dict[str, JsonValue]:
        rows = None if self._texts is None else sorted([*key, *turns] for key, turns in self._texts.items())
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
        async with self._places:
            await asyncio.sleep(self._latency * len(prompt.turns))
        turns = self._turns(prompt, index)
        seconds = time.monotonic() - begin
        if turns is None:
            failure = Failure(reason="missing", message=f"the script has no answer to {prompt.id!r}")
            return Answer(prompt_id=prompt.id, model=self.label, index=index, seconds=seconds, error=failure)
        # each turn's prompt contains the earlier questions; the earlier answers are left out of this rough count
        prompt_words = tuple(accumulate(len(text.split()) for text in prompt.turns))
        return Answer(
            prompt_id=prompt.id,
            model=self.label,
            index=index,
            turns=turns,
            finish=tuple[Finish, ...]("stop" for _ in turns),
            prompt_tokens=prompt_words[: len(turns)],
            completion_tokens=tuple(len(text.split()) for text in turns),
            seconds=seconds,
        )

    def _turns(self, prompt: Prompt, index: int) -> tuple[str, ...] | None:
        if self._texts is None:
            return prompt.turns
        return self._texts.get((prompt.id, str(index))) or self._texts.get((prompt.id, ""))


def _read(file: Path, imported: set[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return (prompt id, index or "") -> the answer's turns, and add the formats of imported rows to `imported`.

    Raise CheckpointError with the number of the first wrong line.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"script {str(file)!r} cannot be read: {error}; give a JSONL file or {ECHO!r}") from None
    texts = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            turns = tuple(str(text) for text in row["turns"])
            texts[str(row["prompt_id"]), str(row.get("index", ""))] = turns
            imported.update([str(row["imported"])] if "imported" in row else [])
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f'{file}:{number}: not an answer; a row is {{"prompt_id": "81", "turns": ["text", …]}}'
            ) from None
    return texts


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        raise ConfigError(f"engine argument latency={text!r} is not a number of seconds") from None
