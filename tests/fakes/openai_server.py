"""A small OpenAI-compatible server for tests: every reply can be programmed, every failure injected, all is recorded.

In a test:          async with FakeOpenAI(reply=lambda request: "four") as fake: ... fake.url, fake.requests, fake.peak
As a process:       python tests/fakes/openai_server.py --port P [--mode chat|judge|noisy] [--latency S] [--port-file F]
                    [--die-at-start TEXT] [--die-after N] [--die-on TEXT] [--ignore-sigterm]
A reply is a function of the request alone, so two runs give the same texts; that of a noisy judge is not.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from harness.backends.endpoint import CANARY


@dataclass(frozen=True)
class Request:
    """One recorded request."""

    path: str
    body: dict[str, Any]
    key: str | None

    @property
    def messages(self) -> list[dict[str, str]]:
        return list(self.body.get("messages", []))

    @property
    def last(self) -> str:
        """The last message's text, or the prompt of a text completion."""
        return str(self.messages[-1]["content"]) if self.messages else str(self.body.get("prompt", ""))


@dataclass(frozen=True)
class Reply:
    """A completion, or an error when `status` is not 200. `tops` are (token, logprob) of the first token."""

    text: str = ""
    finish: str = "stop"
    reasoning: str = ""
    """What a reasoning parser splits off."""
    tops: tuple[tuple[str, float], ...] = ()
    status: int = 200
    retry_after: float | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Sent beside the usual ones."""
    body: dict[str, Any] | bytes | None = None
    """Sent as it is instead of a completion."""
    seconds_per_byte: float = 0.0
    """If not 0, the body comes byte by byte."""
    disconnect: bool = False
    """Close the connection without a word."""


ReplyFunction = Callable[[Request], "Reply | str"]

BAD_429 = Reply(text="slow down", status=429, retry_after=0.01)
BAD_500 = Reply(text="internal error", status=500)
CUT_OFF = Reply(disconnect=True)
TOO_LONG = Reply(text="This model's maximum context length is 64 tokens, your request has 99", status=400)


def chat_reply(request: Request) -> Reply:
    """A deterministic answer: it names what was asked and a digest of the whole conversation."""
    seen = json.dumps(request.messages or request.last, sort_keys=True)
    mark = hashlib.sha256(seen.encode()).hexdigest()[:12]
    return Reply(text=f"answer {mark} to {request.last.strip()[:40]!r}")


def judge_reply(request: Request) -> Reply:
    """A deterministic verdict in the format that the judge prompt asks for.

    Letter m or M with log-probabilities where those are asked for (AlpacaEval), `[[A>B]]` where the prompt speaks of
    such labels (Arena-Hard), `[[7]]` otherwise (MT-Bench).
    """
    text = "\n".join(message["content"] for message in request.messages)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    if request.body.get("logprobs"):
        share = 0.02 + 0.96 * (number % 997) / 996
        tops = (("m", math.log(share)), ("M", math.log(1 - share)))
        return Reply(text="m" if share >= 0.5 else "M", tops=tuple(sorted(tops, key=lambda top: -top[1])))
    if re.search(r"\[\[[AB]>+[AB]\]\]", text):
        label = ("A>>B", "A>B", "A=B", "B>A", "B>>A")[number % 5]
        return Reply(text=f"Both were read. My final verdict is: [[{label}]]")
    return Reply(text=f"It was read with care. Rating: [[{1 + number % 10}]]")


def noisy_judge(seed: int, *, noise: float = 0.25, lower: int = 0) -> ReplyFunction:
    """A judge that means what `judge_reply` says, but for a share `noise` of its verdicts, which are drawn anew.

    `lower` is taken off its ratings: the same judge after somebody changed it.
    """
    rng = random.Random(seed)

    def reply(request: Request) -> Reply:
        messages = [*request.messages, {"role": "user", "content": str(rng.random())}]
        other = Request(request.path, {**request.body, "messages": messages}, None)
        said = judge_reply(other if rng.random() < noise else request)
        rating = re.search(r"Rating: \[\[(\d+)\]\]", said.text)
        return Reply(text=f"Rating: [[{max(1, int(rating[1]) - lower)}]]") if rating else said

    return reply


@dataclass
class FakeOpenAI:
    """Serves on 127.0.0.1 for the time of an `async with`. `failures` are used up first, one a completion request."""

    reply: ReplyFunction = chat_reply
    model: str = "fake"
    latency: float = 0.0
    """Seconds each completion takes."""
    key: str | None = None
    """The only key that is let in; None lets everybody in."""
    failures: Iterable[Reply] = ()
    max_model_len: int | None = None
    tokenize: Callable[[dict[str, Any]], list[int]] | None = None
    """Token ids of a /tokenize request; None: there is no such path."""
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    """Completion requests in the order of arrival."""
    tokenized: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    peak: int = 0
    """Most completion requests in flight at once."""
    on_request: Callable[[int], None] = lambda count: None
    """Called with the number of completion requests so far."""
    root: str | None = None
    """What /v1/models states as the model's folder, as vLLM does."""
    canary: ReplyFunction = chat_reply
    """The answer to the prompt by which a session recognises a model; it is neither counted nor failed."""
    canaries: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        self._failures = iter(self.failures)
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/tokenize", self._tokenize)
        self.routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    def routes(self, app: web.Application) -> None:
        """Further paths, for a fake that speaks more."""

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        if self._refused(request):
            return _error(401, f"wrong key {request.headers.get('Authorization')}")
        entry = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        entry |= {} if self.root is None else {"root": self.root}
        return web.json_response({"object": "list", "data": [entry]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.tokenized.append(body)
        if self.tokenize is None:
            return _error(404, "Not Found")
        ids = self.tokenize(body)
        strings = ["<s>" if number == 1 else f"t{number}" for number in ids]
        return web.json_response({"count": len(ids), "tokens": ids, "token_strs": strings, "max_model_len": 0})

    def _refused(self, request: web.Request) -> bool:
        return self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}"

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if self._refused(request):
            return _error(401, f"wrong key {request.headers.get('Authorization')}")
        key = request.headers.get("Authorization", "").removeprefix("Bearer ") or None
        record = Request(path=request.path, body=await request.json(), key=key)
        if record.last == CANARY:
            self.canaries.append(record)
            return await self._sent(request, record, self.canary(record))
        self.requests.append(record)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            self.on_request(len(self.requests))
            await asyncio.sleep(self.latency)
            reply = next(self._failures, None) or self.reply(record)
        finally:
            self.in_flight -= 1
        return await self._sent(request, record, reply)

    async def _sent(self, request: web.Request, record: Request, reply: Reply | str) -> web.StreamResponse:
        reply = Reply(text=reply) if isinstance(reply, str) else reply
        if reply.disconnect:
            assert request.transport is not None
            request.transport.abort()
        response = _respond(record, reply, self.model)
        response.headers.update(dict(reply.headers))
        if reply.seconds_per_byte:
            return await _trickle(request, response, reply.seconds_per_byte)
        return response


@contextmanager
def serving(fake: FakeOpenAI) -> Iterator[FakeOpenAI]:
    """Runs the fake in a thread of its own, so that the test can wait for processes meanwhile."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(30)
        yield fake
        asyncio.run_coroutine_threadsafe(fake.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


async def _trickle(request: web.Request, whole: web.Response, seconds_per_byte: float) -> web.StreamResponse:
    stream = web.StreamResponse(status=whole.status, headers={"Content-Type": "application/json"})
    await stream.prepare(request)
    assert isinstance(whole.body, bytes)
    for byte in whole.body:
        await stream.write(bytes([byte]))
        await asyncio.sleep(seconds_per_byte)
    return stream


def _error(status: int, message: str, retry_after: float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def _respond(request: Request, reply: Reply, model: str) -> web.Response:
    """Words stand for tokens in the usage figures."""
    if reply.status != 200:
        return _error(reply.status, reply.text, reply.retry_after)
    if reply.body is not None:
        raw = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        return web.Response(body=raw, content_type="application/json")
    choice: dict[str, Any] = {"index": 0, "finish_reason": reply.finish}
    if request.path.endswith("/chat/completions"):
        choice["message"] = {"role": "assistant", "content": reply.text}
        if reply.reasoning:
            choice["message"]["reasoning"] = reply.reasoning
        tops = [{"token": token, "logprob": value, "bytes": None} for token, value in reply.tops]
        choice["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops}]} if tops else None
    else:
        choice["text"] = reply.text
    asked = " ".join(str(message["content"]) for message in request.messages) or request.last
    usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(f"{reply.text} {reply.reasoning}".split())}
    usage["total_tokens"] = sum(usage.values())
    return web.json_response({"id": "fake", "model": model, "choices": [choice], "usage": usage})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, help="the port in use is written here")
    parser.add_argument("--mode", choices=("chat", "judge", "noisy"), default="chat")
    parser.add_argument("--seed", type=int, default=0, help="of noisy")
    parser.add_argument("--lower", type=int, default=0, help="points a noisy judge takes off its ratings")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--die-at-start", metavar="TEXT", help="write TEXT to standard error and exit 1")
    parser.add_argument("--die-after", type=int, default=0, metavar="N", help="exit at once on the N-th completion")
    parser.add_argument("--die-once", type=Path, metavar="FILE", help="--die-after counts only until FILE exists")
    parser.add_argument("--die-on", metavar="TEXT", help="exit when a question with TEXT in it is answered")
    parser.add_argument("--ignore-sigterm", action="store_true")
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> None:
    def count(requests: int) -> None:
        spent = options.die_once is not None and options.die_once.exists()
        if options.die_after and requests >= options.die_after and not spent:
            if options.die_once is not None:
                options.die_once.touch()
            os._exit(3)

    def poisoned(request: Request) -> Reply | str:
        if options.die_on and options.die_on in json.dumps(request.body):
            os._exit(3)
        return plain(request)

    noisy = noisy_judge(options.seed, lower=options.lower)
    plain = {"chat": chat_reply, "judge": judge_reply, "noisy": noisy}[options.mode]
    reply = poisoned if options.die_on else plain
    server = FakeOpenAI(reply=reply, model=options.model, latency=options.latency, port=options.port, on_request=count)
    async with server:
        if options.port_file is not None:
            draft = options.port_file.with_suffix(".draft")
            draft.write_text(str(server.port))
            draft.replace(options.port_file)
        await asyncio.Event().wait()


def main() -> None:
    options = _arguments()
    if options.die_at_start is not None:
        sys.exit(options.die_at_start)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
