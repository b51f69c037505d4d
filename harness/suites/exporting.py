"""What all exports share: a finished run's rows in the order of its prompts, and their conversion to text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module

from pydantic import JsonValue

from ..records import Answer, JudgeTask, Judgment, Prompt, ScoreCard
from ..records.errors import ConfigError
from ..records.protocols import Suite

Line = dict[str, JsonValue]
Exporter = Callable[["FinishedRun"], dict[str, str]]
"""Turns a run into the text of each file, by path below the output folder."""

BROKEN = "$ERROR$"
"""Stored by FastChat and Arena-Hard in place of a missing answer or judgment."""


@dataclass(frozen=True)
class FinishedRun:
    """A run from its folder, with its suite."""

    card: ScoreCard
    suite: Suite
    answers: tuple[Answer, ...]
    judgments: tuple[Judgment, ...]
    """Judgments of these answers only."""

    def prompts(self) -> Iterator[Prompt]:
        """Return the prompts with an answer row, in the suite's order."""
        answered = {answer.prompt_id for answer in self.answers}
        return (prompt for prompt in self.suite.prompts() if prompt.id in answered)

    def answers_to(self, prompt: Prompt) -> list[Answer]:
        """Return the answers to a prompt, by draw."""
        return sorted((row for row in self.answers if row.prompt_id == prompt.id), key=lambda row: row.index)

    def judged(self, prompt: Prompt, answer: Answer) -> list[tuple[JudgeTask, list[Judgment]]]:
        """Return the judge tasks of an answer with their judgments: none, or one per repeat."""
        of_answer = [row for row in self.judgments if (row.prompt_id, row.index) == (prompt.id, answer.index)]
        return [
            (task, [row for row in of_answer if (row.turn, row.order) == (task.turn, task.order)])
            for task in self.suite.tasks(prompt, answer)
        ]


def question_id(prompt: Prompt) -> int | str:
    """Return a number if the id is one, as in the official MT-Bench files."""
    return int(prompt.id) if prompt.id.isascii() and prompt.id.isdigit() else prompt.id


def slug(name: str) -> str:
    """Return a file name for a model's or judge's name."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip(".") or "model"


def user_prompt_of(task: JudgeTask) -> str:
    """Return the judge prompt's user text; raise ConfigError if the task's fields do not fill the template."""
    try:
        return task.template.user.format(**task.fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"judge template {task.template.name!r} cannot be filled: {error!r}") from None


def reply_text(judgment: Judgment) -> str:
    return judgment.reply if judgment.reply is not None else BROKEN


def json_lines(rows: Iterable[Mapping[str, JsonValue]]) -> str:
    """Return ASCII JSON lines: a model's text may contain any character, even a lone surrogate."""
    return "".join(json.dumps(row) + "\n" for row in rows)


# ----------------------------------------------------------------------------------------------------
# List the formats that a run can be exported to, per suite; modules are imported on use.


EXPORTERS = {
    "fastchat": {"mt_bench": "mt_bench.exchange:export", "mt_bench_pairs": "mt_bench.exchange:export_pairs"},
    "alpaca_eval": {"alpaca_eval": "alpaca_eval.exchange:export"},
    "arena_hard": {"arena_hard": "arena_hard.exchange:export", "arena_hard_v2": "arena_hard.exchange:export_v2"},
}
"""Format -> suite -> module:function of this package."""


def suites_of(file_format: str) -> tuple[str, ...]:
    """Return the suites that can be exported to a format; raise ConfigError for an unknown format."""
    if file_format not in EXPORTERS:
        raise ConfigError(f"no format {file_format!r}; known: {', '.join(EXPORTERS)}")
    return tuple(EXPORTERS[file_format])


def exporter(file_format: str, suite: str) -> Exporter:
    """Return the exporter of a suite; raise ConfigError if the format has no files for it."""
    if suite not in suites_of(file_format):
        fits = ", ".join(name for name, suites in EXPORTERS.items() if suite in suites) or "none"
        raise ConfigError(f"a run of {suite!r} has no {file_format} files; formats for it: {fits}")
    module, _, function = EXPORTERS[file_format][suite].partition(":")
    export_function: Exporter = getattr(import_module(f".{module}", __package__), function)
    return export_function
