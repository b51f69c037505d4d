"""Execute one `harness run`, from a plan to score cards, or several side by side, each on devices of its own.

>>> async def job(devices: str | None) -> str:
...     return f"on {devices}"
>>> asyncio.run(side_by_side([job, job, job], ["0,1", "2,3"]))
['on 0,1', 'on 2,3', 'on 0,1']

Suites that query the model and score by themselves (`OwnRunner`) come last, on the same server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any, TypeVar

from pydantic import JsonValue

from ..backends.devices import devices_of, disjoint_devices, visible_devices
from ..records import ScoreCard
from ..records.asking import slug_of
from ..records.errors import ConfigError, IncompleteError
from ..records.protocols import (
    Backend,
    Definable,
    LoadedJudge,
    NothingToOpen,
    Numbers,
    OwnRun,
    OwnRunner,
    Placed,
    Presented,
    Serving,
)
from ..store import RunStore, archive_run, make_folder, read_card
from ..store.provenance import provenance
from ..store.runs import keep_beside
from .card import numbers_card, score_card
from .estimate import check_budget
from .pipeline import ProgressCallback, SuiteRun, evaluate, suite_runs, waits
from .plan import Plan, manifest_model, run_folder
from .same_model import check_same_model, check_served, record_served

log = logging.getLogger(__name__)


@contextmanager
def opened(plan: Plan, *, fresh: bool) -> Iterator[list[SuiteRun]]:
    """Open and lock every suite's store, create the folder for logs, and close all stores afterwards.

    `fresh` archives earlier runs. Raise ConfigError if another process uses one of the folders, or if a budget cannot
    be kept.
    """
    check_budget(plan)
    stores: list[RunStore] = []
    try:
        runs = suite_runs(plan)
        for run in runs:
            run.store.open(run.plan.manifest, fresh=fresh)
            stores.append(run.store)
            suite, baseline = run.plan.suite, run.plan.baseline
            definition = suite.definition() if isinstance(suite, Definable) else None
            # a user's suite file or baseline may change later, and the rows must still be readable then
            keep_beside(run.store.folder, definition, () if baseline is None else baseline.answers.values())
            if run.plan.anchor_tasks:
                run.store.anchors.open()
        # what earlier sessions paid counts: --max-cost is for the run, not for one session
        plan.calls.budget.spent = sum(sum(run.store.spending().paid) for run in runs)
        make_folder(plan.spec.log_dir)
        yield runs
    finally:
        for store in stores:
            store.close()


async def execute(
    plan: Plan, runs: Sequence[SuiteRun], *, fresh: bool = False, on_progress: ProgressCallback = lambda _: None
) -> list[ScoreCard]:
    """Answer, judge and score, and return the written cards, one per suite. Interrupted sessions are recorded, too.

    `fresh` is for suites that run by themselves; the others' stores are already open.
    """
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        server = KeptServer(plan.backend, stack)

        def serve() -> AbstractAsyncContextManager[Backend]:
            # if the server were kept, a judge that waits for the candidate's devices would wait forever
            keeping = plan.own_runners and not any(waits(judge) for run in runs for judge in run.plan.judges)
            return server if keeping else plan.backend

        presented = await check_same_model(plan.backend, runs, assume_same=plan.spec.same_model)
        try:
            if runs:
                await stack.enter_async_context(plan.calls.cache)
                await evaluate(
                    runs,
                    serve,
                    concurrency=plan.spec.serve.concurrency,
                    answers_first=plan.spec.transport == "batch",
                    on_progress=on_progress,
                )
        finally:  # also after an error or Ctrl-C: what was paid until then must be counted
            end_sessions(runs, time.monotonic() - started)
        own_cards = [await own_card(plan, suite, server, presented, fresh=fresh) for suite in plan.own_runners]
    environment = await asyncio.to_thread(provenance)
    cards = []
    for run in runs:
        card = score_card(plan, run, environment)
        run.store.write_card(card)
        cards.append(card)
    return [*cards, *own_cards]


def end_sessions(runs: Sequence[SuiteRun], seconds: float) -> None:
    """Record what this process spent, for every suite that got a row."""
    for run in runs:
        if run.answering.rows or run.judging.rows:
            run.store.end_session(session_usage(run, seconds))


def session_usage(run: SuiteRun, seconds: float) -> dict[str, JsonValue]:
    """Return what this process spent on one suite, for its sessions file."""
    return {
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 3),
        "start_seconds": round(run.start_seconds, 3),
        "answer_rows": run.answering.rows,
        "answer_seconds": round(run.answering.seconds, 3),
        "answer_prompt_tokens": run.answering.prompt_tokens,
        "answer_completion_tokens": run.answering.completion_tokens,
        "judgment_rows": run.judging.rows,
        "judgment_seconds": round(run.judging.seconds, 3),
        "judgment_prompt_tokens": run.judging.prompt_tokens,
        "judgment_completion_tokens": run.judging.completion_tokens,
        "judgment_cost": round(run.judging.cost, 6),
        "judgment_paid": round(run.judging.paid, 6),
        "judgment_calls": run.judging.calls,
    }


class KeptServer:
    """A backend that starts when first entered and stops with the stack: one start for all users."""

    def __init__(self, backend: Backend, stack: AsyncExitStack) -> None:
        self._backend = backend
        self._stack = stack
        self._entered = False

    async def __aenter__(self) -> Backend:
        if not self._entered:
            await self._stack.enter_async_context(self._backend)
            self._entered = True
        return self._backend

    async def __aexit__(self, *exc: object) -> None:
        return None


def own_manifest(plan: Plan, suite: OwnRunner) -> dict[str, JsonValue]:
    """Return the fields that must be equal to reuse a result. Their digest is the run's id."""
    spec = plan.spec
    return {
        "schema_version": 1,
        "model": manifest_model(spec),
        "identity": plan.identity,
        "protocol": {**suite.protocol(), "limit": spec.limit, "sampling_deviation": spec.sampling.changes},
        "seed": spec.seed,
    }


