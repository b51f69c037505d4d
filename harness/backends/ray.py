"""Serve a model by many engines on a Ray cluster. Each worker runs another backend of the harness, vLLM by default.

`serve.data_parallel` is the number of workers and `tensor_parallel` x `pipeline_parallel` the GPUs of each, all on one
node. Engine arguments beginning with `ray.` are read here (OURS), the others go to the workers' backend. If a
worker's process or node dies, Ray places it again, and the requests it had in flight go to whichever worker is free.
An answer's seed belongs to the draw, so the answer does not depend on the worker that gives it.

The worker runs the same backend that is used without Ray, not vLLM's engine in the actor's own process. So templates,
seeds, context room and restarts work as they do there, and an engine's crash costs no actor.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Self

from pydantic import JsonValue

from ..records import Answer, Failure, ModelRef, Prompt, Sampling
from ..records.errors import ConfigError, HarnessError, UsageError
from ..records.protocols import Backend, Draw, ServeOptions, load_plugin
from .chat import pairs
from .cluster import (
    ActorRefusal,
    ActorWorker,
    Need,
    RayCluster,
    WorkerLostError,
    WorkerPool,
    no_secrets,
    node_name,
    whole_path,
)

OURS = ("ray.worker", "ray.cpus", "ray.gpus")
"""Engine arguments: the workers' backend; CPUs and GPUs that Ray reserves for each."""
NOT_WORKERS = ("endpoint", "ray")
MARGIN = 30.0
"""Seconds beyond `start_timeout`, so that an engine that does not start reports why before the pool gives up."""


@dataclass(frozen=True)
class Engine:
    """What a worker needs to make its backend, on any node."""

    backend: str
    model: ModelRef
    options: ServeOptions
    identity: dict[str, JsonValue]
    """The model as this machine sees it; a worker that sees a different one stops."""

    def make_backend(self) -> Backend:
        backend: Backend = load_plugin("backends", self.backend)(self.model, self.options)
        return backend


