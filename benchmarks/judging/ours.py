"""Our side, as a process of its own: the real pipeline (client, stores, reply cache, log), scoring left out.

python -m benchmarks.judging.ours URL FOLDER COUNT CONCURRENCY [answered] prints one JSON line; `Figures` says what is
in it. With `answered` all answers exist already, so that the calls are the judge's alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.cli.console import set_up_logging
from harness.pages.progress import PlainProgress
from harness.records import Answer, JudgeSpec, JudgeTemplate, ModelRef, Prompt
from harness.records.protocols import SuiteData
from harness.records.settings import RunSpec, ServeSpec
from harness.running.execute import opened
from harness.running.pipeline import Progress, SuiteRun, evaluate
from harness.running.plan import Plan, plan, suite_plan
from harness.suites.alpaca_eval.suite import AlpacaEval

TEMPLATE = JudgeTemplate(
    name="bench",
    user="Which answer to the instruction is better, m or M?\n\n{instruction}\n\nm: {output_1}\n\nM: {output_2}\n" * 2,
    parser="letter_logprob",
    max_tokens=1,
    top_logprobs=5,
)


@dataclass(frozen=True)
class Figures:
    """What one side took."""

    rows: int
    """Judgments with a verdict."""
    wall: float
    """Seconds from the first to the last call, start-up and scoring left out."""
    cpu: float
    """Seconds of processor time meanwhile, all threads."""
    memory: float
    """MB, the process's peak up to then."""
    memory_first: float = 0.0
    """MB in use when a tenth was judged."""
    memory_last: float = 0.0
    """MB in use when all was."""


def suite_of(count: int) -> AlpacaEval:
    """AlpacaEval's own class over made-up data of its form: one preference for each of `count` prompts."""
    prompts = tuple(
        Prompt(id=f"q{number}", turns=(f"Question {number}: " + "what is to be said of this? " * 6,), category="bench")
        for number in range(count)
    )
    baseline = {
        prompt.id: Answer(
            prompt_id=prompt.id, model="baseline", turns=("A baseline's answer. " * 90,), finish=("stop",)
        )
        for prompt in prompts
    }
    data = SuiteData("bench-1", prompts, {"bench": TEMPLATE}, baseline_name="baseline", baseline=baseline)
    return AlpacaEval(data)


def plan_of(url: str, folder: Path, count: int, concurrency: int) -> Plan:
    """What `harness run --model endpoint:… --judge …` plans, but for the suite's data."""
    os.environ["HARNESS_REPLY_CACHE"] = str(folder / "replies.sqlite")
    judge = JudgeSpec(name="bench", kind="llm", model="judge", url=f"{url}/v1", concurrency=concurrency)
    spec = RunSpec(
        model=ModelRef(scheme="endpoint", name="model", url=f"{url}/v1"),
        suites=("alpaca_eval",),
        edition="pocket",
        backend="endpoint",
        judges={"alpaca_eval": (judge,)},
        results=folder,
        serve=ServeSpec(concurrency=concurrency),
    )
    planned = plan(spec)
    suite = suite_plan(spec, suite_of(count), planned.suites[0].judges, planned.identity)
    return replace(planned, suites=(suite,))


def memory() -> float:
    """MB of this process now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak_memory() -> float:
    """MB, the most this process has held (Linux). Not ru_maxrss: that begins with the parent's."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


async def ask(made: Plan, runs: Sequence[SuiteRun], count: int) -> Figures:
    shown = PlainProgress({("alpaca_eval", "answers"): count, ("alpaca_eval", "judgments"): count})
    in_use: list[float] = []

    def on_progress(step: Progress) -> None:
        shown(step)
        if step.stage == "judgments" and len(runs[0].store.judgments) in (max(1, count // 10), count):
            in_use.append(memory())

    async with made.calls.cache:
        cpu, started = time.process_time(), time.monotonic()
        await evaluate(runs, lambda: made.backend, concurrency=made.spec.serve.concurrency, on_progress=on_progress)
        wall, cpu = time.monotonic() - started, time.process_time() - cpu
    return Figures(runs[0].store.judgments.count_succeeded, wall, cpu, peak_memory(), in_use[0], in_use[-1])


def answer_all(runs: Sequence[SuiteRun]) -> None:
    for run in runs:
        for prompt in run.plan.prompts:
            text = f"Answer {prompt.id}. " + "It is said at some length. " * 40
            run.store.answers.append(Answer(prompt_id=prompt.id, model="model", turns=(text,), finish=("stop",)))


def main() -> None:
    url, folder, count, concurrency = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    set_up_logging()
    made = plan_of(url, folder, count, concurrency)
    with opened(made, fresh=False) as runs:
        if "answered" in sys.argv[5:]:
            answer_all(runs)
        figures = asyncio.run(ask(made, runs, count))
    sys.stdout.write(json.dumps(asdict(figures)) + "\n")


if __name__ == "__main__":
    main()
