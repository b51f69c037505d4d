"""Ask a server that already runs and speaks the OpenAI protocol. It is never started or stopped here.

The key comes from HARNESS_ENDPOINT_KEY, or for OpenAI's own host from OPENAI_API_KEY, and goes only into the
request. A judge's key is never sent to a model's server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import AsyncExitStack
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import JsonValue

from ..client import (
    CallLimits,
    ChatClient,
    Patience,
    connection_words,
    is_starting,
    model_entries,
    read_chat_reply,
    server_sentence,
)
from ..records import ModelRef
from ..records.errors import ConfigError, ReplyError, ServerError
from ..records.protocols import Presented, Served, ServeOptions
from ..records.providers import ENDPOINT_KEY, api_key, belongs
from .chat import Asker, ChatBackend, ChatCompletions, ContextWindow, refuse_unknown
from .thinking import Thinking, request_fields, switches

HONOURED = ("max_model_len", "rpm", "tpm", "chat_template_kwargs", "reasoning_effort", "reasoning_room")
LONGEST_WAIT = 10.0
"""Seconds between two looks at a server that is not up yet."""
log = logging.getLogger(__name__)
PROBE_LIMIT = aiohttp.ClientTimeout(total=20)
CANARY_LIMIT = aiohttp.ClientTimeout(total=60)
CANARY = "Name three rivers, three metals and three colours, in alphabetical order."
CANARY_TOKENS = 16
"""Enough to tell models apart by their likeliest words; a model that reasons shows its first thoughts."""
MAX_CANARY = 1_000_000  # bytes
BROKEN = (
    *(aiohttp.ClientError, OSError, ReplyError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
    RecursionError,
)
"""What asking the canary prompt may raise: no connection, or a reply of any form."""
STATED = ("root", "max_model_len")
"""Fields of a /v1/models entry that stay while a model is served. `created` does not: vLLM writes the time of the
request into it (vllm/entrypoints/serve/engine/protocol.py, ModelCard)."""


class StartingError(ServerError):
    """Internal: the server is up and loads its model."""


class EndpointBackend(ChatBackend):
    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        super().__init__()
        if model.scheme != "endpoint" or model.url is None:
            raise ConfigError(f"backend 'endpoint' needs --model endpoint:NAME@http://HOST:PORT/v1, not {str(model)!r}")
        refuse_unknown(options, "endpoint", HONOURED)
        self.model = model
        self.options = options
        self._url = model.url
        self._key = _key_for(model.url)

    def use_key(self, key: str | None) -> None:
        """Send this key, or none, instead of the one for all endpoints; only before the backend is entered."""
        self._key = key

    def identity(self) -> dict[str, JsonValue]:
        """Return name and host: what stands behind an endpoint cannot be known."""
        parts = urlsplit(self._url)
        facts: dict[str, JsonValue] = {"backend": "endpoint", "model": self.model.name, "host": parts.hostname}
        if self.options.max_model_len is not None:
            facts["max_model_len"] = self.options.max_model_len
        if switches(self.options):
            facts["thinking"] = switches(self.options)
        return facts

    async def __aenter__(self) -> Self:
        limit = _length(await self._entry_until_up())
        options = self.options
        async with AsyncExitStack() as stack:
            limits = CallLimits(
                concurrency=options.concurrency,
                rpm=options.rpm,
                tpm=options.tpm,
                timeout=options.timeout,
                patience=Patience.of(options.patience),
                parameters="leave it out by --omit NAME (--max-completion-tokens N replaces max_tokens)",
            )
            client = ChatClient(self._url, limits, api_key=self._key)
            self._client = await stack.enter_async_context(client)
            dialogue = ChatCompletions(self._post, self.model.name, base="", switches=request_fields(options))
            # no seed unless the sampling has one: not every server takes it
            context, thinking = ContextWindow(options.max_model_len or limit), Thinking(options.reasoning_room or 0)
            self._asker = Asker(dialogue, context, self.model.label, thinking=thinking)
            self._stack = stack.pop_all()
        return self

    def served(self) -> Served:
        length, concurrency = self.options.max_model_len, self.options.concurrency
        return Served(self.model.name, self._url, key=self._key, max_model_len=length, concurrency=concurrency)

    async def revive(self) -> bool:
        """Return False, as the server is not ours to restart. Raise ServerError if it is gone."""
        await self._probe()
        return False

    async def _post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        assert self._client is not None
        try:
            return await self._client.post(path, body)
        except ReplyError as error:
            if error.status in (401, 403) and error.reason == "http":
                raise ServerError(f"{self._url} rejects the key: {error}; set {ENDPOINT_KEY}") from None
            if error.reason == "transport":
                await self._probe()  # an endpoint that is gone stops the run; it would fail every prompt left
            raise

    async def presented(self) -> Presented:
        entry = await self._entry_until_up()
        metadata = {name: entry[name] for name in STATED if isinstance(entry.get(name), str | int)}
        return Presented(metadata, await self._canary())

    async def _canary(self) -> dict[str, JsonValue] | None:
        """Return the answer to CANARY. Whatever the server does with it, no run fails for it."""
        body: dict[str, Any] = {
            "model": self.model.name,
            "messages": [{"role": "user", "content": CANARY}],
            "temperature": 0,
            "max_tokens": CANARY_TOKENS,
        }
        try:
            async with self._session(CANARY_LIMIT) as session:
                status, reply = await _posted(session, self._url, {**body, "logprobs": True})
                if status in (400, 422):  # not every server knows log-probabilities; a rejected request costs nothing
                    status, reply = await _posted(session, self._url, body)
            return _canary(reply) if status == 200 else None
        except BROKEN as error:
            log.debug("no canary of %s: %s", self._url, error)
        return None

    def _session(self, limit: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
        loopback = urlsplit(self._url).hostname in ("127.0.0.1", "localhost", "::1")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return aiohttp.ClientSession(timeout=limit, headers=headers, trust_env=not loopback)

    async def _entry_until_up(self) -> dict[str, Any]:
        """Return what `_entry` does, once the server has loaded its model or, with a patience, is there at all."""
        started, wait = time.monotonic(), 1.0
        while True:
            try:
                return await self._entry()
            except ServerError as error:
                starting = Patience.of(self.options.patience).starting
                most = starting if isinstance(error, StartingError) else self.options.patience or 0.0
                if time.monotonic() - started >= most:
                    raise
                log.info("waiting up to %.0f s: %s", most, error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _probe(self) -> int | None:
        """Return the model's context length if GET /models states it; raise as `_entry`."""
        return _length(await self._entry())

    async def _entry(self) -> dict[str, Any]:
        """Return what GET /models states about the model, or nothing if the server lists nothing.

        Raise ConfigError for a model that the server does not list, ServerError if there is no server, or none yet.
        """
        try:
            async with (
                self._session(PROBE_LIMIT) as session,
                session.get(self._url + "/models", allow_redirects=False) as reply,
            ):
                if reply.status in (401, 403):
                    sentence = server_sentence(await reply.read())
                    sentence = sentence.replace(self._key, "***") if self._key else sentence  # some repeat it
                    raise ConfigError(
                        f"{self._url} rejects the key (HTTP {reply.status}: {sentence}); set {ENDPOINT_KEY}"
                    )
                if reply.status == 503:
                    sentence = server_sentence(await reply.read())
                    if is_starting(reply.status, sentence, reply.headers.get("Retry-After")):
                        raise StartingError(f"{self._url} is not ready: HTTP 503: {sentence}")
                listing = await reply.json(content_type=None) if reply.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ServerError(f"no server at {self._url}: {connection_words(self._url, error)}") from None
        except (ValueError, RecursionError):
            return {}
        models = model_entries(listing)
        if models and self.model.name not in models:
            names = ", ".join(sorted(models)[:10])
            raise ConfigError(f"{self._url} has no model {self.model.name!r}; it has: {names}")
        return dict(models.get(self.model.name, {}))


