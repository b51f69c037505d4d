"""`--judge replay:RUN`: look up recorded verdicts instead of asking a judge.

RUN is a run's folder or its judgments.jsonl; `harness import` converts files of the original tools. A verdict is
reused only for exactly the text it was about, or for the same model's answer if the recorded run did not keep a digest
of the text (imported files may not). A missing verdict leaves the task unscored; it is never guessed.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import JsonValue, ValidationError

from harness.records import Failure, JudgeSpec, JudgeTask, Judgment, Order
from harness.records.errors import ConfigError, one_line
from harness.records.protocols import NothingToOpen
from harness.store.files import file_sha256

Place = tuple[str, int, int | None, Order | None, int]
"""Which judgment it is: prompt, draw, turn, order, repeat."""


class ReplayJudge(NothingToOpen):
    """`fusion_harness.judges` entry point "replay". Raise ConfigError if the file of judgments does not exist."""

    def __init__(self, spec: JudgeSpec) -> None:
        if not spec.model:
            raise ConfigError(f"judge {spec.name!r} needs `model`: a run's folder, or a judgments.jsonl")
        self.spec = spec
        self._path = _file(Path(spec.model).expanduser())
        self._recorded = _read(self._path)

    def identity(self) -> dict[str, JsonValue]:
        """Return the recorded judges and a digest of the file, without its path."""
        judges: list[JsonValue] = list(dict.fromkeys(row.judge for row in self._recorded.values()))
        return {"model": None, "recorded": judges, "file": file_sha256(self._path)}

    async def judge(self, task: JudgeTask) -> Judgment:
        """Return the recorded judgment at no cost, or the failure "missing" if there is none for this very answer."""
        key = (task.prompt.id, task.answer.index, task.turn, task.order, task.repeat)
        row = self._recorded.get(key)
        why = "no verdict is recorded for this task" if row is None else _mismatch(row, task)
        overrides = {"judge": self.spec.name, "cost": 0.0, "paid": 0.0, "calls": 0, "seconds": 0.0}
        if row is not None and why is None:
            return row.model_copy(update=overrides)
        failure = Failure(reason="missing", message=f"{why}: {self._path.name}")
        return Judgment.of(task, self.spec.name, failure)


def _mismatch(row: Judgment, task: JudgeTask) -> str | None:
    if row.answer_sha is None:
        return None if row.model == task.answer.model else "the recorded verdict is about another model's answer"
    return None if row.answer_sha == task.answer.sha else "the recorded verdict is about a different text"


def _file(path: Path) -> Path:
    file = path / "judgments.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"--judge replay:{path}: there is no file of judgments; give a run's folder or its judgments.jsonl"
        )
    return file


def _read(path: Path) -> dict[Place, Judgment]:
    """Return the judgments by key; of several with the same key, the last one with a verdict wins."""
    judgments: dict[Place, Judgment] = {}
    judges = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = Judgment.model_validate_json(line)
        except ValidationError as error:
            raise ConfigError(
                f"{path}, line {number} is not a judgment: {one_line(error)}; convert files of the original "
                "tools with `harness import`"
            ) from None
        judges.add(row.judge)
        key = (row.prompt_id, row.index, row.turn, row.order, row.repeat)
        # a later failure never replaces a verdict
        if key not in judgments or row.error is None:
            judgments[key] = row
    if len(judges) > 1:
        raise ConfigError(
            f"{path} has verdicts of {len(judges)} judges ({', '.join(sorted(judges))}); replay needs exactly one"
        )
    return judgments
