"""One `harness run`, from a plan to score cards: locks the folders, runs the pipeline, writes the cards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager

from pydantic import JsonValue

from .card import score_card
from .own import KeptServer, own_card
from .pipeline import ProgressCallback, SuiteRun, evaluate, suite_runs, waits
from .plan import Plan, manifest
from .protocols import Backend
from .provenance import provenance
from .records import ScoreCard
from .store import RunStore


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
