"""The reference judge: compares an answer with the gold answer by written rules, and replies as any judge does.

Marks come from `judges.marking` (10 exactly the gold answer, 7 and less with text around it, at most 5
otherwise, 1 for an empty one; docs/pocket.md spells it out). What the marks become depends on the template's parser:

- rating: `[[mark]]` of the judged turn.
- arena_label: `[[A=B]]` for equal marks, `>` for a difference under 4, `>>` from 4 up.
- letter_logprob: log-probabilities of m and M; the odds of the better answer are exp(difference / 2).

The reply is read by the same parsers as an LLM judge's. It calls no model, costs nothing and is deterministic. A
prompt without a gold answer is not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from harness.errors import ConfigError, VerdictParseError
from harness.records import Answer, Failure, JudgeSpec, JudgeTask, Judgment, TokenLogprob, Verdict

from .marking import mark
from .parsing import read_verdict

MUCH_BETTER = 4.0
"""Difference of marks from which the better answer is "significantly better"."""


@dataclass(frozen=True)
class Reply:
    """What the judge says, in the form an LLM's reply has."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ReferenceJudge:
    """Rule-based judge for prompts with gold answers; a judge like any other."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def check(self, task: JudgeTask) -> None:
        """Raises ConfigError for a template whose parser this judge has no reply for."""
        if task.template.parser not in REPLIES:
            known = ", ".join(REPLIES)
            raise ConfigError(
                f"the reference judge cannot answer for parser {task.template.parser!r}; it knows {known}"
            )

    async def judge(self, task: JudgeTask) -> Judgment:
        """The judgment of one task; an error in it where there is nothing to compare. Raises ConfigError for a template
        whose parser this judge has no reply for."""
        self.check(task)
        failure = _not_comparable(task)
        if failure is not None:
            return self._judgment(task, failure)
        reply = REPLIES[task.template.parser](task)
        try:
            verdict = read_verdict(task.template.parser, reply.text, reply.logprobs, task.order)
        except VerdictParseError as error:
            return self._judgment(task, Failure(reason="parse", message=str(error)), reply)
        return self._judgment(task, verdict, reply)

    def _judgment(self, task: JudgeTask, outcome: Verdict | Failure, reply: Reply | None = None) -> Judgment:
        said, tops = (reply.text, reply.logprobs) if reply else (None, ())
        return Judgment.of(task, self.spec.name, outcome, reply=said, logprobs=tops)


def gold_answer(task: JudgeTask) -> str:
    """The gold answer of the judged turn (1-based; the first where the whole answer is judged)."""
    return task.prompt.reference[(task.turn or 1) - 1]


def rated(task: JudgeTask) -> Reply:
    value = _mark(task, task.answer)
    return Reply(f"Compared with the gold answer by rule. Rating: [[{value:g}]]")


def labelled(task: JudgeTask) -> Reply:
    first, second = _marks_as_shown(task)
    sign = ">>" if abs(first - second) >= MUCH_BETTER else ">" if first != second else "="
    label = f"B{sign}A" if second > first else f"A{sign}B"
    return Reply(f"Marks by rule: A {first:g}, B {second:g}. My final verdict is: [[{label}]]")


def lettered(task: JudgeTask) -> Reply:
    first, second = _marks_as_shown(task)
    lead = (first - second) / 2
    tops = (TokenLogprob(token="m", logprob=_log_sigmoid(lead)), TokenLogprob(token="M", logprob=_log_sigmoid(-lead)))
    likeliest_first = tops if first >= second else tops[::-1]
    return Reply(likeliest_first[0].token, likeliest_first)


REPLIES = {"rating": rated, "arena_label": labelled, "letter_logprob": lettered}
"""Template parser -> the reply it can read."""


def _not_comparable(task: JudgeTask) -> Failure | None:
    turn = task.turn or 1
    if len(task.prompt.reference) < turn:
        return Failure(
            reason="other",
            message=f"prompt {task.prompt.id!r} has no gold answer for turn {turn}; the reference judge needs one",
        )
    if task.answer.error is not None or len(task.answer.turns) < turn:
        return Failure(reason="answer", message=f"the answer to prompt {task.prompt.id!r} has no turn {turn}")
    if task.template.parser != "rating" and (task.baseline is None or len(task.baseline.turns) < turn):
        return Failure(reason="answer", message=f"the baseline has no answer to prompt {task.prompt.id!r}")
    return None


def _mark(task: JudgeTask, answer: Answer) -> float:
    return mark(answer.turns[(task.turn or 1) - 1], gold_answer(task))


def _marks_as_shown(task: JudgeTask) -> tuple[float, float]:
    """Marks of the answers shown first and second."""
    assert task.baseline is not None, "checked before"
    candidate, baseline = _mark(task, task.answer), _mark(task, task.baseline)
    return (candidate, baseline) if task.order == "ba" else (baseline, candidate)


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))
