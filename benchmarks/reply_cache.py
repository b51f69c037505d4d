"""What the reply cache costs a call: CPU and wall, without it, with it empty, with every reply in it.

python -m benchmarks.reply_cache
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.client import ChatReply
from harness.judging.cache import ReplyCache, request_key

CALLS, IN_FLIGHT, LATENCY = 4000, 64, 0.2
PROMPT, REPLY = "word " * 1000, "x" * 1500
"""5,000 characters asked, 1,500 answered: an Arena-Hard judge's sizes."""


async def _ask() -> ChatReply:
    await asyncio.sleep(LATENCY)
    return ChatReply(REPLY, "stop", 1000, 300)


async def _worker(cache: ReplyCache, numbers: Iterator[int]) -> None:
    for number in numbers:
        body = {"model": "m", "messages": [{"role": "user", "content": f"{number} {PROMPT}"}], "temperature": 0}
        await cache.reply(request_key("u", body, 0), "m at u", _ask)  # type: ignore[arg-type]  # JSON by construction


async def _measure(name: str, path: Path | None) -> None:
    async with ReplyCache(path) as cache:
        cpu, wall = time.process_time(), time.monotonic()
        numbers = iter(range(CALLS))
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(_worker(cache, numbers))
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    print(f"{name:<10} {cpu / CALLS * 1e3:.3f} ms CPU a call, {wall:.2f} s wall")


async def main() -> None:
    print(
        f"{CALLS} calls of {LATENCY * 1e3:.0f} ms, {IN_FLIGHT} in flight: {CALLS * LATENCY / IN_FLIGHT:.2f} s at best"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replies.sqlite"
        await _measure("no cache", None)
        await _measure("empty", path)
        await _measure("all there", path)


if __name__ == "__main__":
    asyncio.run(main())
