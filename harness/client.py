"""One OpenAI-compatible HTTP client: keep-alive pool, retries, and nothing of what is asked.

It owns connections, waiting and error classes. It does not know prompts, judges or budgets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from pydantic import JsonValue

from .errors import ReplyError, printable
from .records import Access, Finish, Reason, TokenLogprob

log = logging.getLogger(__name__)

RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MAX_WAIT = 60.0
"""Seconds; a server's Retry-After is honoured up to ten times this."""
CONTEXT_WORDS = re.compile(r"context length|maximum context|context_length_exceeded|max_model_len|too long", re.I)
FILTER_WORDS = re.compile(r"content[ _](filter|policy|management)", re.I)


BEARER = Access()


@dataclass(frozen=True)
class ChatReply:
    """One completion. `text` may be empty; `finish` is "length" when the token limit cut it."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    """Top log-probabilities of the first token."""
    price_share: float = 1.0
    """Share of the list price that it cost when it was asked for: 0.5 in a batch."""
    cached: bool = False
    """Taken from the reply cache: this run paid nothing for it."""


class ChatClient:
    """POSTs to one base URL (ending in /v1) with at most `concurrency` requests in flight.

    Transport errors, 408, 409, 425, 429 and 5xx are retried with exponential back-off and full jitter, Retry-After
    honoured; any other status raises ReplyError at once with the server's own sentence.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        access: Access = BEARER,
        concurrency: int = 64,
        timeout: float = 300.0,
        attempts: int = 6,
        first_wait: float = 0.5,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._access = access
        self._places = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._timeout = timeout
        self._attempts = attempts
        self._first_wait = first_wait
        self._jitter = random.Random(base_url)  # only spreads retries; no score depends on it
        self._session: aiohttp.ClientSession | None = None
        self._proxy: str | None = None

    async def __aenter__(self) -> Self:
        loopback = urlsplit(self.base_url).hostname in ("127.0.0.1", "localhost", "::1")
        headers = key_headers(self._api_key, self._access)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=75),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=30),
            headers=headers,
        )
        self._proxy = None if loopback else _proxy_for(self.base_url)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        """POST /chat/completions; raises ReplyError."""
        return read_chat_reply(await self.post("/chat/completions", body))

    async def post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        """The JSON object the server answers with; raises ReplyError when retries are used up or make no sense."""
        payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        async with self._places:
            for attempt in range(1, self._attempts + 1):
                try:
                    return await self._once(path, payload)
                except _RetryableError as retry:
                    if attempt == self._attempts:
                        raise retry.final from None
                    await asyncio.sleep(self._wait(attempt, retry.after))
        raise AssertionError("unreachable: the loop returns or raises")

    def _wait(self, attempt: int, after: float | None) -> float:
        if after is not None:
            return min(after, 10 * MAX_WAIT) + self._jitter.uniform(0, 0.25)
        return self._jitter.uniform(0.5, 1.0) * min(MAX_WAIT, self._first_wait * float(2 ** (attempt - 1)))

    async def _once(self, path: str, payload: bytes) -> dict[str, Any]:
        assert self._session is not None, "use `async with`"
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(
                self.base_url + path,
                params=self._access.query,
                data=payload,
                headers=headers,
                allow_redirects=False,
                proxy=self._proxy,
            ) as reply:
                raw = await reply.read()
                status, retry_after = reply.status, reply.headers.get("Retry-After")
        except TimeoutError:
            raise _RetryableError("timeout", f"no answer from {self.base_url} in {self._timeout:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            detail = str(error) or type(error).__name__
            raise _RetryableError("transport", f"cannot reach {self.base_url}: {detail}") from None
        if status == 200:
            try:
                found = json.loads(raw)
            except (ValueError, RecursionError):
                raise _RetryableError(
                    "http", f"{self.base_url} sent a reply that is not JSON: {raw[:120]!r}", status
                ) from None
            if not isinstance(found, dict):
                raise ReplyError(f"{self.base_url} sent a reply that is no JSON object", reason="http", status=status)
            return found
        message = server_sentence(raw)
        if self._api_key:
            message = message.replace(self._api_key, "***")  # some servers repeat the key they refuse
        if status in RETRIED_STATUS:
            raise _RetryableError("http", f"HTTP {status}: {message}", status, _seconds(retry_after))
        raise ReplyError(f"HTTP {status}: {message}", reason=_reason(status, message), status=status)


class _RetryableError(Exception):
    """Internal: this attempt failed in a way that another may mend."""

    def __init__(self, reason: Reason, message: str, status: int | None = None, after: float | None = None) -> None:
        super().__init__(message)
        self.final = ReplyError(message, reason=reason, status=status)
        self.after = after


def key_headers(api_key: str | None, access: Access) -> dict[str, str]:
    """The request header that carries the key; none without one."""
    if not api_key:
        return {}
    bearer = access.key_header.lower() == "authorization"
    return {access.key_header: f"Bearer {api_key}" if bearer else api_key}


def _proxy_for(url: str) -> str | None:
    """The proxy the environment names for this URL. Never .netrc: its logins are for other programs."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc):
        return None
    return getproxies().get(parts.scheme)


def _seconds(retry_after: str | None) -> float | None:
    try:
        return max(0.0, float(retry_after)) if retry_after is not None else None
    except ValueError:
        return None  # an HTTP date: fall back to our own waiting


def _reason(status: int, message: str) -> Reason:
    if status == 400 and CONTEXT_WORDS.search(message):
        return "context"
    return "content_filter" if FILTER_WORDS.search(message) else "http"


def server_sentence(raw: bytes) -> str:
    """The server's own words in an error reply, at most 500 characters, on one line."""
    text = raw.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        for key in ("error", "message", "detail"):
            if isinstance(found, dict) and key in found:
                found = found[key]
        text = found if isinstance(found, str) else json.dumps(found)
    except (ValueError, RecursionError):
        pass
    return " ".join(printable(text).split())[:500]


def read_chat_reply(found: dict[str, Any]) -> ChatReply:
    """The first choice of a chat completion; raises ReplyError when it is filtered, has no message, or has a field of
    another type than the protocol's. Surrogates, which no file can hold, become question marks."""
    try:
        choice = found["choices"][0]
        text = choice["message"].get("content") or _called_with(choice["message"])
        if not isinstance(text, str):
            raise TypeError("content is no text")
        finish = choice.get("finish_reason")
        usage = found.get("usage") or {}
        reply = ChatReply(
            text=text.encode("utf-8", "replace").decode("utf-8"),
            finish="length" if finish == "length" else "stop",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            logprobs=_top_logprobs(choice),
        )
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
        raise ReplyError(
            f"not a chat completion: {printable(json.dumps(found))[:200]}", reason="http", status=200
        ) from (None)
    if finish == "content_filter":
        raise ReplyError("the server withheld the reply (content_filter)", reason="content_filter", status=200)
    return reply


def _called_with(message: dict[str, Any]) -> Any:
    """The arguments of the function that a reply without text calls: what a judge asked for JSON that way says."""
    calls = message.get("tool_calls") or []
    return (calls[0]["function"].get("arguments") or "") if calls else ""


def _top_logprobs(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    """Of the first token; an infinite one is left out, as a token that is not among the top is."""
    tops = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    tops = [top for top in tops if isinstance(top["logprob"], int | float) and math.isfinite(top["logprob"])]
    return tuple(TokenLogprob(token=top["token"], logprob=top["logprob"]) for top in tops)
