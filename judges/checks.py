"""Judge answers without a model: by checks in Python (judge `checks`), or by length (judge `longest`).

>>> prompt = Prompt(id="1", turns=("As JSON: the capital of France",), category="geo", reference=("Paris",))
>>> answer = Answer(prompt_id="1", model="m", turns=('{"capital": "Paris"}',))
>>> valid_json(prompt, answer), contains_reference(prompt, answer)
(True, True)

>>> preference("a long answer", "short"), preference("same", "size")
(1.0, 0.5)

A check is called with a Prompt and an Answer and returns True, False, or a share in 0..1. Packages install checks under
`fusion_harness.checks`. A suite's file names its checks (`judge: {kind: checks, checks: [...]}`); it can run no others,
as only installed packages are imported.

A longer answer is not a better one; `longest` is a yardstick for judges. People prefer longer answers too, so this rule
agrees with them more often than chance: a judge that does no better in `harness judge calibrate` has shown no more.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

from harness.records import Answer, Failure, JudgeSpec, JudgeTask, Judgment, Preference, Prompt, Rating
from harness.records.errors import ConfigError, one_line
from harness.records.protocols import NothingToOpen, load_plugin

PREFIX = "checks:"
Check = Callable[[Prompt, Answer], bool | float]


class ChecksJudge(NothingToOpen):
    """`fusion_harness.judges` entry point "checks"."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec

    def check(self, task: JudgeTask) -> None:
        """Raise ConfigError if the task has no checks, PluginError if one of them is not installed."""
        for name in names_of(task):
            load_plugin("checks", name)

    async def judge(self, task: JudgeTask) -> Judgment:
        """Return the share of checks passed, 0..100, with each check's result; a check that raises is a failure."""
        results: dict[str, float] = {}
        for name in names_of(task):
            try:
                result = float(await asyncio.to_thread(load_plugin("checks", name), task.prompt, task.answer))
            except Exception as error:  # a plug-in may raise anything, and a failure is not a score
                failure = Failure(reason="other", message=f"check {name}: {type(error).__name__}: {one_line(error)}")
                return Judgment.of(task, self.spec.name, failure)
            if not 0 <= result <= 1:
                failure = Failure(reason="other", message=f"check {name} returned {result}, not True, False or 0..1")
                return Judgment.of(task, self.spec.name, failure)
            results[name] = result
        share = 100 * sum(results.values()) / len(results)
        verdict = Rating(value=share, low=0, high=100, items=results if len(results) > 1 else {})
        reply = ", ".join(f"{name}: {result:g}" for name, result in results.items())
        return Judgment.of(task, self.spec.name, verdict, reply=reply)


def names_of(task: JudgeTask) -> list[str]:
    """Return the names of the task's checks. Raise ConfigError if its suite has none."""
    if not task.template.parser.startswith(PREFIX):
        raise ConfigError("judge 'checks' is for suites of kind checks; name another judge for this one")
    return task.template.parser.removeprefix(PREFIX).split(",")


def exact_match(prompt: Prompt, answer: Answer) -> bool:
    """Return whether the last turn equals the last reference, but for white space at its ends."""
    return bool(prompt.reference) and answer.turns[-1].strip() == prompt.reference[-1].strip()


def contains_reference(prompt: Prompt, answer: Answer) -> bool:
    """Return whether the last turn contains the last reference as separate words, in any letter case."""
    reference = prompt.reference[-1].strip() if prompt.reference else ""
    # not \b, which matches beside a letter or digit only: a reference may begin or end with a symbol
    pattern = rf"(?<!\w){re.escape(reference)}(?!\w)"
    return bool(reference) and re.search(pattern, answer.turns[-1], re.IGNORECASE) is not None


def valid_json(prompt: Prompt, answer: Answer) -> bool:
    """Return whether the last turn is JSON, maybe in a code block."""
    text = answer.turns[-1].strip()
    fenced = re.fullmatch(r"```(?:json)?\n(.*)\n```", text, re.DOTALL)
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


# ---------------------------------------------------------------------------------------------------- the longer answer


def preference(candidate: str, baseline: str) -> float:
    """Return 1 if the candidate has more characters, 0 if the baseline has, 0.5 for equal lengths."""
    lead = len(candidate) - len(baseline)
    return 0.5 if lead == 0 else float(lead > 0)


class LongestJudge(NothingToOpen):
    """`fusion_harness.judges` entry point "longest". It compares two answers and never rates one alone."""

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
