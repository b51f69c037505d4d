"""Run steps in parallel processes, each as soon as its inputs are finished.

This module only decides when a step runs; the step works and resumes as it does without `--jobs`. A step with `alone`
runs in this process while no other step runs.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from .steps import Outcome, Step, StepRecord, finished, is_done, run_step

FORMAT, DATE = "%(asctime)s %(message)s", "%H:%M:%S"


def side_by_side(steps: Sequence[Step], make_steps: Callable[[], Sequence[Step]], jobs: int) -> Iterator[Outcome]:
    """Run the steps and yield each outcome when the step ends. Inputs must come before their users.

    `make_steps` makes all of the recipe's steps again in each process, so it must be picklable: a module's function,
    or a partial of one. If one step fails, wait for the running ones, then re-raise.
    """
    waiting, unfinished = list(steps), {step.name for step in steps}
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    started = (make_steps, os.getpid(), max(1, (os.cpu_count() or 1) // jobs))
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=started) as pool:
        running: dict[Future[StepRecord], Step] = {}
        while waiting or running:
            for step in _ready(waiting, unfinished):
                if is_done(step):
                    waiting.remove(step)
                    unfinished.remove(step.name)
                    yield Outcome(step, _record(step), skipped=True)
                elif step.alone and not running:
                    waiting.remove(step)
                    yield Outcome(step, run_step(step), skipped=False)
                    unfinished.remove(step.name)
                elif not step.alone and len(running) < jobs:
                    waiting.remove(step)
                    running[pool.submit(_do, step.name)] = step
            if running:
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    step = running.pop(future)
                    yield Outcome(step, future.result(), skipped=False)
                    unfinished.remove(step.name)


def _ready(waiting: Sequence[Step], unfinished: set[str]) -> list[Step]:
    """Return the steps whose inputs are all finished."""
    return [step for step in waiting if not any(earlier.name in unfinished for earlier in step.inputs)]


def _record(step: Step) -> StepRecord:
    record = finished(step)
    assert record is not None
    return record


# ------------------------------------------------------------------------------------------------- in a process


_STEPS: dict[str, Step] = {}


def _begin(make_steps: Callable[[], Sequence[Step]], parent: int, threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.basicConfig(level=logging.INFO, format=FORMAT, datefmt=DATE)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _STEPS.update({step.name: step for step in make_steps()})


def _do(name: str) -> StepRecord:
    return run_step(_STEPS[name])


def _end_with(parent: int) -> None:
    """End this process if its parent is gone, e.g. after kill -9, because a new run may resume the same steps."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
