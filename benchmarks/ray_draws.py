"""What Ray itself costs a draw: two workers whose engine answers at once, on a cluster of this machine.

    .venv/bin/python benchmarks/ray_draws.py

Prints the seconds until both workers could work, and draws a second: asked one by one, and in bulk.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path

from harness.backends.ray import RayBackend
from harness.records import ModelRef, Prompt, Sampling
from harness.records.protocols import Draw, ServeOptions

DRAWS, WORKERS, CONCURRENCY = 4000, 2, 128
TEXT = "word " * 200
"""About as long as a prompt of UltraFeedback."""


async def measure(folder: Path) -> dict[str, float]:
    words = ("ray.worker=scripted", "ray.cpus=0.5")
    options = ServeOptions(log_dir=folder, data_parallel=WORKERS, concurrency=CONCURRENCY, engine_args=words)
    sampling = Sampling(max_tokens=8)
    draws = [Draw(Prompt(id=str(number), turns=(TEXT,), category="c"), sampling) for number in range(DRAWS)]
    begun = time.monotonic()
    async with RayBackend(ModelRef.parse("echo"), options) as backend:
        started = time.monotonic() - begun
        places = asyncio.Semaphore(CONCURRENCY)

        async def ask(draw: Draw) -> None:
            async with places:
                await backend.answer(draw.prompt, draw.sampling, draw.index)

        begun = time.monotonic()
        await asyncio.gather(*(ask(draw) for draw in draws))
        singly = time.monotonic() - begun
        begun = time.monotonic()
        found = [answer async for answer in backend.answer_many(draws)]
        bulk = time.monotonic() - begun
    assert len(found) == DRAWS
    return {
        "start_seconds": round(started, 1),
        "draws_per_second": round(DRAWS / singly),
        "draws_per_second_bulk": round(DRAWS / bulk),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asyncio.run(measure(Path(folder)))))
