"""Repeat a call until it is answered, rejected for good, or its endpoint is given up.

>>> key_headers("sk-1", BEARER), tokens_to_come({"max_tokens": 100}, usual=400.0)
({'Authorization': 'Bearer sk-1'}, 100.0)
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, to_json

from ..records import Access, Reason
from ..records.errors import ReplyError, printable
from .endpoint import (
    NO_OUTAGE,
    PROBE_SECONDS,
    BodyTooLargeError,
    CallLimits,
    Endpoint,
    Outage,
    join,
    leave,
    read_body,
)
from .flow import NOTHING, Launch, RateLimitHints, read_headers
from .reading import (
    ChatReply,
    connection_words,
    error_inside,
    is_starting,
    model_entries,
    payload_words,
    read_chat_reply,
    refusal_reason,
    server_codes,
    server_sentence,
    tokens_used,
)

if TYPE_CHECKING:
    from yarl import URL


QUOTA_WORDS = re.compile(r"insufficient_quota|exceeded your current quota|billing_hard_limit|credit balance", re.I)
TOO_LARGE_WORDS = re.compile(r"request too large", re.I)
PARAMETER_WORDS = re.compile(
    r"(unsupported|unrecognized|unknown|unexpected|invalid)[ _](request[ _])?"
    r"(parameter|value|argument|keyword|field|key)"
    r"|not (supported|permitted|allowed)|does not support|extra (inputs|fields|forbidden)",
    re.I,
)

MAX_WAIT = 60.0
"""Longest wait in seconds between two tries of one call, unless the server asks for more."""
MAX_RETRY_AFTER = 900.0
"""Longest Retry-After in seconds that is waited for; a longer one stops the run."""
MAX_CONNECT_SECONDS = 30.0
"""Longest time for a connection: a host that drops packets is noticed long before the reply's own timeout."""
TIMEOUTS = 2
"""Times one call may time out: each try may cost money."""
REJECTIONS = 100
"""429s of one call, with others answered in between, after which the call itself must be wrong."""
REFUSALS_TO_STOP = 8
"""Calls in a row rejected for good (4xx), with none accepted between: the endpoint rejects whatever is asked."""
FATAL_STATUS = frozenset({401, 402, 403, 404})
"""A rejected key, no money left, an unknown model: no call can succeed, as none can at an address that redirects."""
FIREWALL_WORDS = re.compile(r"you have been blocked|attention required|request blocked|firewall|incapsula", re.I)
"""How Cloudflare, CloudFront and Imperva say 403 about a prompt that looks like an attack, such as one about SQL."""
PASSING_REASONS = frozenset({"context", "content_filter"})
"""Rejections that concern one call, not the endpoint."""
BEARER = Access()
USUAL_LIMITS = CallLimits()


def tokens_to_come(body: dict[str, JsonValue], usual: float) -> float:
    """Estimate a reply's tokens: as many as usual, within the request's own limit."""
    limits = [body.get("max_tokens"), body.get("max_completion_tokens")]
    return min([usual, *(float(limit) for limit in limits if isinstance(limit, int))])


@dataclass(frozen=True)
class RawReply:
    """One HTTP reply, not yet parsed."""

    status: int
    raw: bytes
    hints: RateLimitHints
    location: str = ""
    """Where a redirect leads."""


@dataclass
class Tries:
    """How often one call has failed so far, by kind."""

    failures: int = 0
    timeouts: int = 0
    rejections: int = 0
    outages: int = 0
    """Failures of the endpoint as a whole, which use up no attempt."""
    last: ReplyError | None = None


LISTING_SECONDS = 5.0
"""GET /models is a courtesy to whoever misspelt a name, so it must not hold up a run."""


