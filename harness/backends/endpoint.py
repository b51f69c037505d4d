"""A server that already runs and speaks the OpenAI protocol: it is asked, never started or stopped.

The key comes from HARNESS_ENDPOINT_KEY, or for OpenAI's own host from OPENAI_API_KEY, and goes only into the
request. A judge's key is never sent to a model's server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import AsyncExitStack
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import JsonValue

from ..client import ChatClient, Patience, is_starting, server_sentence
from ..records import ModelRef
from ..records.errors import ConfigError, ReplyError, ServerError
from ..records.protocols import Served, ServeOptions
from .chat import Asker, ChatBackend, ChatCompletions, ContextWindow, refuse_unknown
from .thinking import Thinking, request_fields, switches

KEY = "HARNESS_ENDPOINT_KEY"
HONOURED = ("max_model_len", "rpm", "tpm", "chat_template_kwargs", "reasoning_effort", "reasoning_room")
OPENAI_HOST = "api.openai.com"
LONGEST_WAIT = 10.0
"""Seconds between two looks at a server that is not up yet."""
log = logging.getLogger(__name__)
PROBE_LIMIT = aiohttp.ClientTimeout(total=20)


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
        limit = await self._probe_until_up()
        options = self.options
        async with AsyncExitStack() as stack:
            client = ChatClient(
                self._url,
                api_key=self._key,
                concurrency=options.concurrency,
                rpm=options.rpm,
                tpm=options.tpm,
                timeout=options.timeout,
                patience=Patience.of(options.patience),
            )
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
                raise ServerError(f"{self._url} rejects the key: {error}; set {KEY}") from None
            if error.reason == "transport":
                await self._probe()  # an endpoint that is gone stops the run; it would fail every prompt left
            raise

    async def _probe_until_up(self) -> int | None:
        """Return what `_probe` does, once the server has loaded its model or, with a patience, is there at all."""
        started, wait = time.monotonic(), 1.0
        while True:
            try:
                return await self._probe()
            except ServerError as error:
                starting = Patience.of(self.options.patience).starting
                most = starting if isinstance(error, StartingError) else self.options.patience or 0.0
                if time.monotonic() - started >= most:
                    raise
                log.info("waiting up to %.0f s: %s", most, error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _probe(self) -> int | None:
        """Return the model's context length if GET /models states it.

        Raise ConfigError for a model that the server does not list, ServerError if there is no server, or none yet.
        """
        loopback = urlsplit(self._url).hostname in ("127.0.0.1", "localhost", "::1")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=PROBE_LIMIT, headers=headers, trust_env=not loopback) as session,
                session.get(self._url + "/models", allow_redirects=False) as reply,
            ):
                if reply.status in (401, 403):
                    sentence = server_sentence(await reply.read())
                    raise ConfigError(f"{self._url} rejects the key (HTTP {reply.status}: {sentence}); set {KEY}")
                if reply.status == 503:
                    sentence = server_sentence(await reply.read())
                    if is_starting(reply.status, sentence, reply.headers.get("Retry-After")):
                        raise StartingError(f"{self._url} is not ready: HTTP 503: {sentence}")
                listing = await reply.json(content_type=None) if reply.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ServerError(f"no server at {self._url}: {str(error) or type(error).__name__}") from None
        except ValueError:
            return None
        return self._max_model_len(listing)

    def _max_model_len(self, listing: object) -> int | None:
        listed = listing.get("data") if isinstance(listing, dict) else None
        models = {entry.get("id"): entry for entry in listed if isinstance(entry, dict)} if listed else {}
        if models and self.model.name not in models:
            known = ", ".join(sorted(str(name) for name in models)[:10])
            raise ConfigError(f"{self._url} has no model {self.model.name!r}; it has: {known}")
        length = models.get(self.model.name, {}).get("max_model_len")
        return length if isinstance(length, int) and length > 0 else None


def _key_for(url: str) -> str | None:
    key = os.environ.get(KEY)
    return key or (os.environ.get("OPENAI_API_KEY") if urlsplit(url).hostname == OPENAI_HOST else None)
