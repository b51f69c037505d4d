"""Stream prompts to answers to judgments: an answer is judged as soon as it exists.

A judge that needs the candidate's devices (`LoadedJudge`) judges at the end, when all answers exist and the candidate's
server has stopped. Workers pull prompts one at a time and put judge tasks into a bounded queue per judge. Memory
therefore contains only what is in flight (and, until the first new verdict, those of earlier sessions), slow judges
slow generation down, and a slow judge, or one at its rate limit, does not block the others. Rows are appended to the
store as they arrive, and rows already in the store are skipped.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, Self, TypeVar

from ..judging.injection import is_suspect
from ..records import Answer, Failure, JudgeTask, JudgeTemplate, Judgment, Prompt, Verdict
from ..records.errors import HarnessError, first_error
from ..records.protocols import Backend, Draw, Judge, LoadedJudge, Preparing
from ..store import JsonlRows, RunStore
from .plan import Plan, SuitePlan

Item = TypeVar("Item")
OBJECTS_PER_COLLECTION = 50_000
"""About 10 MB. Python's default is 700."""
DONE_FAILURES = frozenset({"context"})
"""Failures that a retry cannot fix: the prompt stays longer than the model's context."""


@dataclass
class StageUsage:
    """What one stage of one suite used in this process."""

    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    paid: float = 0.0
    """US dollars: `cost` is what the rows' replies cost originally, `paid` the part of it paid now."""
    calls: int = 0
    first: float | None = None
    """time.monotonic() of the stage's first request."""
    last: float = 0.0

    @property
    def seconds(self) -> float:
        """Return the wall time from the first request to the last row."""
        return 0.0 if self.first is None else max(0.0, self.last - self.first)

    def start(self) -> None:
        """Note the time, if this is the stage's first request."""
        if self.first is None:
            self.first = time.monotonic()

    def add(self, error: Failure | None, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a row that has just arrived."""
        self.rows += 1
        self.failed += error is not None
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.last = time.monotonic()


@dataclass
class SuiteRun:
    """One suite of one run: its plan, its store, and what this process has used for it."""

    plan: SuitePlan
    store: RunStore
    """Open, except for estimates; with anchors, `store.anchors` too."""
    start_seconds: float = 0.0
    """Seconds until the server was ready, if this process started one."""
    answering: StageUsage = field(default_factory=StageUsage)
    judging: StageUsage = field(default_factory=StageUsage)

    def only(self, prompts: Sequence[Prompt]) -> Self:
        """Return the run of these prompts alone: with the same protocol, store and usage."""
        return replace(self, plan=replace(self.plan, prompts=tuple(prompts)))

    def draws(self) -> Iterator[tuple[Prompt, int]]:
        """Yield each prompt once per answer to draw, with the answer's index."""
        for prompt in self.plan.prompts:
            for index in range(self.plan.sampling(prompt).n):
                yield prompt, index

    def answered(self, prompt: Prompt, index: int) -> bool:
        """Return whether this draw needs no request: it has an answer, or a failure that a retry cannot fix."""
        key = f"{prompt.id}#{index}"
        if self.store.answers.succeeded(key):
            return True
        row = self.store.answers.get(key)
        return row is not None and row.error is not None and row.error.reason in DONE_FAILURES

    def put_to(self, task: JudgeTask, judge: Judge, repeat: int) -> JudgeTask:
        """Return a task of the suite as it is put to one judge."""
        return task.model_copy(update={"judge": judge.spec.name, "repeat": repeat, "strict": self.plan.strict})

    def open_tasks(self, prompt: Prompt, answer: Answer) -> list[JudgeTask]:
        """Return the judge tasks of this answer without a verdict: of the suite's tasks, per judge and repeat."""
        tasks = []
        for task in self.plan.suite.tasks(prompt, answer):
            sha = task.answer.sha  # a digest of the text: once per task, not once per judge and repeat
            for judge, repeat in self.plan.asked(prompt):
                if not self.store.judgments.succeeded(task.key_for(judge.spec.name, repeat, sha)):
                    tasks.append(self.put_to(task, judge, repeat))
        return tasks

    def existing_answers(self) -> Iterator[tuple[Prompt, Answer]]:
        """Yield the answers that need no request, without having them all in memory."""
        draws = [(prompt, f"{prompt.id}#{index}") for prompt, index in self.draws() if self.answered(prompt, index)]
        answers = self.store.answers.several(key for _, key in draws)
        yield from zip((prompt for prompt, _ in draws), answers, strict=True)

    def tasks_of(self, judge: Judge) -> Iterator[JudgeTask]:
        """Yield one judge's open tasks: on the anchors, and on the existing answers."""
        yield from (task for task in self.anchors_open if task.judge == judge.spec.name)
        for prompt, answer in self.existing_answers():
            yield from (task for task in self.open_tasks(prompt, answer) if task.judge == judge.spec.name)

    def rows_of(self, task: JudgeTask) -> JsonlRows[Judgment]:
        return self.store.anchors if task.anchor else self.store.judgments

    @property
    def anchors_open(self) -> list[JudgeTask]:
        """Return the anchors without a verdict in this run."""
        return [task for task in self.plan.anchor_tasks if not self.store.anchors.succeeded(task.key)]

    def judge_of(self, task: JudgeTask) -> Judge:
        return next(judge for judge in self.plan.judges if judge.spec.name == task.judge)

    @property
    def answers_open(self) -> int:
        """Return the number of draws to request from the model."""
        return sum(not self.answered(prompt, index) for prompt, index in self.draws())


def suite_runs(plan: Plan) -> list[SuiteRun]:
    """Return every judged suite of the plan with its store, which is not open yet."""
    return [SuiteRun(suite_plan, RunStore(suite_plan.folder)) for suite_plan in plan.suites]


@dataclass(frozen=True)
class Progress:
    """One more row, passed to the caller's callback after each append."""

    suite: str
    stage: Literal["answers", "judgments"]
    ok: bool
    verdict: Verdict | None = None
    """Of a judgment, if it has one."""
    paid: float = 0.0
    """US dollars paid for it now."""
    headline: str = ""
    """The suite's headline, which names what a mean of ratings is."""


ProgressCallback = Callable[[Progress], None]
TaskQueue = asyncio.Queue[tuple[SuiteRun, JudgeTask] | None]
"""None tells one worker to stop."""


async def evaluate(
    runs: Sequence[SuiteRun],
    backend: Callable[[], AbstractAsyncContextManager[Backend]],
    *,
    concurrency: int,
    answers_first: bool = False,
    on_progress: ProgressCallback = lambda _: None,
) -> None:
    """Complete every run's store, without computing scores.

    `answers_first`: judge only after all answers exist and the server has stopped, then everything at once. `backend`
    is entered only if an answer is missing. Raise the first HarnessError of any stage after cancelling everything in
    flight and stopping the server; rows that arrived are in the stores.
    """
    draws = [(run, prompt, index) for run in runs for prompt, index in run.draws()]
    missing = [draw for draw in draws if not draw[0].answered(*draw[1:])]
    judges = {id(judge): judge for run in runs for judge in run.plan.judges}.values()
    at_once = [judge for judge in judges if not waits(judge) and is_needed(judge, runs)]
    queues: JudgeQueues[tuple[SuiteRun, JudgeTask]] = JudgeQueues(at_once, batch=answers_first)
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(rare_collections())
            # first, so that a judge that cannot start ends the run before the model is loaded
            for judge in at_once:
                await stack.enter_async_context(judge)
            async with asyncio.TaskGroup() as group:

                def start_worker(queue: TaskQueue) -> None:
                    group.create_task(_judge_worker(queue, on_progress))

                queues.start(start_worker)
                # two groups: workers end when the producers have, and an error in either group cancels both
                async with asyncio.TaskGroup() as producers:
                    producers.create_task(_judge_existing(runs, queues))
                    producers.create_task(_ask_missing(missing, backend, queues, concurrency, on_progress))
                await queues.end(start_worker)
        for judge in judges:
            # one after the other, because each of them takes the devices for itself
            if waits(judge):
                await _judge_afterwards(judge, runs, on_progress)
    except* HarnessError as errors:
        raise first_error(errors) from None


@contextmanager
def rare_collections() -> Iterator[None]:
    """Make Python collect cyclic garbage rarely, and never among the objects that exist already.

    Each collection visits all calls in flight and all rows read. With 1,000 calls that took a sixth of the processor
    time, and two thirds of the time of reading 100,000 rows; no cycle was found in 8,050 calls. Without cycles, memory
    is freed at once as ever.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(OBJECTS_PER_COLLECTION, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def waits(judge: Judge) -> bool:
    """Return whether a judge needs the candidate's devices and must load after the candidate has stopped."""
    return isinstance(judge, LoadedJudge) and not judge.beside


def is_needed(judge: Judge, runs: Sequence[SuiteRun]) -> bool:
    """Return whether a judge must be entered, so that no server starts without work."""
    judge_runs = [run for run in runs if judge in run.plan.judges]
    return not isinstance(judge, LoadedJudge) or any(run.answers_open or any(run.tasks_of(judge)) for run in judge_runs)


async def _judge_afterwards(judge: Judge, runs: Sequence[SuiteRun], on_progress: ProgressCallback) -> None:
    """Run all open tasks of one judge, over all suites, in the order that reuses most of its server's prefix cache."""
    tasks = in_prefix_order((run, task) for run in runs if judge in run.plan.judges for task in run.tasks_of(judge))
    if not tasks:
        return
    workers = min(judge.spec.concurrency, len(tasks))
    queue: TaskQueue = asyncio.Queue()
    for item in (*tasks, *[None] * workers):
        queue.put_nowait(item)
    async with judge, asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(_judge_worker(queue, on_progress))


async def _judge_existing(runs: Sequence[SuiteRun], queues: JudgeQueues[tuple[SuiteRun, JudgeTask]]) -> None:
    for run in runs:
        for task in run.anchors_open:
            await queues.put(run.judge_of(task), (run, task))
        for prompt, answer in run.existing_answers():
            for task in run.open_tasks(prompt, answer):
                await queues.put(run.judge_of(task), (run, task))


async def _ask_missing(
    missing: Sequence[tuple[SuiteRun, Prompt, int]],
    backend: Callable[[], AbstractAsyncContextManager[Backend]],
    queues: JudgeQueues[tuple[SuiteRun, JudgeTask]],
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
        if isinstance(server, Preparing):
            await server.prepare_draws(
                [Draw(prompt, run.plan.sampling(prompt), index) for run, prompt, index in missing]
            )
        for _ in range(min(concurrency, len(missing))):
            group.create_task(_answer_worker(draws, server, queues, on_progress))


async def _answer_worker(
    draws: Iterator[tuple[SuiteRun, Prompt, int]],
    server: Backend,
    queues: JudgeQueues[tuple[SuiteRun, JudgeTask]],
    on_progress: ProgressCallback,
) -> None:
    for run, prompt, index in draws:
        run.answering.start()
        sampling = run.plan.sampling(prompt)
        system = prompt.system if sampling.system_prompt is None else sampling.system_prompt
        answer = await server.answer(prompt.model_copy(update={"system": system}), sampling, index)
        run.store.answers.append(answer)
        run.answering.add(answer.error, sum(answer.prompt_tokens), sum(answer.completion_tokens))
        on_progress(Progress(run.plan.suite.name, "answers", answer.error is None))
        for task in run.open_tasks(prompt, answer):
            await queues.put(run.judge_of(task), (run, task))


async def _judge_worker(queue: TaskQueue, on_progress: ProgressCallback) -> None:
    while (item := await queue.get()) is not None:
        run, task = item
        usage = run.judging
        usage.start()
        verdict = await run.judge_of(task).judge(task)
        # Third-party judges may set these. They form the row key, so overwrite them.
        row_fields: dict[str, object] = {"answer_sha": task.answer.sha, "judge": task.judge, "repeat": task.repeat}
        if is_suspect(task.answer, task.turn) and "injection" not in verdict.flags:
            row_fields["flags"] = (*verdict.flags, "injection")
        changes = {name: value for name, value in row_fields.items() if getattr(verdict, name) != value}
        judgment = verdict.model_copy(update=changes) if changes else verdict
        run.rows_of(task).append(judgment)
        paid = judgment.paid or 0.0
        usage.add(judgment.error, judgment.prompt_tokens, judgment.completion_tokens)
        usage.cost += judgment.cost or 0.0
        usage.paid += paid
        usage.calls += judgment.calls
        suite = run.plan.suite
        is_ok = judgment.error is None
        on_progress(Progress(suite.name, "judgments", is_ok, judgment.verdict, paid, suite.headline))


def current_judgments(answers: Sequence[Answer], judgments: Iterator[Judgment]) -> list[Judgment]:
    """Return the judgments of the current answers, without those of an earlier text of the same draw."""
    shas = {answer.key: answer.sha for answer in answers}
    return [row for row in judgments if shas.get(f"{row.prompt_id}#{row.index}") == row.answer_sha]


class JudgeQueue(Generic[Item]):
    """One judge's tasks. `batch`: the queue is unbounded, and one worker per task starts once all tasks are there."""

    def __init__(self, judge: Judge, *, batch: bool = False) -> None:
        self.judge = judge
        workers = judge.spec.concurrency
        self.workers = 0 if batch else workers
        self.items: asyncio.Queue[Item | None] = asyncio.Queue(maxsize=0 if batch else 2 * workers)


class JudgeQueues(Generic[Item]):
    """The queues of the judges that are asked while answers still arrive."""

    def __init__(self, judges: Iterable[Judge], *, batch: bool) -> None:
        self._batch = batch
        self._queues: dict[int, JudgeQueue[Item]] = {id(judge): JudgeQueue(judge, batch=batch) for judge in judges}

    async def put(self, judge: Judge, item: Item) -> None:
        """Put an item into a judge's queue once there is room. Judges that are asked after the answers are ignored."""
        queue = self._queues.get(id(judge))
        if queue is not None:
            await queue.items.put(item)

    def start(self, start_worker: Callable[[asyncio.Queue[Item | None]], object]) -> None:
        """Start the workers that take tasks as they arrive, or none for a batch."""
        for queue in self._queues.values():
            for _ in range(queue.workers):
                start_worker(queue.items)

    async def end(self, start_worker: Callable[[asyncio.Queue[Item | None]], object]) -> None:
        """Signal that no more tasks come: start a batch's workers, and let every worker end after the last task."""
        for queue in self._queues.values():
            if self._batch:
                queue.workers = queue.items.qsize()
                for _ in range(queue.workers):
                    start_worker(queue.items)
            for _ in range(queue.workers):
                await queue.items.put(None)


def in_prefix_order(tasks: Iterable[tuple[Item, JudgeTask]]) -> list[tuple[Item, JudgeTask]]:
    """Return the tasks by template, then by their texts in the order in which the template shows them. Pure.

    Sorted texts have the longest common beginnings side by side that any order gives. vLLM keeps the key-value blocks
    of a prompt's beginning (automatic prefix caching), so a second game about a question costs only what differs.
    """
    slots: dict[int, tuple[str, ...]] = {}

    def key(item: tuple[Item, JudgeTask]) -> tuple[str, ...]:
        template, fields = item[1].template, item[1].fields
        if id(template) not in slots:
            slots[id(template)] = _fields_in(template, fields)
        return (template.system or "", template.user, *(fields[slot] for slot in slots[id(template)]), item[1].key)

    return sorted(tasks, key=key)


def _fields_in(template: JudgeTemplate, fields: Iterable[str]) -> tuple[str, ...]:
    positions = {slot: template.user.find("{" + slot + "}") for slot in fields}
    return tuple(sorted((slot for slot, position in positions.items() if position >= 0), key=positions.__getitem__))
