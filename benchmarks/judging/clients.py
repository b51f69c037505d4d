"""A client alone, as a process of its own: COUNT equal calls, CONCURRENCY in flight, nothing kept.

python -m benchmarks.judging.clients ours|openai URL COUNT CONCURRENCY prints calls, wall and cpu seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from pydantic import JsonValue

BODY: dict[str, JsonValue] = {
    "model": "judge",
    "messages": [{"role": "user", "content": "Which answer is better? " * 60}],
    "temperature": 0,
    "max_tokens": 16,
}
Call = Callable[[], Awaitable[object]]


async def many(call: Call, count: int, concurrency: int) -> dict[str, float]:
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await call()

    cpu, started = time.process_time(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return {"calls": count, "wall": time.monotonic() - started, "cpu": time.process_time() - cpu}


async def ours(url: str, count: int, concurrency: int) -> dict[str, float]:
    from harness.client import CallLimits, ChatClient

    async with ChatClient(f"{url}/v1", CallLimits(concurrency=concurrency)) as client:
        return await many(lambda: client.chat(BODY), count, concurrency)


async def sdk(url: str, count: int, concurrency: int) -> dict[str, float]:
    import openai

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        return await many(lambda: client.chat.completions.create(**BODY), count, concurrency)  # type: ignore[call-overload]


def main() -> None:
    side = {"ours": ours, "openai": sdk}[sys.argv[1]]
    figures = asyncio.run(side(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
