"""Suites that query the model and score by themselves (`OwnRunner`), served by the run's backend, with our cards."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

from pydantic import JsonValue

from .errors import ConfigError, IncompleteError
from .plan import Plan
from .protocols import Backend, Numbers, OwnRun, OwnRunner, Serving
from .provenance import provenance
from .records import ModelRef, ScoreCard, digest
from .scoring import is_complete
from .store import RunStore, archive_run, read_card, run_dir

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
