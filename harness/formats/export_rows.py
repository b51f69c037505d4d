"""What every export starts from: a finished run's rows in the order of its prompts, and how they become text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from ..errors import ConfigError
from ..protocols import Suite
from ..records import Answer, JudgeTask, Judgment, Prompt, ScoreCard

Line = dict[str, JsonValue]
Exporter = Callable[["FinishedRun"], dict[str, str]]
"""A run -> the text of each file, by path below the output folder."""

BROKEN = "$ERROR$"
"""What FastChat and Arena-Hard store in place of an answer or a judgment that did not come."""


@dataclass(frozen=True)
class FinishedRun:
    """A run as it lies in its folder, with the suite that asked it."""

    card: ScoreCard
    suite: Suite
    answers: tuple[Answer, ...]
    judgments: tuple[Judgment, ...]
    """Those of these answers only."""

    def prompts(self) -> Iterator[Prompt]:
        """Those that have an answer row, in the suite's order."""
        there = {answer.prompt_id for answer in self.answers}
        return (prompt for prompt in self.suite.prompts() if prompt.id in there)

    def answers_to(self, prompt: Prompt) -> list[Answer]:
        """By draw."""
        return sorted((row for row in self.answers if row.prompt_id == prompt.id), key=lambda row: row.index)

    def judged(self, prompt: Prompt, answer: Answer) -> list[tuple[JudgeTask, list[Judgment]]]:
        """What the judge was asked about an answer, with what it said: nothing, or a judgment a repeat."""
        own = [row for row in self.judgments if (row.prompt_id, row.index) == (prompt.id, answer.index)]
        return [
            (task, [row for row in own if (row.turn, row.order) == (task.turn, task.order)])
            for task in self.suite.tasks(prompt, answer)
        ]


def question_id(prompt: Prompt) -> int | str:
    """A number where it is one, as in the official MT-Bench files."""
    return int(prompt.id) if prompt.id.isascii() and prompt.id.isdigit() else prompt.id


def slug(name: str) -> str:
    """A file name made of a model's or judge's name."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip(".") or "model"


def asked(task: JudgeTask) -> str:
    """The judge prompt's user text. Raises ConfigError for a template that the task's fields do not fill."""
    try:
        return task.template.user.format(**task.fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"judge template {task.template.name!r} cannot be filled: {error!r}") from None


def said(judgment: Judgment) -> str:
    return judgment.reply if judgment.reply is not None else BROKEN


def json_lines(rows: Iterable[Mapping[str, JsonValue]]) -> str:
    """ASCII only: what a model wrote may hold any character, a lone surrogate included."""
    return "".join(json.dumps(row) + "\n" for row in rows)
