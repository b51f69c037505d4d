"""Prompts -> answers -> judgments, streamed: an answer is judged as soon as it exists.

A judge that needs the candidate's devices (`LoadedJudge`) judges afterwards, when all answers exist and the candidate's
server is gone.

Workers pull prompts one at a time and put judge tasks into a bounded queue, so memory holds what is in flight and no
more; slow judges hold generation back. Rows are appended to the store as they arrive. What is in the store already is
not asked again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Literal

from .errors import HarnessError, first_error
from .judging.anchors import anchor_tasks
from .judging.injection import is_suspect
from .judging.prefixes import in_prefix_order
from .judging.queues import JudgeQueues
from .plan import Plan, folder_of
from .protocols import Backend, Judge, LoadedJudge, Suite
from .records import Answer, JudgeTask, Judgment, Prompt, Sampling
from .store import JsonlRows, RunStore

log = logging.getLogger(__name__)

DONE_FAILURES = frozenset({"context"})
"""Failures that asking again cannot mend."""


@dataclass
class StageUsage:
    """What one stage of one suite took in this process."""

    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    paid: float = 0.0
    """US dollars: what the rows' replies cost when they were asked for, and what of it was paid now."""
    calls: int = 0
    first: float | None = None
    """time.monotonic() when the stage's first request went out."""
    last: float = 0.0

    @property
    def seconds(self) -> float:
        """Wall time from the first request to the last row."""
        return 0.0 if self.first is None else max(0.0, self.last - self.first)


@dataclass
class SuiteRun:
    """One suite of one run: what is asked, who judges, where rows go."""

    suite: Suite
    judges: tuple[Judge, ...]
    """One, or the members of a jury, each with a `spec.name` of its own."""
    store: RunStore
    prompts: tuple[Prompt, ...]
    sampling: Callable[[Prompt], Sampling]
    repeats: int = 1
    """Times every judge is asked the same."""
    anchors: tuple[JudgeTask, ...] = ()
    """Recorded answers that are judged again; `store.anchors` must be open."""
    start_seconds: float = 0.0
    """Until the server could be asked, where this process started one."""
    answering: StageUsage = field(default_factory=StageUsage)
    judging: StageUsage = field(default_factory=StageUsage)

    def draws(self) -> Iterator[tuple[Prompt, int]]:
        for prompt in self.prompts:
            for index in range(self.sampling(prompt).n):
                yield prompt, index

    def answered(self, prompt: Prompt, index: int) -> bool:
        """Whether this draw needs no request: an answer is there, or a failure that asking again cannot mend."""
        key = f"{prompt.id}#{index}"
        if self.store.answers.succeeded(key):
            return True
        row = self.store.answers.get(key)
        return row is not None and row.error is not None and row.error.reason in DONE_FAILURES

    def tasks(self, prompt: Prompt, answer: Answer) -> Iterator[JudgeTask]:
        """Everything asked about this answer: each of the suite's tasks, of each judge, each time."""
        for task in self.suite.tasks(prompt, answer):
            for repeat in range(self.repeats):
                for judge in self.judges:
                    yield task.model_copy(update={"judge": judge.spec.name, "repeat": repeat})

    def open_tasks(self, prompt: Prompt, answer: Answer) -> list[JudgeTask]:
        """What the judges have still to say about this answer."""
        return [task for task in self.tasks(prompt, answer) if not self.store.judgments.succeeded(task.key)]

    def there(self) -> Iterator[tuple[Prompt, Answer]]:
        """The answers that need no request, read one at a time."""
        for prompt, index in self.draws():
            answer = self.store.answers.get(f"{prompt.id}#{index}") if self.answered(prompt, index) else None
            if answer is not None:
                yield prompt, answer

    def tasks_of(self, judge: Judge) -> Iterator[JudgeTask]:
        """What one judge has still to say about the anchors, and about the answers that are there."""
        yield from (task for task in self.anchors_open if task.judge == judge.spec.name)
        for prompt, answer in self.there():
            yield from (task for task in self.open_tasks(prompt, answer) if task.judge == judge.spec.name)

    def rows_of(self, task: JudgeTask) -> JsonlRows[Judgment]:
        return self.store.anchors if task.anchor else self.store.judgments

    @property
    def anchors_open(self) -> list[JudgeTask]:
        """Anchors that have no verdict in this run yet."""
        return [task for task in self.anchors if not self.store.anchors.succeeded(task.key)]

    def judge_of(self, task: JudgeTask) -> Judge:
        return next(judge for judge in self.judges if judge.spec.name == task.judge)

    @property
    def answers_open(self) -> int:
        """Draws that must be asked of the model."""
        return sum(not self.answered(prompt, index) for prompt, index in self.draws())


