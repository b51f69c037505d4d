"""Answers and judgments of a suite's tasks, written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Answer, Failure, JudgeTask, Judgment, Verdict
from harness.records.protocols import Suite


def said(prompt_id: str, *turns: str, model: str = "m", tokens: tuple[int, ...] = ()) -> Answer:
    finish = tuple("stop" for _ in turns)
    return Answer.model_validate(
        {"prompt_id": prompt_id, "model": model, "turns": turns, "finish": finish, "completion_tokens": tokens}
    )


def judged(task: JudgeTask, verdict: Verdict | None, repeat: int = 0) -> Judgment:
    return Judgment(
        prompt_id=task.prompt.id,
        index=task.answer.index,
        model=task.answer.model,
        judge="j",
        template_sha=task.template.sha,
        answer_sha=task.answer.sha,
        order=task.order,
        turn=task.turn,
        repeat=repeat,
        verdict=verdict,
        error=None if verdict else Failure(reason="parse", message="no verdict"),
    )


def value(suite: Suite, name: str, answers: Sequence[Answer], judgments: Sequence[Judgment]) -> float | None:
    return suite.score(suite.prompts(), answers, judgments).scores[name].value
