"""Prefer the longer answer: no judge, but the yardstick for one. Free and deterministic.

>>> preference("a long answer", "short"), preference("same", "size")
(1.0, 0.5)

People prefer longer answers too, so this rule agrees with them more often than chance: a judge that does not do better
in `harness judge calibrate` has shown no more than that. It never rates an answer alone.
"""

from __future__ import annotations

from harness.records import Failure, JudgeSpec, JudgeTask, Judgment, Preference
from harness.records.errors import ConfigError
from harness.records.protocols import NothingToOpen


def preference(candidate: str, baseline: str) -> float:
    """Return 1 if the candidate has more characters, 0 if the baseline has, 0.5 for equal lengths."""
    lead = len(candidate) - len(baseline)
    return 0.5 if lead == 0 else float(lead > 0)


class LongestJudge(NothingToOpen):
    """`fusion_harness.judges` entry point "longest"."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec

    def check(self, task: JudgeTask) -> None:
        """Raise ConfigError unless the task compares two answers."""
        if task.baseline is None:
            raise ConfigError(
                f"judge {self.spec.name!r} only compares two answers by length; {task.template.name!r} asks about one: "
                "choose another judge for that suite (--judge SUITE=JUDGE,…)"
            )

    async def judge(self, task: JudgeTask) -> Judgment:
        """Return the preference for the longer answer, over the turns that a judge would see."""
        self.check(task)
        assert task.baseline is not None, "checked"
        if task.answer.error is not None:
            failure = Failure(reason="answer", message=f"the answer to prompt {task.prompt.id!r} failed")
            return Judgment.of(task, self.spec.name, failure)
        candidate, baseline = ("".join(answer.turns[: task.turn]) for answer in (task.answer, task.baseline))
        return Judgment.of(task, self.spec.name, Preference(value=preference(candidate, baseline)))
