"""Suites that query the model and score by themselves (`OwnRunner`), served by the run's backend, with our cards."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager

from pydantic import JsonValue

from ..records import ModelRef, ScoreCard, digest
from ..records.errors import ConfigError, IncompleteError
from ..records.protocols import Backend, Numbers, OwnRun, OwnRunner, Serving
from ..store import RunStore, archive_run, read_card, run_dir
from ..store.provenance import provenance
from ..suites.scoring import is_complete
from .card import score_card
from .pipeline import ProgressCallback, SuiteRun, evaluate, suite_runs, waits
from .plan import Plan, manifest

log = logging.getLogger(__name__)


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
    """Return the fields that must be equal to reuse a result; their digest is the run's id."""
    spec = plan.spec
    changed = {key: value for key, value in spec.sampling.model_dump().items() if value is not None}
    return {
        "schema_version": 1,
        "model": str(spec.model) if spec.model.scheme != "path" else spec.model.label,
        "identity": plan.identity,
        "protocol": {**suite.protocol(), "limit": spec.limit, "sampling_deviation": changed},
        "seed": spec.seed,
    }


async def own_card(plan: Plan, suite: OwnRunner, server: KeptServer, *, fresh: bool = False) -> ScoreCard:
    """Return the card of a suite that runs by itself: the stored one if it finished before, else of a new run.

    `fresh` archives an earlier run and its raw files first.
    """
    assert isinstance(plan.backend, Serving), "plan() refuses other backends"
    spec, manifest = plan.spec, own_manifest(plan, suite)
    run_id = digest(manifest)[:12]
    slug = ModelRef(scheme="endpoint", name=suite.name).slug
    folder = run_dir(spec.results, model=spec.model.slug, suite=slug, version=suite.version, run_id=run_id)
    if not fresh and (folder / "card.json").exists():
        log.info("%s: done before, %s", suite.name, folder)
        return read_card(folder / "card.json")
    store = RunStore(folder).open(manifest, fresh=fresh)
    try:
        work_dir = spec.results / "runs" / spec.model.slug / "logs" / f"{slug}-{run_id}"
        if fresh and work_dir.exists():
            archive_run(work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        changed = {key: value for key, value in spec.sampling.model_dump().items() if value is not None}
        job = OwnRun(work_dir, limit=spec.limit, seed=spec.seed, sampling=changed)
        async with server:
            log.info("%s: running; its log and raw output: %s", suite.name, work_dir)
            numbers = await run_own(suite, plan.backend, job)
        card = numbers_card(spec.model.label, numbers, run_id, plan.identity)
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


def numbers_card(model: str, numbers: Numbers, run_id: str, identity: dict[str, JsonValue]) -> ScoreCard:
    """Return the card of results without a pipeline; raise ConfigError if the headline is not among them."""
    if numbers.headline not in numbers.scores.scores:
        raise ConfigError(f"no score named {numbers.headline!r} in the files of {numbers.suite}")
    head = numbers.scores.scores[numbers.headline]
    complete = is_complete(head)
    notes = list(numbers.scores.notes)
    if not complete:
        notes.append(f"incomplete: {head.n} of {head.n + head.unscored} scored; never ranked")
    return ScoreCard(
        suite=numbers.suite,
        suite_version=numbers.suite_version,
        model=model,
        judge=numbers.judge,
        headline=numbers.headline,
        complete=complete,
        protocol=numbers.protocol,
        sampling={"answer_settings": "unknown"},
        scores=numbers.scores.scores,
        by_category=numbers.scores.by_category,
        counts=numbers.counts,
        notes=tuple(notes),
        judging=numbers.judging,
        provenance={**provenance(), "model": identity, "run_id": run_id},
    )


# ----------------------------------------------------------------------------------------------------
# One `harness run`, from a plan to score cards: locks the folders, runs the pipeline, writes the cards.


@contextmanager
def opened(made: Plan, *, fresh: bool) -> Iterator[list[SuiteRun]]:
    """Every suite's store, locked; all are closed again whatever happens."""
    stores: list[RunStore] = []
    try:
        runs = suite_runs(made)
        for run in runs:
            run.store.open(manifest(made, run.suite), fresh=fresh)
            stores.append(run.store)
            if run.anchors:
                run.store.anchors.open()
        made.calls.budget.spent = sum(row.paid or 0.0 for run in runs for row in run.store.every_judgment())
        yield runs
    finally:
        for store in stores:
            store.close()


async def execute(
    made: Plan, runs: Sequence[SuiteRun], *, fresh: bool = False, on_progress: ProgressCallback = lambda _: None
) -> list[ScoreCard]:
    """Asks, judges, scores; writes and returns one card a suite. Sessions are recorded even when it is stopped.

    `fresh` is for suites that run by themselves; the others' stores are open already.
    """
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        kept = KeptServer(made.backend, stack)

        def serve() -> AbstractAsyncContextManager[Backend]:
            # a judge that waits for the candidate's devices waits for ever where its server is kept
            keeping = made.own and not any(waits(judge) for run in runs for judge in run.judges)
            return kept if keeping else made.backend

        try:
            if runs:
                await stack.enter_async_context(made.calls.cache)
                await evaluate(
                    runs,
                    serve,
                    concurrency=made.spec.serve.concurrency,
                    answers_first=made.spec.transport == "batch",
                    on_progress=on_progress,
                )
        finally:
            for run in runs:
                if run.answering.rows or run.judging.rows:
                    run.store.end_session(session_usage(run, time.monotonic() - started))
        own_cards = [await own_card(made, suite, kept, fresh=fresh) for suite in made.own]
    facts = await asyncio.to_thread(provenance)
    cards = []
    for run in runs:
        card = score_card(made, run, facts)
        run.store.write_card(card)
        cards.append(card)
    return [*cards, *own_cards]


def session_usage(run: SuiteRun, seconds: float) -> dict[str, JsonValue]:
    """What this process spent on one suite, for its sessions file."""
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