class ChatClient:
    """A client that POSTs to one base URL (ending in /v1).

    Transport errors, 408, 409, 425, 429 and 5xx are retried with exponential back-off and jitter, and Retry-After is
    honoured; a 429 is retried as long as the endpoint accepts other calls or announces when it will. Any other status
    raises ReplyError at once with the server's own sentence. Places, pace, limits and the circuit breaker belong to the
    endpoint, so all clients of the same URL and key share them.
    """

    def __init__(
        self, base_url: str, limits: CallLimits = USUAL_LIMITS, *, api_key: str | None = None, access: Access = BEARER
    ) -> None:
        import aiohttp  # deferred, so that a command's help does not wait for it

        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._access = access
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._timeout = aiohttp.ClientTimeout(
            total=limits.timeout, sock_connect=min(MAX_CONNECT_SECONDS, limits.timeout)
        )
        self._jitter = random.Random(base_url)  # it only spreads retries; no score depends on it
        self._headers = {"Content-Type": "application/json", **key_headers(api_key, access)}
        self._urls: dict[str, URL] = {}
        self._endpoint: Endpoint | None = None
        self._proxy: str | None = None
        self._refusals = 0
        self._was_taken = False

    @property
    def _joined(self) -> Endpoint:
        assert self._endpoint is not None, "use `async with`"
        return self._endpoint

    async def __aenter__(self) -> Self:
        # a proxy of the environment cannot reach a server on this machine
        loopback = urlsplit(self.base_url).hostname in ("127.0.0.1", "localhost", "::1")
        self._proxy = None if loopback else _proxy_for(self.base_url)
        self._endpoint = join(self.base_url, self._api_key, self._limits)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._endpoint is not None:
            endpoint, self._endpoint = self._endpoint, None
            await leave(endpoint, self._limits)

    async def listed_models(self) -> tuple[str, ...]:
        """Return the names that GET /models lists; none if it lists nothing or does not answer within seconds."""
        import aiohttp

        limit = aiohttp.ClientTimeout(total=LISTING_SECONDS)
        url = self._url("/models")
        try:
            async with self._joined.session.get(
                url, headers=self._headers, allow_redirects=False, proxy=self._proxy, timeout=limit
            ) as reply:
                body = await read_body(reply, self._joined.large_bodies)
            listing = json.loads(body) if reply.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError, BodyTooLargeError):
            return ()
        return tuple(model_entries(listing))

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        """POST /chat/completions. Raise ReplyError if the call failed, EndpointDownError if no call can succeed."""
        reply = read_chat_reply(await self.post("/chat/completions", body))
        if self._endpoint is not None:
            # a running mean over about 20 replies
            self._endpoint.reply_tokens += 0.05 * (reply.completion_tokens - self._endpoint.reply_tokens)
        return reply

    async def post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        """Return the JSON object in the server's reply. Raise ReplyError if retries are used up or pointless."""
        payload = payload_of(body)
        # about 4 characters per token of English text (OpenAI's rule of thumb)
        tokens = len(payload) / 4 + tokens_to_come(body, self._joined.reply_tokens)
        tries = Tries()
        while True:
            async with self._slots:
                again = tries.failures + tries.rejections > 0
                launch = await self._joined.place(tokens, again=again, failed_with=tries.last)
                outcome = await self._once(path, payload, launch)
            if isinstance(outcome, dict):
                return outcome
            wait = self._after(outcome, tries)
            await asyncio.sleep(wait)  # without a place

    # one try

    async def _once(self, path: str, payload: bytes, launch: Launch) -> dict[str, Any] | FailedTry:
        """Return the reply, or a failure that another try may overcome. Reports to the endpoint how the call ended."""
        import aiohttp

        try:
            answered = await self._send(path, payload)
        except BodyTooLargeError as error:
            self._joined.taken(launch, NOTHING, None)
            raise ReplyError(f"{self.base_url} sent a reply that {error}", reason="http", status=200) from None
        except TimeoutError as error:
            message = f"no answer from {self.base_url} in {self._limits.timeout:.0f} s"
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                message = f"cannot reach {self.base_url}: {connection_words(self.base_url, error)}"
            return self._failed(launch, "timeout", message)
        except aiohttp.ClientPayloadError as error:
            return self._failed(launch, "transport", f"{self.base_url} {payload_words(error)}")
        except (aiohttp.ClientError, OSError) as error:
            message = f"cannot reach {self.base_url}: {connection_words(self.base_url, error)}"
            outage = Outage(is_absent=isinstance(error, aiohttp.ClientConnectorError))
            return self._failed(launch, "transport", message, outage=outage)
        except BaseException:
            self._joined.dropped()
            raise
        if answered.status == 200:
            return self._read(answered, launch)
        return self._turned_down(answered, launch)

    async def _send(self, path: str, payload: bytes) -> RawReply:
        # no redirects: the key must not reach another host
        async with self._joined.session.post(
            self._url(path),
            data=payload,
            headers=self._headers,
            allow_redirects=False,
            proxy=self._proxy,
            timeout=self._timeout,
        ) as reply:
            body = await read_body(reply, self._joined.large_bodies)
            return RawReply(reply.status, body, read_headers(reply.headers), reply.headers.get("Location", ""))

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            from yarl import URL

            url = self._urls[path] = URL(self.base_url + path).update_query(self._access.query)
        return url

    def _failed(
        self, launch: Launch, reason: Reason, message: str, status: int | None = None, outage: Outage = NO_OUTAGE
    ) -> FailedTry:
        self._joined.failed(launch, message, outage)
        error = ReplyError(message, reason=reason, status=status)
        return FailedTry(error, outage.retry_after, counts=not self._joined.breaker.is_out)

    def _read(self, answered: RawReply, launch: Launch) -> dict[str, Any] | FailedTry:
        try:
            reply = _parsed(answered.raw)
        except (ValueError, RecursionError):
            message = f"{self.base_url} sent a reply that is not JSON: {answered.raw[:120]!r}"
            return self._failed(launch, "http", message, 200)
        if not isinstance(reply, dict):
            self._joined.taken(launch, answered.hints, None)
            raise ReplyError(f"{self.base_url} sent a reply that is not a JSON object", reason="http", status=200)
        failure = error_inside(reply)
        if failure is not None:
            status, words = failure
            raw = json.dumps({"error": {"message": words, "code": status}}).encode()
            return self._turned_down(RawReply(status, raw, answered.hints), launch)
        self._refusals, self._was_taken = 0, True
        self._joined.taken(launch, answered.hints, tokens_used(reply))
        return reply

    def _turned_down(self, answered: RawReply, launch: Launch) -> FailedTry:
        """Handle a status other than 200. Raise ReplyError if another try is pointless."""
        status, hints = answered.status, answered.hints
        message = f"HTTP {status}: {server_sentence(answered.raw) or 'no text'}"
        if answered.location:
            leads_to = printable(answered.location)[:200]
            message = f"HTTP {status}: it redirects to {leads_to}, which is not followed, so that the key stays here"
        if self._api_key:
            message = message.replace(self._api_key, "***")  # some servers repeat the rejected key
        reason = refusal_reason(status, f"{message} {server_codes(answered.raw)}")
        error = ReplyError(message, reason=reason, status=status)
        if status == 429 and not TOO_LARGE_WORDS.search(message):
            if QUOTA_WORDS.search(message):
                self._give_up(launch, hints, f"{self.base_url} accepts no more calls: {error}")
            self._joined.refused(launch, hints, self._backoff(4))
            return FailedTry(error, hints.retry_after)
        if status == 408 or status >= 500:
            starting = is_starting(status, message, hints.retry_after)
            outage = Outage(is_starting=starting, retry_after=hints.retry_after)
            return self._failed(launch, "http", message, status, outage)
        if status in (409, 425):
            self._joined.taken(launch, hints, None)
            return FailedTry(error, hints.retry_after)
        self._refuse(error, launch, hints)
        raise error

    def _refuse(self, error: ReplyError, launch: Launch, hints: RateLimitHints) -> None:
        """Count a rejection. Raise EndpointDownError if every further call would be rejected too."""
        if error.reason in PASSING_REASONS or self._limits.patience is None:
            self._joined.taken(launch, hints, None)
            return
        self._refusals += 1
        status = error.status or 0
        # who has accepted calls with this key says 403 about a prompt, most likely
        may_pass = status == 403 and (self._was_taken or FIREWALL_WORDS.search(str(error)))
        if (status in FATAL_STATUS or 300 <= status < 400) and not may_pass:
            self._give_up(launch, hints, f"{self.base_url} cannot be used: {error}")
        hint = f"; if the model rejects a parameter, {self._limits.parameters}" if status in (400, 422) else ""
        if not self._was_taken and PARAMETER_WORDS.search(str(error)):
            self._give_up(launch, hints, f"{self.base_url} rejects the request: {error}{hint}")
        if self._refusals >= REFUSALS_TO_STOP:
            self._give_up(launch, hints, f"{self.base_url} rejected {self._refusals} calls in a row: {error}{hint}")
        self._joined.taken(launch, hints, None)

    def _give_up(self, launch: Launch, hints: RateLimitHints, why: str) -> None:
        self._joined.taken(launch, hints, None)
        self._joined.give_up(why)

    # between two tries

    def _after(self, failed: FailedTry, tries: Tries) -> float:
        """Return the seconds until the next try. Raise the call's error if there is none."""
        error = tries.last = failed.error
        if (failed.wait or 0.0) > MAX_RETRY_AFTER:
            self._joined.give_up(f"{self.base_url} asks to wait {failed.wait:.0f} s: {error}")
        if error.status == 429:
            tries.rejections += 1
            tried = tries.rejections
            if tries.rejections >= REJECTIONS:
                raise error
        else:
            tries.timeouts += error.reason == "timeout"
            tries.failures += failed.counts or error.reason == "timeout"
            tried = max(1, tries.failures)
            if tries.failures >= self._limits.attempts or tries.timeouts >= TIMEOUTS:
                raise error
        if not failed.counts:
            tries.outages += 1
            wait = self._backoff(tries.outages) if failed.wait is None else failed.wait
            # a server that is back is noticed soon, and one that asks for more than the patience is not waited for
            most = PROBE_SECONDS[1] if failed.wait is None else self._joined.breaker.limit()
            return min(most, wait * self._jitter.uniform(1.0, 1.05))
        if failed.wait is not None:
            return failed.wait * self._jitter.uniform(1.0, 1.05)
        return self._backoff(tried)

    def _backoff(self, tried: int) -> float:
        return self._jitter.uniform(0.5, 1.0) * min(MAX_WAIT, self._limits.first_wait * float(2 ** min(20, tried - 1)))


@dataclass(frozen=True)
class FailedTry:
    """A failed try that another try may make good."""

    error: ReplyError
    wait: float | None = None
    """Seconds the server asks to wait."""
    counts: bool = True
    """Whether it uses up an attempt of the call; it does not while the endpoint as a whole is down."""


def payload_of(body: dict[str, JsonValue]) -> bytes:
    """Return the JSON to send, with question marks for lone surrogates."""
    try:
        return to_json(body, inf_nan_mode="constants")  # eight times as fast as json.dumps for long texts
    except PydanticSerializationError:  # a lone surrogate
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except UnicodeDecodeError:  # a server may cut a character in two
        return json.loads(raw.decode("utf-8", "replace"))


def key_headers(api_key: str | None, access: Access) -> dict[str, str]:
    """Return the request header that carries the key, or none without a key."""
    if not api_key:
        return {}
    bearer = access.key_header.lower() == "authorization"
    return {access.key_header: f"Bearer {api_key}" if bearer else api_key}


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for this URL. .netrc is ignored, as its logins are not for us."""
    address = urlsplit(url)
    if proxy_bypass(address.netloc):
        return None
    return getproxies().get(address.scheme)
