"""A suite, a judge and a backend small enough to work out by hand; fakes, not patches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Self

from pydantic import JsonValue

from harness.records import (
    Answer,
    Failure,
    JudgeSpec,
    JudgeTask,
    JudgeTemplate,
    Judgment,
    Prompt,
    Rating,
    Sampling,
    Score,
    SuiteScores,
)

TEMPLATE = JudgeTemplate(name="toy", user="Rate: {answer}", parser="rating")
GREEDY = Sampling(temperature=0.0, max_tokens=16)


def prompt(*turns: str, id: str = "p1", system: str | None = None) -> Prompt:
    return Prompt(id=id, turns=turns or ("hi",), category="toy", system=system)


def toy_prompts(count: int) -> tuple[Prompt, ...]:
    """Ids p000, p001, …; categories even and odd."""
    return tuple(
        Prompt(id=f"p{number:03}", turns=(f"question {number}",), category="odd" if number % 2 else "even")
        for number in range(count)
    )


class ToySuite:
    """One rating a prompt; the score is their mean."""

    name = "toy"
    version = "toy-1"
    headline = "mean"

    def __init__(self, count: int = 20) -> None:
        self._prompts = toy_prompts(count)

    def protocol(self) -> dict[str, JsonValue]:
        return {"data": "toy"}

    def prompts(self) -> Sequence[Prompt]:
        return self._prompts

    def sampling(self, prompt: Prompt) -> Sampling:
        return Sampling(temperature=0.0, max_tokens=8)

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        if answer.error is not None:
            return ()
        fields = {"answer": answer.turns[0]}
        return (JudgeTask(prompt=prompt, answer=answer, turn=1, template=TEMPLATE, fields=fields),)

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        values = [row.verdict.value for row in judgments if row.verdict is not None]
        mean = sum(values) / len(values) if values else None
        return SuiteScores(scores={"mean": Score(value=mean, n=len(values), unscored=len(prompts) - len(values))})


class ToyBackend:
    """Answers `answer to <question>`; counts what was asked; `fails` names prompts that get an error."""

    def __init__(self, *, fails: Sequence[str] = (), delay: float = 0.0) -> None:
        self.asked: list[str] = []
        self.entered = 0
        self._fails = set(fails)
        self._delay = delay

    def identity(self) -> dict[str, JsonValue]:
        return {"backend": "toy", "weights": "none"}

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        await asyncio.sleep(self._delay)
        self.asked.append(prompt.id)
        if prompt.id in self._fails:
            failure = Failure(reason="timeout", message="no answer in 1 s")
            return Answer(prompt_id=prompt.id, model="toy", index=index, error=failure)
        return Answer(
            prompt_id=prompt.id,
            model="toy",
            index=index,
            turns=(f"answer to {prompt.turns[0]}",),
            finish=("stop",),
            prompt_tokens=(2,),
            completion_tokens=(3,),
        )


class ToyJudge:
    """Rates everything alike; `judged` records what was judged, in order; `fails` names prompts without a verdict."""

    def __init__(
        self,
        *,
        fails: Sequence[str] = (),
        before: Callable[[JudgeTask], None] = lambda _: None,
        name: str = "toy",
        rating: float = 7,
    ) -> None:
        self.spec = JudgeSpec(name=name, kind="toy", concurrency=2)
        self._rating = rating
        self.judged: list[str] = []
        self._fails = set(fails)
        self._before = before

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def judge(self, task: JudgeTask) -> Judgment:
        self._before(task)
        await asyncio.sleep(0)
        self.judged.append(task.prompt.id)
        failed = task.prompt.id in self._fails
        return Judgment(
            prompt_id=task.prompt.id,
            model=task.answer.model,
            judge="toy",
            template_sha=task.template.sha,
            turn=task.turn,
            verdict=None if failed else Rating(value=self._rating),
            reply="no rating here" if failed else "Rating: [[7]]",
            error=Failure(reason="parse", message="no [[rating]]") if failed else None,
        )
