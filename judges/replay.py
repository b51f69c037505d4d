"""`--judge replay:RUN`: verdicts that were given before, looked up instead of asked for.

RUN is a run's folder or its judgments.jsonl; files of the original tools become one by `harness import`. A verdict is
taken only for the very text it was about; where the recorded run did not keep the text (imported files may not), for
the same model's answer. What is not there is unscored, never guessed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import JsonValue, ValidationError

from harness.digests import file_sha256
from harness.errors import ConfigError
from harness.records import Failure, JudgeSpec, JudgeTask, Judgment, Order

Place = tuple[str, int, int | None, Order | None, int]
"""Prompt, draw, turn, order, repeat."""


class ReplayJudge:
    """`fusion_harness.judges` entry point "replay". Raises ConfigError where there is no such file of judgments."""

    def __init__(self, spec: JudgeSpec) -> None:
        if not spec.model:
            raise ConfigError(f"judge {spec.name!r} needs `model`: a run's folder, or a judgments.jsonl")
        self.spec = spec
        self._path = _file(Path(spec.model).expanduser())
        self._found = _read(self._path)

    def identity(self) -> dict[str, JsonValue]:
        """The recorded judges and a digest of the file; its place is nobody's business."""
        judges: list[JsonValue] = list(dict.fromkeys(row.judge for row in self._found.values()))
        return {"model": None, "recorded": judges, "file": file_sha256(self._path)}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def judge(self, task: JudgeTask) -> Judgment:
        """The recorded judgment, at no cost; "missing" where there is none of this answer in these words."""
        place = (task.prompt.id, task.answer.index, task.turn, task.order, task.repeat)
        row = self._found.get(place)
        why = "no verdict on this is recorded" if row is None else _mismatch(row, task)
        own = {"judge": self.spec.name, "cost": 0.0, "paid": 0.0, "calls": 0, "seconds": 0.0}
        if row is not None and why is None:
            return row.model_copy(update=own)
        failure = Failure(reason="missing", message=f"{why}: {self._path.name}")
        return Judgment.of(task, self.spec.name, failure)


def _mismatch(row: Judgment, task: JudgeTask) -> str | None:
    if row.answer_sha is None:
        return None if row.model == task.answer.model else "the recorded verdict is on another model's answer"
    return None if row.answer_sha == task.answer.sha else "the recorded verdict is on another text"


def _file(path: Path) -> Path:
    found = path / "judgments.jsonl" if path.is_dir() else path
    if not found.is_file():
        raise ConfigError(f"--judge replay:{path}: no file of judgments there; give a run's folder or judgments.jsonl")
    return found


def _read(path: Path) -> dict[Place, Judgment]:
    """Of several judgments of one place the last that holds a verdict wins."""
    found: dict[Place, Judgment] = {}
    judges = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = Judgment.model_validate_json(line)
        except ValidationError as error:
            raise ConfigError(
                f"{path}, line {number} is no judgment: {error.errors()[0]['msg']}; files of the original tools become "
                "a run's folder by `harness import`"
            ) from None
        judges.add(row.judge)
        place = (row.prompt_id, row.index, row.turn, row.order, row.repeat)
        if place not in found or row.error is None:
            found[place] = row
    if len(judges) > 1:
        raise ConfigError(f"{path} holds verdicts of {len(judges)} judges ({', '.join(sorted(judges))}); one is wanted")
    return found