def suite_runs(made: Plan) -> list[SuiteRun]:
    """Every judged suite of the plan with its store, which is not open yet."""
    return [
        SuiteRun(
            suite=suite,
            judges=made.judges[suite.name],
            store=RunStore(folder_of(made, suite)),
            prompts=made.prompts[suite.name],
            sampling=made.sampling(suite),
            repeats=made.spec.repeats,
            anchors=_anchor_tasks(made, suite),
        )
        for suite in made.suites
    ]


def _anchor_tasks(made: Plan, suite: Suite) -> tuple[JudgeTask, ...]:
    anchors = made.anchors.get(suite.name)
    names = [judge.spec.name for judge in made.judges[suite.name]]
    return () if anchors is None else anchor_tasks(suite, anchors, names)


@dataclass(frozen=True)
class Progress:
    """One row more: handed to the caller's callback after each append."""

    suite: str
    stage: Literal["answers", "judgments"]
    ok: bool


ProgressCallback = Callable[[Progress], None]
TaskQueue = asyncio.Queue[tuple[SuiteRun, JudgeTask] | None]
"""None: no more for one worker."""
Queues = JudgeQueues[tuple[SuiteRun, JudgeTask]]


async def evaluate(
    runs: Sequence[SuiteRun],
    backend: Callable[[], AbstractAsyncContextManager[Backend]],
    *,
    concurrency: int,
    answers_first: bool = False,
    on_progress: ProgressCallback = lambda _: None,
) -> None:
    """Brings every run's store up to date; scores nothing.

    `answers_first`: nothing is judged until all answers are there and the server is stopped, then everything at once.
    `backend` is entered only when an answer is missing. Raises the first HarnessError of any stage, after everything
    in flight was cancelled and the server stopped; what had arrived is in the stores.
    """
    draws = [(run, prompt, index) for run in runs for prompt, index in run.draws()]
    missing = [draw for draw in draws if not draw[0].answered(*draw[1:])]
    judges = {id(judge): judge for run in runs for judge in run.judges}.values()
    at_once = [judge for judge in judges if not waits(judge) and is_needed(judge, runs)]
    queues: Queues = JudgeQueues(at_once, batch=answers_first)
    try:
        async with AsyncExitStack() as stack:
            for judge in at_once:
                await stack.enter_async_context(judge)
            async with asyncio.TaskGroup() as group:

                def start_worker(queue: TaskQueue) -> None:
                    group.create_task(_judge_worker(queue, on_progress))

                queues.start(start_worker)
                async with asyncio.TaskGroup() as producers:
                    producers.create_task(_judge_existing(runs, queues))
                    producers.create_task(_ask_missing(missing, backend, queues, concurrency, on_progress))
                await queues.end(start_worker)
        for judge in judges:
            if waits(judge):
                await _judge_afterwards(judge, runs, on_progress)
    except* HarnessError as errors:
        raise first_error(errors) from None


def waits(judge: Judge) -> bool:
    """Whether a judge needs the candidate's devices, so that it is loaded once the candidate is gone."""
    return isinstance(judge, LoadedJudge) and not judge.beside


def is_needed(judge: Judge, runs: Sequence[SuiteRun]) -> bool:
    """Whether a judge must be entered: a server is not started for nothing."""
    its = [run for run in runs if judge in run.judges]
    return not isinstance(judge, LoadedJudge) or any(run.answers_open or any(run.tasks_of(judge)) for run in its)


