"""A mock OpenAI server: fixed latency, 429s by a token bucket, and it counts connections and requests in flight.

As a process: python -m benchmarks.judging.server --port-file F [--latency S] [--rate R] [--burst B]
Any path that ends in /chat/completions answers; GET /stats gives the counts since the last GET /reset.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aiohttp import web

TOPS = [{"token": "m", "logprob": -0.4}, {"token": "M", "logprob": -1.2}]
ANSWER = "An answer of some length, as a model gives it. " * 20
VERDICT = "Both answers were read with care. My final verdict is: [[A>B]] and in a number [[7]]. GRADE: C"


@dataclass
class Stats:
    """Counts since the last reset."""

    requests: int = 0
    rejected: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    first: float = 0.0
    last: float = 0.0
    """Seconds of time.monotonic(): the first request's arrival and the last reply's departure."""
    connections: set[object] = field(default_factory=set)

    def as_json(self) -> dict[str, float]:
        found = {name: value for name, value in asdict(self).items() if name != "connections"}
        return found | {"connections": len(self.connections)}


class Mock:
    """`rate` requests a second in bursts of `burst`; 0: no limit."""

    def __init__(self, latency: float, rate: float = 0.0, burst: float = 0.0) -> None:
        self.latency = latency
        self.rate = rate
        self.burst = burst or rate
        self.stats = Stats()
        self._level = self.burst
        self._at = time.monotonic()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Any request; without a router, so that the server takes little of the two cores."""
        if request.path.endswith("/chat/completions"):
            return await self._complete(request)
        if request.path == "/stats":
            return web.json_response(self.stats.as_json())
        if request.path == "/reset":
            self.stats = Stats()
            self._level, self._at = self.burst, time.monotonic()
            return web.Response()
        return web.json_response({"object": "list", "data": []})  # models

    def _admits(self, now: float) -> bool:
        if not self.rate:
            return True
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    async def _complete(self, request: web.BaseRequest) -> web.Response:
        stats, now = self.stats, time.monotonic()
        stats.connections.add(request.transport.get_extra_info("peername") if request.transport else None)
        if not self._admits(now):
            stats.rejected += 1
            error = {"error": {"message": "Rate limit reached, slow down", "code": "rate_limit_exceeded"}}
            return web.json_response(error, status=429, headers={"Retry-After": "1"})
        stats.first = stats.first or now
        stats.requests += 1
        stats.in_flight += 1
        stats.peak_in_flight = max(stats.peak_in_flight, stats.in_flight)
        try:
            raw = await request.read()
            await asyncio.sleep(self.latency)
        finally:
            stats.in_flight -= 1
            stats.last = time.monotonic()
        return web.json_response(completion(raw))


def completion(raw: bytes) -> dict[str, object]:
    asked = json.loads(raw)
    choice: dict[str, object] = {"index": 0, "finish_reason": "stop"}
    text = VERDICT if "judge" in str(asked.get("model")) else ANSWER
    if asked.get("logprobs"):
        text = "m"
        choice["logprobs"] = {"content": [{**TOPS[0], "bytes": None, "top_logprobs": TOPS}]}
    choice["message"] = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": len(raw) // 4, "completion_tokens": len(text) // 4}
    usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    found: dict[str, object] = {"id": "mock", "object": "chat.completion", "created": 0, "model": asked.get("model")}
    return found | {"choices": [choice], "usage": usage}


async def serve(options: argparse.Namespace) -> None:
    mock = Mock(options.latency, options.rate, options.burst)
    runner = web.ServerRunner(web.Server(mock.answer, access_log=None, keepalive_timeout=600.0))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    draft = options.port_file.with_suffix(".draft")
    draft.write_text(str(runner.addresses[0][1]))
    draft.replace(options.port_file)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--burst", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
