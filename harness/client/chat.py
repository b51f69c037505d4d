"""The client: one call, asked again until it is answered, refused for good, or its endpoint is given up."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import JsonValue

from ..errors import ReplyError
from ..records import Access, Reason
from .endpoint import Endpoint, Terms, join, leave
from .flow import Launch
from .headers import Told, read_headers
from .replies import (
    PARAMETER_WORDS,
    QUOTA_WORDS,
    TOO_LARGE_WORDS,
    ChatReply,
    read_chat_reply,
    refusal_reason,
    server_sentence,
    tokens_to_come,
    tokens_used,
)

if TYPE_CHECKING:
    from yarl import URL

MAX_WAIT = 60.0
"""Seconds between two tries of one call, at most, unless the server says otherwise."""
MAX_RETRY_AFTER = 900.0
"""Seconds a server's Retry-After is waited for; a longer one stops the run."""
TIMEOUTS = 2
"""Times one call may run into its time limit: each try may be paid for."""
REJECTIONS = 100
"""429s of one call, with others answered in between, after which it is the call that is at fault."""
REFUSALS_TO_STOP = 8
"""Calls refused in a row (4xx, each for good), no call taken between: the endpoint refuses whatever we ask."""
FATAL_STATUS = frozenset({401, 403, 404})
"""A refused key or an unknown model: no other call can fare better."""
PASSING_REASONS = frozenset({"context", "content_filter"})
"""Refusals that belong to one call, not to the endpoint."""
HINT = "if the model refuses a parameter, set it under `params:` in the judge's YAML (null leaves it out)"

BEARER = Access()


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    raw: bytes
    told: Told


@dataclass
class Tries:
    """What one call has been through."""

    failures: int = 0
    timeouts: int = 0
    rejections: int = 0