async def own_card(
    plan: Plan, suite: OwnRunner, server: KeptServer, presented: Presented | None, *, fresh: bool = False
) -> ScoreCard:
    """Return the card of a suite that runs by itself: the stored one if it finished before, else of a new run.

    `fresh` archives an earlier run and its raw files first. `presented`: what a foreign server shows of its model.
    """
    assert isinstance(plan.backend, Serving), "plan() refuses other backends"
    spec, manifest = plan.spec, own_manifest(plan, suite)
    folder = run_folder(spec.results, spec.model, suite.name, suite.version, manifest)
    if not fresh and (folder / "card.json").exists():
        if presented is not None:
            check_served(folder, presented, assume_same=spec.same_model)
        log.info("%s: done before, %s", suite.name, folder)
        return read_card(folder / "card.json")
    store = RunStore(folder).open(manifest, fresh=fresh)
    try:
        if presented is not None:
            record_served(folder, presented)
        work_dir = spec.log_dir / f"{slug_of(suite.name)}-{folder.name}"
        if fresh and work_dir.exists():
            archive_run(work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        job = OwnRun(work_dir, limit=spec.limit, seed=spec.seed, sampling=spec.sampling.changes)
        async with server:
            log.info("%s: running; its log and raw output: %s", suite.name, work_dir)
            numbers = await run_own(suite, plan.backend, job)
        card = numbers_card(spec.model.label, numbers, folder.name, plan.identity)
        store.write_questions(numbers.questions)  # before the card, whose existence means that all is written
        store.write_card(card)
    finally:
        store.close()
    return card


async def run_own(suite: OwnRunner, backend: Serving, job: OwnRun) -> Numbers:
    """Return the suite's numbers.

    If it failed because the server died, restart the server and run again; the backend limits the number of restarts.
    """
    while True:
        try:
            return await suite.run(backend.served(), job)
        except IncompleteError as error:
            if not await backend.revive():
                raise
            log.warning("%s: the server died and is back, running again (%s)", suite.name, error)


# ------------------------------------------------------------------------------------------------------- several models


T = TypeVar("T")


async def side_by_side(
    jobs: Sequence[Callable[[str | None], Coroutine[Any, Any, T]]], slots: Sequence[str | None]
) -> list[T | Exception]:
    """Run each job on the first free slot. Return their results, or the errors that ended them, in their order.

    An error of one job does not stop the others.
    """
    free: asyncio.Queue[str | None] = asyncio.Queue()
    for slot in slots:
        free.put_nowait(slot)

    async def placed(job: Callable[[str | None], Coroutine[Any, Any, T]]) -> T | Exception:
        slot = await free.get()
        try:
            return await job(slot)
        except Exception as error:  # also a crash: the other models have nothing to do with it
            return error
        finally:
            free.put_nowait(slot)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(placed(job)) for job in jobs]
    return [task.result() for task in tasks]


def slots_for(plans: Sequence[Plan], count: int) -> list[str | None]:
    """Return the GPUs of each of `count` models that run at a time, or None for models that are not served here.

    Raise ConfigError if there are too few GPUs, or if a model or a judge would be loaded without a choice of GPUs.
    """
    count = min(count, len(plans))
    for plan in plans:
        backend, spec = plan.backend, plan.spec
        if not isinstance(backend, Placed | NothingToOpen) and spec.model.scheme != "endpoint":
            raise ConfigError(
                f"backend {spec.backend!r} cannot be given GPUs of its own; leave out --parallel-models {count}"
            )
        for judge in [judge for suite in plan.suites for judge in suite.judges]:
            if isinstance(judge, LoadedJudge):
                raise ConfigError(
                    f"judge {judge.spec.name!r} is loaded on this machine, once per model; leave out --parallel-models "
                    f"{count}, or serve it and give its endpoint"
                )
    if not any(isinstance(plan.backend, Placed) for plan in plans):
        return [None] * count
    serve = plans[0].spec.serve
    devices = tuple(serve.devices.split(",")) if serve.devices is not None else visible_devices()
    return [*disjoint_devices(devices, unit=devices_of(serve), count=count)]