def _length(entry: dict[str, Any]) -> int | None:
    length = entry.get("max_model_len")
    return length if isinstance(length, int) and length > 0 else None


async def _posted(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Return the status and the JSON of a short chat completion. Raise ValueError if it is long or not JSON."""
    async with session.post(url + "/chat/completions", json=body, allow_redirects=False) as reply:
        raw = b""
        async for chunk in reply.content.iter_chunked(65536):
            raw += chunk
            if len(raw) > MAX_CANARY:
                raise ValueError(f"more than {MAX_CANARY} bytes")
        return reply.status, json.loads(raw) if reply.status == 200 else None


def _canary(reply: dict[str, Any]) -> dict[str, JsonValue]:
    """Return the answer's text and thoughts, and the log-probability of each of its tokens where offered."""
    answer = read_chat_reply(reply)
    canary: dict[str, JsonValue] = {"text": answer.text, "reasoning": answer.reasoning}
    tokens = ((reply["choices"][0].get("logprobs") or {}).get("content")) or []
    canary["logprobs"] = [[str(token["token"]), round(float(token["logprob"]), 4)] for token in tokens]
    return canary


def _key_for(url: str) -> str | None:
    return api_key(ENDPOINT_KEY) or (api_key("OPENAI_API_KEY") if belongs("OPENAI_API_KEY", url) else None)