async def _judge_afterwards(judge: Judge, runs: Sequence[SuiteRun], on_progress: ProgressCallback) -> None:
    """All that one judge has still to say, of all suites, in the order that spares its server most."""
    tasks = in_prefix_order((run, task) for run in runs if judge in run.judges for task in run.tasks_of(judge))
    if not tasks:
        return
    places = min(judge.spec.concurrency, len(tasks))
    queue: TaskQueue = asyncio.Queue()
    for item in (*tasks, *[None] * places):
        queue.put_nowait(item)
    async with judge, asyncio.TaskGroup() as group:
        for _ in range(places):
            group.create_task(_judge_worker(queue, on_progress))


async def _judge_existing(runs: Sequence[SuiteRun], queues: Queues) -> None:
    for run in runs:
        for task in run.anchors_open:
            await queues.put(run.judge_of(task), (run, task))
        for prompt, answer in run.there():
            for task in run.open_tasks(prompt, answer):
                await queues.put(run.judge_of(task), (run, task))


async def _ask_missing(
    missing: Sequence[tuple[SuiteRun, Prompt, int]],
    backend: Callable[[], AbstractAsyncContextManager[Backend]],
    queues: Queues,
    concurrency: int,
    on_progress: ProgressCallback,
) -> None:
    if not missing:
        return
    draws = iter(missing)
    started = time.monotonic()
    async with backend() as server, asyncio.TaskGroup() as group:
        for run in {id(run): run for run, _, _ in missing}.values():
            run.start_seconds = time.monotonic() - started
        for _ in range(min(concurrency, len(missing))):
            group.create_task(_answer_worker(draws, server, queues, on_progress))


async def _answer_worker(
    draws: Iterator[tuple[SuiteRun, Prompt, int]],
    server: Backend,
    queues: Queues,
    on_progress: ProgressCallback,
) -> None:
    for run, prompt, index in draws:
        usage = run.answering
        if usage.first is None:
            usage.first = time.monotonic()
        answer = await server.answer(prompt, run.sampling(prompt), index)
        run.store.answers.append(answer)
        usage.rows += 1
        usage.failed += answer.error is not None
        usage.prompt_tokens += sum(answer.prompt_tokens)
        usage.completion_tokens += sum(answer.completion_tokens)
        usage.last = time.monotonic()
        on_progress(Progress(run.suite.name, "answers", answer.error is None))
        for task in run.open_tasks(prompt, answer):
            await queues.put(run.judge_of(task), (run, task))


async def _judge_worker(queue: TaskQueue, on_progress: ProgressCallback) -> None:
    while (item := await queue.get()) is not None:
        run, task = item
        usage = run.judging
        if usage.first is None:
            usage.first = time.monotonic()
        found = await run.judge_of(task).judge(task)
        # whatever a judge of elsewhere writes there: these are what a row is found again by
        own: dict[str, object] = {"answer_sha": task.answer.sha, "judge": task.judge, "repeat": task.repeat}
        if is_suspect(task.answer, task.turn) and "injection" not in found.flags:
            own["flags"] = (*found.flags, "injection")
        judgment = found.model_copy(update=own)
        run.rows_of(task).append(judgment)
        usage.rows += 1
        usage.failed += judgment.error is not None
        usage.prompt_tokens += judgment.prompt_tokens
        usage.completion_tokens += judgment.completion_tokens
        usage.cost += judgment.cost or 0.0
        usage.paid += judgment.paid or 0.0
        usage.calls += judgment.calls
        usage.last = time.monotonic()
        on_progress(Progress(run.suite.name, "judgments", judgment.error is None))


def current_judgments(answers: Sequence[Answer], judgments: Iterator[Judgment]) -> list[Judgment]:
    """The judgments of these very answers; those of an earlier text of the same draw are left out."""
    shas = {answer.key: answer.sha for answer in answers}
    return [row for row in judgments if shas.get(f"{row.prompt_id}#{row.index}") == row.answer_sha]