class EngineActor:
    """One backend in a Ray worker, entered by `start`, left by `stop` or with the process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._backend: Backend | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> ActorRefusal | None:
        if self._backend is not None:
            return None
        try:
            self._engine.options.log_dir.mkdir(parents=True, exist_ok=True)
            backend = self._engine.make_backend()
            if backend.identity() != self._engine.identity:
                raise ConfigError(
                    f"{str(self._engine.model)!r} is another model here, or is served with other settings, than where "
                    "the run started"
                )
            self._backend = await self._stack.enter_async_context(backend)
        except HarnessError as error:
            return self._refusal(error)
        except OSError as error:
            return self._refusal(ConfigError(f"cannot write its log: {error}"))
        return None

    async def work(self, draws: Sequence[Draw]) -> list[Answer] | ActorRefusal:
        backend = self._backend
        assert backend is not None, "start first"
        try:
            return await asyncio.gather(*(backend.answer(draw.prompt, draw.sampling, draw.index) for draw in draws))
        except HarnessError as error:
            return self._refusal(error)

    async def stop(self) -> None:
        await self._stack.aclose()

    def _refusal(self, error: HarnessError) -> ActorRefusal:
        rule = "model, packages and harness must be the same on every node, at the same paths"
        return ActorRefusal(f"({rule}) {error}" if isinstance(error, UsageError) else str(error), node_name())


class RayBackend:
    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        RayCluster()  # raises ConfigError if Ray is not installed
        words = [word for word in options.engine_args if word.lstrip("-").startswith("ray.")]
        ours = pairs(words, "ray", OURS)
        worker = ours.get("ray.worker", "vllm")
        if worker in NOT_WORKERS:
            raise ConfigError(
                f"engine argument ray.worker={worker!r}: a worker serves a model itself, e.g. vllm or transformers"
            )
        if options.devices is not None:
            raise ConfigError(
                f"backend 'ray' cannot honour --devices {options.devices!r}: Ray decides which GPUs a worker uses"
            )
        self.label = model.label
        self.workers = options.data_parallel
        self._in_flight = math.ceil(options.concurrency / self.workers)
        self._patience = options.start_timeout + MARGIN
        rest = tuple(word for word in options.engine_args if word not in words)
        inner = replace(
            options,
            engine_args=rest,
            data_parallel=1,
            concurrency=self._in_flight,
            chat_template=whole_path(options.chat_template) if options.chat_template else None,
            log_dir=options.log_dir.resolve(),
        )
        # the last part of the path, which is the model's label, stays the same
        placed = model.model_copy(update={"name": whole_path(model.name)}) if model.scheme == "path" else model
        self._engine = Engine(worker, placed, inner, {})
        self._engine = replace(self._engine, identity=self._engine.make_backend().identity())
        self._cpus = _number(ours, "ray.cpus")
        self._gpus = _number(ours, "ray.gpus")
        self._pool: WorkerPool[Sequence[Draw], list[Answer]] | None = None
        self._stack = AsyncExitStack()

    def identity(self) -> dict[str, JsonValue]:
        """Return the workers' identity. The number of workers is left out, because it changes no answer."""
        return {**self._engine.identity, "backend": "ray", "worker": self._engine.backend}

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            cluster, options = stack.enter_context(RayCluster()), self._engine.options
            engines = [
                replace(self._engine, options=replace(options, log_dir=options.log_dir / f"worker-{rank}"))
                for rank in range(self.workers)
            ]
            calls = 2 * self._in_flight + 1  # two for each place, and `stop`
            arguments = [(engine,) for engine in engines]
            need = self._need(cluster)
            actors = cluster.actors(EngineActor, arguments, need, calls=calls, environment=no_secrets())
            workers = [ActorWorker[Sequence[Draw], list[Answer]](actor) for actor in actors]
            pool = WorkerPool(
                f"{self._engine.backend} on Ray", workers, capacity=self._in_flight, patience=self._patience
            )
            self._pool = await stack.enter_async_context(pool)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        (reply,) = await self._ask_pool([Draw(prompt, sampling, index)], weight=1.0)
        return reply

    async def answer_many(self, draws: Sequence[Draw]) -> AsyncIterator[Answer]:
        """Yield the answers in chunks as they come back, an eighth of a worker's places each.

        Large chunks go through Ray's object store. A worker has twice its places in flight, so that its engine never
        waits for the slowest answer of a chunk.
        """
        size = max(1, self._in_flight // 8)
        chunks = [draws[start : start + size] for start in range(0, len(draws), size)]
        tasks = [asyncio.create_task(self._ask_pool(chunk, weight=len(chunk) / 2)) for chunk in chunks]
        try:
            for task in asyncio.as_completed(tasks):
                for answer in await task:
                    yield answer
        finally:
            for pending in tasks:
                pending.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_pool(self, draws: Sequence[Draw], *, weight: float) -> list[Answer]:
        assert self._pool is not None, "use `async with`"
        try:
            return await self._pool.ask(draws, weight=weight)
        except WorkerLostError as error:
            failure = Failure(reason="transport", message=str(error))
            return [
                Answer(prompt_id=draw.prompt.id, model=self.label, index=draw.index, error=failure) for draw in draws
            ]

    def _need(self, cluster: RayCluster) -> Need:
        """Return what a worker reserves: GPUs only if the cluster has any, because an engine on CPUs needs none."""
        gpus = self._gpus
        if gpus is None:
            options = self._engine.options
            gpus = float(options.tensor_parallel * options.pipeline_parallel) if cluster.has_gpus() else 0.0
        return Need(1.0 if self._cpus is None else self._cpus, gpus)


def _number(engine_args: dict[str, str], name: str) -> float | None:
    text = engine_args.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"engine argument {name}={text!r} is not a number of 0 or more")
    return number
