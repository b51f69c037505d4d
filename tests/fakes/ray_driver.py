"""What tests run and kill: `ray_driver.py BACKEND FOLDER` samples prompts as a recipe's stage does.

The model is an echo with 1.6 s an answer; on Ray, two workers of it, 32 answers at a time each, in chunks of four.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from harness.records import ModelRef, Prompt, Sampling
from harness.records.settings import ServeSpec
from recipes.sampling import AnswerFile, Sampler, sample

PROMPTS, DRAWS = 600, 2
ECHO = ("latency=1.6",)
ON_RAY = (*ECHO, "ray.worker=scripted")


def main(backend: str, folder: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [Prompt(id=f"p{number}", turns=(f"question {number}",), category="c") for number in range(PROMPTS)]
    on_ray = backend == "ray"
    serve = ServeSpec(
        engine_args=ON_RAY if on_ray else ECHO,
        data_parallel=2 if on_ray else 1,
        concurrency=64 if on_ray else 1200,
        start_timeout=60,
    )
    sampler = Sampler("echo", ModelRef.parse("echo"), backend, serve)
    sample(sampler, [AnswerFile(folder / "answers.jsonl", prompts, Sampling(max_tokens=8, n=DRAWS))], folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
