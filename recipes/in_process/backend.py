"""Backend `in_process`: load a checkpoint with transformers in this process, without a server; meant for small models.

This module forms the batches: requests that wait at the same time are generated together, and `answer_many` takes
thousands at once. A text depends only on (seed, prompt, turn, index). torch is imported when the model is loaded.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from pydantic import JsonValue

from harness.backends.chat import MIN_ROOM, pairs, refuse_unknown
from harness.backends.thinking import switches
from harness.client import ChatReply
from harness.records import Answer, Failure, ModelRef, Prompt, Sampling
from harness.records.errors import ConfigError
from harness.records.protocols import Draw, ServeOptions
from harness.store.checkpoint import inspect_checkpoint, resolve

if TYPE_CHECKING:
    from .generation import Request
    from .model import LocalModel


P = ParamSpec("P")
R = TypeVar("R")
HONOURED = (
    *("chat_template", "dtype", "devices", "max_model_len", "engine_args", "allow_pickle", "trust_remote_code"),
    *("chat_template_kwargs", "reasoning_room"),
)
DTYPES = ("auto", "float32", "bfloat16", "float16")
NOT_HONOURED = {"repetition_penalty": 1.0, "min_p": 0.0}
"""Sampling defaults of a checkpoint that servers apply and this backend does not -> their neutral values."""
MAX_BATCH_BYTES = 2**30
"""Maximum bytes for the KV cache and the logits of one batch."""
MAX_BATCH_ROWS = 512
"""Maximum rows of a batch: beyond it, copying the cache of a small model costs more than a step."""


class InProcessBackend:
    name = "in_process"

    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        refuse_unknown(options, self.name, HONOURED)
        if options.dtype not in (None, *DTYPES):
            raise ConfigError(
                f"backend {self.name!r} has no dtype {options.dtype!r}; choose one of {', '.join(DTYPES)}"
            )
        self._batch_size = _batch_size(options)
        if model.scheme == "endpoint":
            raise ConfigError(f"{str(model)!r} is a server: use --backend endpoint, not {self.name}")
        folder, template = resolve(model, allow_pickle=options.allow_pickle), options.chat_template
        self.checkpoint = inspect_checkpoint(folder, allow_pickle=options.allow_pickle, chat_template=template)
        if self.checkpoint.template is None:
            raise ConfigError(f"backend {self.name!r} cannot honour --chat-template {template!r}; give a Jinja file")
        for key, neutral in NOT_HONOURED.items():
            value = self.checkpoint.generation_config.get(key, neutral)
            if value != neutral:
                raise ConfigError(
                    f"backend {self.name!r} cannot honour {key} = {value!r} of {model.label}'s "
                    "generation_config.json; use --backend vllm"
                )
        self.label = model.label
        self.options = options
        self._loaded: LocalModel | None = None
        self._stopping = False
        self._waiting: list[tuple[Draw, asyncio.Future[Answer]]] = []
        self._serving: asyncio.Task[None] | None = None

    def identity(self) -> dict[str, JsonValue]:
        options = self.options
        engine: dict[str, JsonValue] = {"dtype": options.dtype or "auto", "seed": options.seed}
        if options.max_model_len is not None:
            engine["max_model_len"] = options.max_model_len
        facts = {"backend": self.name, **self.checkpoint.identity(), "engine": engine}
        return facts | ({"thinking": switches(options)} if switches(options) else {})

    async def __aenter__(self) -> Self:
        self._stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self._loaded = await self._run(self._load)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Free the model. Generation that is still running stops at its next token."""
        self._stopping = True
        if self._serving is not None:
            self._serving.cancel()
        self._thread.shutdown(wait=True)
        self._loaded, self._serving, self._waiting = None, None, []
        gc.collect()
        from .model import free_device_memory

        free_device_memory()

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        """Return one answer. It is generated in the next batch, with every other request that waits by then."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((Draw(prompt, sampling, index), future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return await future

    async def perplexity(self, text: str) -> float:
        """Return the perplexity of a text without a chat template."""
        return await self._run(self._model.perplexity, text)

    async def answer_many(self, draws: Sequence[Draw]) -> AsyncIterator[Answer]:
        """Yield one answer per draw, in order of prompt length, shortest first."""
        ordered = await self._run(self._model.by_length, draws)
        start = 0
        while start < len(ordered):
            batch = ordered[start : start + self._rows_that_fit(ordered[start : start + MAX_BATCH_ROWS])]
            start += len(batch)
            for answer in await self._run(self._answers, batch):
                yield answer

    async def _serve(self) -> None:
        await asyncio.sleep(0)  # let every task of this event loop iteration add its request first
        while self._waiting:
            size = self._rows_that_fit([draw for draw, _ in self._waiting[:MAX_BATCH_ROWS]])
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            try:
                answers = await self._run(self._answers, [draw for draw, _ in batch])
            except Exception as error:  # the callers that wait for these answers must get it, whatever it is
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _answers(self, draws: Sequence[Draw]) -> list[Answer]:
        """Return the answers to these draws, generating one turn of all draws at a time. Runs in the model's thread."""
        from .model import Talk

        begin = time.monotonic()
        model = self._model
        talks = [Talk(draw) for draw in draws]
        for turn in range(max(len(draw.prompt.turns) for draw in draws)):
            pending = [talk for talk in talks if talk.asks(turn)]
            if not pending:
                continue
            rendered = [model.prompt_ids(talk.draw.prompt) for talk in pending] if turn == 0 else None
            requests = []
            for talk, ids in zip(
                pending, rendered or model.rendered([talk.messages() for talk in pending]), strict=True
            ):
                request = ids if isinstance(ids, Failure) else self._request(talk.draw, turn, ids)
                if isinstance(request, Failure):
                    talk.failure = request
                else:
                    requests.append((talk, request))
            generated = model.generate([request for _, request in requests], lambda: self._stopping) if requests else []
            texts = model.texts([result.ids for result in generated])
            for (talk, request), result, text in zip(requests, generated, texts, strict=True):
                reply = ChatReply(text, result.finish, len(request.ids), result.tokens)
                talk.add(reply, model)
        seconds = time.monotonic() - begin
        return [talk.answer(self.label, seconds) for talk in talks]

    def _request(self, draw: Draw, turn: int, ids: Sequence[int]) -> Request | Failure:
        from .generation import Request

        sampling, defaults = draw.sampling, self.checkpoint.generation_config
        limit = self.options.max_model_len or self.checkpoint.max_position
        length = sampling.max_tokens + self._model.thinking.room
        room = length if limit is None else limit - len(ids)
        if room < min(length, MIN_ROOM):
            message = f"the prompt's {len(ids)} tokens leave {max(room, 0)} of {limit} for an answer"
            return Failure(reason="context", message=message)
        seed = self.options.seed if sampling.seed is None else sampling.seed
        return Request(
            tuple(ids),
            min(room, length),
            key=stream_key(seed, draw.prompt.id, turn, draw.index),
            temperature=_first_number(sampling.temperature, defaults.get("temperature"), 1.0),
            top_p=_first_number(sampling.top_p, defaults.get("top_p"), 1.0),
            top_k=max(0, int(_first_number(defaults.get("top_k"), 0))),
            stopped_by=self._model.stop_check(sampling.stop) if sampling.stop else None,
        )

    def _rows_that_fit(self, draws: Sequence[Draw]) -> int:
        """Return how many of these draws fit into one batch, limited by MAX_BATCH_BYTES."""
        if self._batch_size is not None:
            return self._batch_size
        most = max(draw.sampling.max_tokens for draw in draws) + self._model.thinking.room
        longest = max(self._model.prompt_length(draw.prompt) for draw in draws)
        return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // self._model.row_bytes(longest + most)))

    @property
    def _model(self) -> LocalModel:
        assert self._loaded is not None, "use `async with`"
        return self._loaded

    def _load(self) -> LocalModel:
        from .model import LocalModel

        return LocalModel.load(self.checkpoint, self.options)

    async def _run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))


def stream_key(seed: int, prompt_id: str, turn: int, index: int) -> int:
    """Return the 64-bit key of the random stream for one turn of one draw; the same on every machine."""
    words = f"{seed}|{prompt_id}|{turn}|{index}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "big")


def _first_number(*values: JsonValue) -> float:
    return float(next(value for value in values if isinstance(value, int | float)))


def _batch_size(options: ServeOptions) -> int | None:
    text = pairs(options.engine_args, InProcessBackend.name, ("batch_size",)).get("batch_size")
    if text is not None and not (text.isdecimal() and int(text) > 0):
        raise ConfigError(f"engine argument batch_size={text!r} is not a number of rows; give 1 or more")
    return None if text is None else int(text)