class ChatClient:
    """POSTs to one base URL (ending in /v1).

    Transport errors, 408, 409, 425, 429 and 5xx are asked again with exponential back-off and jitter, Retry-After
    honoured; a 429 for as long as the endpoint takes other calls or says when it will. Any other status raises
    ReplyError at once with the server's own sentence. Places, pace, limits and the circuit breaker are the endpoint's,
    shared with all clients of the same URL and key.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        access: Access = BEARER,
        concurrency: int = 64,
        rpm: float | None = None,
        tpm: float | None = None,
        timeout: float = 300.0,
        attempts: int = 6,
        first_wait: float = 0.5,
        patience: float | None = 60.0,
    ) -> None:
        """`patience`: seconds the endpoint may stay down before calls raise EndpointDownError; None, for a server of
        our own: nothing is learned about it, and every call fails for itself after `attempts`."""
        import aiohttp  # deferred, so that a command's help does not wait for it

        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._access = access
        self._terms = Terms(concurrency, rpm, tpm, patience)
        self._places = asyncio.Semaphore(concurrency)
        self._limit = aiohttp.ClientTimeout(total=timeout, sock_connect=min(30.0, timeout))
        self._timeout = timeout
        self._attempts = attempts
        self._first_wait = first_wait
        self._jitter = random.Random(base_url)  # only spreads retries; no score depends on it
        self._headers = {"Content-Type": "application/json", **key_headers(api_key, access)}
        self._urls: dict[str, URL] = {}
        self._endpoint: Endpoint | None = None
        self._proxy: str | None = None
        self._refusals = 0
        self._was_taken = False

    async def __aenter__(self) -> Self:
        loopback = urlsplit(self.base_url).hostname in ("127.0.0.1", "localhost", "::1")
        self._proxy = None if loopback else _proxy_for(self.base_url)
        self._endpoint = join(self.base_url, self._api_key, self._terms)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._endpoint is not None:
            endpoint, self._endpoint = self._endpoint, None
            await leave(endpoint, self._terms)

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        """POST /chat/completions; raises ReplyError, and EndpointDownError once there is no use in asking."""
        reply = read_chat_reply(await self.post("/chat/completions", body))
        if self._endpoint is not None:
            self._endpoint.reply_tokens += 0.05 * (reply.completion_tokens - self._endpoint.reply_tokens)
        return reply

    async def post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        """The JSON object the server answers with; raises ReplyError when retries are used up or make no sense."""
        assert self._endpoint is not None, "use `async with`"
        payload = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        tokens = len(payload) / 4 + tokens_to_come(body, self._endpoint.reply_tokens)
        tries = Tries()
        while True:
            async with self._places:
                launch = await self._endpoint.place(tokens, again=tries.failures + tries.rejections > 0)
                found = await self._once(path, payload, launch)
            if isinstance(found, dict):
                return found
            wait = self._after(found, tries)
            await asyncio.sleep(wait)  # without a place

    # one try

    async def _once(self, path: str, payload: bytes, launch: Launch) -> dict[str, Any] | Failed:
        """The reply, or what failed in a way that another try may mend. Tells the endpoint how the call ended."""
        import aiohttp

        assert self._endpoint is not None
        try:
            answered = await self._send(path, payload)
        except TimeoutError:
            what = f"no answer from {self.base_url} in {self._timeout:.0f} s"
            return self._failed(launch, "timeout", what)
        except (aiohttp.ClientError, OSError) as error:
            detail = str(error) or type(error).__name__
            return self._failed(launch, "transport", f"cannot reach {self.base_url}: {detail}")
        except BaseException:
            self._endpoint.dropped()
            raise
        if answered.status == 200:
            return self._read(answered, launch)
        return self._turned_down(answered, launch)

    async def _send(self, path: str, payload: bytes) -> Answered:
        assert self._endpoint is not None
        async with self._endpoint.session.post(
            self._url(path),
            data=payload,
            headers=self._headers,
            allow_redirects=False,
            proxy=self._proxy,
            timeout=self._limit,
        ) as reply:
            return Answered(reply.status, await reply.read(), read_headers(reply.headers))

    def _url(self, path: str) -> URL:
        found = self._urls.get(path)
        if found is None:
            from yarl import URL

            found = self._urls[path] = URL(self.base_url + path).update_query(self._access.query)
        return found

    def _failed(self, launch: Launch, reason: Reason, message: str, status: int | None = None) -> Failed:
        assert self._endpoint is not None
        self._endpoint.failed(launch, message)
        return Failed(ReplyError(message, reason=reason, status=status), counts=not self._endpoint.breaker.is_tripped)

    def _read(self, answered: Answered, launch: Launch) -> dict[str, Any] | Failed:
        assert self._endpoint is not None
        try:
            found = json.loads(answered.raw)
        except (ValueError, RecursionError):
            what = f"{self.base_url} sent a reply that is not JSON: {answered.raw[:120]!r}"
            return self._failed(launch, "http", what, 200)
        if not isinstance(found, dict):
            self._endpoint.taken(launch, answered.told, None)
            raise ReplyError(f"{self.base_url} sent a reply that is no JSON object", reason="http", status=200)
        self._refusals, self._was_taken = 0, True
        self._endpoint.taken(launch, answered.told, tokens_used(found))
        return found

    def _turned_down(self, answered: Answered, launch: Launch) -> Failed:
        """A status other than 200. Raises ReplyError where another try makes no sense."""
        assert self._endpoint is not None
        status, told = answered.status, answered.told
        message = f"HTTP {status}: {server_sentence(answered.raw)}"
        if self._api_key:
            message = message.replace(self._api_key, "***")  # some servers repeat the key they refuse
        error = ReplyError(message, reason=refusal_reason(status, message), status=status)
        if status == 429 and not TOO_LARGE_WORDS.search(message):
            if QUOTA_WORDS.search(message):
                self._give_up(launch, told, f"{self.base_url} takes no more calls: {error}")
            self._endpoint.refused(launch, told, self._backoff(4))
            return Failed(error, told.retry_after)
        if status == 408 or status >= 500:
            return self._failed(launch, "http", message, status).after(told.retry_after)
        if status in (409, 425):
            self._endpoint.taken(launch, told, None)
            return Failed(error, told.retry_after)
        self._refuse(error, launch, told)
        raise error

    def _refuse(self, error: ReplyError, launch: Launch, told: Told) -> None:
        """Counts what was refused for good; raises EndpointDownError once all that comes will be."""
        assert self._endpoint is not None
        if error.reason in PASSING_REASONS or self._terms.patience is None:
            self._endpoint.taken(launch, told, None)
            return
        self._refusals += 1
        if error.status in FATAL_STATUS:
            self._give_up(launch, told, f"{self.base_url} cannot be used: {error}")
        if not self._was_taken and PARAMETER_WORDS.search(str(error)):
            self._give_up(launch, told, f"{self.base_url} refuses the request: {error}; {HINT}")
        if self._refusals >= REFUSALS_TO_STOP:
            self._give_up(launch, told, f"{self.base_url} refused {self._refusals} calls in a row: {error}; {HINT}")
        self._endpoint.taken(launch, told, None)

    def _give_up(self, launch: Launch, told: Told, why: str) -> None:
        assert self._endpoint is not None
        self._endpoint.taken(launch, told, None)
        self._endpoint.give_up(why)

    # between two tries

    def _after(self, failed: Failed, tries: Tries) -> float:
        """Seconds until the next try; raises the error where there is none."""
        assert self._endpoint is not None
        error = failed.error
        if (failed.wait or 0.0) > MAX_RETRY_AFTER:
            self._endpoint.give_up(f"{self.base_url} asks to come back in {failed.wait:.0f} s: {error}")
        if error.status == 429:
            tries.rejections += 1
            tried = tries.rejections
            if tries.rejections >= REJECTIONS:
                raise error
        else:
            tries.timeouts += error.reason == "timeout"
            tries.failures += failed.counts or error.reason == "timeout"
            tried = max(1, tries.failures)
            if tries.failures >= self._attempts or tries.timeouts >= TIMEOUTS:
                raise error
        if failed.wait is not None:
            return failed.wait * self._jitter.uniform(1.0, 1.05)
        return self._backoff(tried)

    def _backoff(self, tried: int) -> float:
        return self._jitter.uniform(0.5, 1.0) * min(MAX_WAIT, self._first_wait * float(2 ** min(20, tried - 1)))


@dataclass(frozen=True)
class Failed:
    """A try that failed in a way that another may mend."""

    error: ReplyError
    wait: float | None = None
    """Seconds the server asks to wait."""
    counts: bool = True
    """Whether it uses up an attempt of the call; not so while the endpoint as a whole is down."""

    def after(self, wait: float | None) -> Failed:
        return Failed(self.error, wait, self.counts)


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
