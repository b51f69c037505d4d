"""Run the steps of a recipe in parallel: on the GPUs of this machine (`fill_devices`), or `--jobs` at a time.

With GPUs, each step runs in a process of its own and sees, as CUDA_VISIBLE_DEVICES, GPUs that no other step has.
`devices.allot` decides who starts with how many. If a step fails or its process dies, its GPUs go to the next step,
everything that does not depend on it still runs, and its error is raised at the end; the same command resumes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from harness.backends.devices import VISIBLE
from harness.records.errors import ConfigError, HarnessError, IncompleteError, UsageError, one_line

from .estimate import Job, starting
from .layout import StepRecord
from .steps import Outcome, Step, is_done, log_to_terminal, run_step

log = logging.getLogger(__name__)
GRACE = 10.0
"""Seconds for a step's process to end when the run is interrupted, before it is killed."""


def check_fits(steps: Sequence[Step], devices: Sequence[str]) -> None:
    """Raise ConfigError if a step needs more GPUs than there are."""
    for step in steps:
        if step.gpus.unit > len(devices):
            raise ConfigError(
                f"step {step.name!r} needs {step.gpus.unit} GPUs, but {len(devices)} are available "
                f"({', '.join(devices) or 'none'}); lower its tensor_parallel, or num_processes of `launch`"
            )


def job_of(step: Step, hours: float) -> Job:
    """Return what the scheduler must know about a step. `hours`: GPU-hours of its work."""
    return Job(step.name, step.gpus, hours, step.alone, tuple(earlier.name for earlier in step.inputs))


@dataclass
class _Running:
    step: Step
    job: Job
    devices: list[str]
    process: SpawnProcess
    results: Connection


def fill_devices(
    steps: Sequence[Step],
    make_steps: Callable[[], Sequence[Step]],
    devices: Sequence[str],
    *,
    hours: Mapping[str, float],
    start_hours: float,
) -> Iterator[Outcome]:
    """Run the steps and yield each outcome when its step ends. Inputs must come before their users.

    `make_steps` makes the recipe's steps again in each process, so it must be picklable. `hours`: GPU-hours of each
    step's work; a step that is not in it counts as an average one. After the last step, raise the first error.
    """
    check_fits(steps, devices)
    machine = _Machine(make_steps, list(devices))
    waiting, unfinished = list(steps), {step.name for step in steps}
    average = sum(hours.values()) / len(hours) if hours else 1.0
    failures: list[HarnessError] = []
    try:
        while (ready := _ready(waiting, unfinished)) or machine.running:
            skipped = _done_or_failed(ready)
            if skipped is not None:
                outcomes = [skipped]
            else:
                jobs = {step.name: job_of(step, hours.get(step.name, average)) for step in ready}
                shares = starting([*jobs.values()], len(machine.free), machine.jobs, start_hours)
                for step in [step for step in ready if step.name in shares]:
                    waiting.remove(step)
                    machine.start(step, jobs[step.name], shares[step.name])
                outcomes = machine.ended()
            for step, result, was_done in outcomes:
                if was_done:
                    waiting.remove(step)
                if isinstance(result, HarnessError):
                    log.error("%s failed; steps that do not need it continue: %s", step.name, result)
                    failures.append(result)
                else:
                    unfinished.remove(step.name)
                    yield Outcome(step, result, skipped=was_done)
    finally:
        machine.stop()
    if failures:
        raise failures[0]


Ended = tuple[Step, StepRecord | HarnessError, bool]
"""A step, its record or its error, and whether it had not to be started."""


def _done_or_failed(ready: Sequence[Step]) -> Ended | None:
    """Return the first step that is done already or was made with other settings, or None if all must be started."""
    for step in ready:
        try:
            if is_done(step):
                return step, run_step(step), True
        except HarnessError as error:
            return step, error, True
    return None


class _Machine:
    """The GPUs that nobody uses, and the processes that use the others."""

    def __init__(self, make_steps: Callable[[], Sequence[Step]], devices: list[str]) -> None:
        self.free = devices
        self.running: list[_Running] = []
        self._make_steps = make_steps
        self._order = list(devices)
        self._context = multiprocessing.get_context("spawn")  # CUDA and torch's threads do not survive a fork

    @property
    def jobs(self) -> list[Job]:
        return [running.job for running in self.running]

    def start(self, step: Step, job: Job, count: int) -> None:
        """Start the step's process on `count` of the free GPUs."""
        devices, self.free = self.free[:count], self.free[count:]
        results, sender = self._context.Pipe(duplex=False)
        arguments = (self._make_steps, step.name, tuple(devices), os.getpid(), sender)
        process = self._context.Process(target=_run, args=arguments, name=step.name)
        process.start()
        sender.close()  # the child has its own end; the pipe must break when the child dies
        log.info("%s starts on %s", step.name, f"GPU {','.join(devices)}" if devices else "no GPU")
        self.running.append(_Running(step, job, devices, process, results))

    def ended(self) -> list[Ended]:
        """Wait until a step ends; free the GPUs of all that have ended, and return their records or errors."""
        wait([running.results for running in self.running])
        outcomes: list[Ended] = []
        for running in list(self.running):
            if running.results.poll():
                outcomes.append((running.step, _result(running), False))
                self.running.remove(running)
                self.free = sorted([*self.free, *running.devices], key=self._order.index)
        return outcomes

    def stop(self) -> None:
        """End the processes that still run: the caller was interrupted."""
        for running in self.running:
            running.process.terminate()
        for running in self.running:
            running.process.join(GRACE)
            if running.process.is_alive():
                running.process.kill()
                running.process.join()


def _result(running: _Running) -> StepRecord | HarnessError:
    try:
        result: StepRecord | HarnessError = running.results.recv()
    except (EOFError, OSError):
        running.process.join()
        code = running.process.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return IncompleteError(f"{running.step.name}: its process {how}; the same command resumes")
    # The process must be gone before its GPUs are given away: it may still free memory.
    running.process.join()
    return result


def _run(
    make_steps: Callable[[], Sequence[Step]], name: str, devices: Sequence[str], parent: int, results: Connection
) -> None:
    """Run one step in this process and send its record, or the error that ended it."""
    os.environ[VISIBLE] = ",".join(devices)  # before anything initialises CUDA
    end_with_parent(parent)
    log_to_terminal()
    result: StepRecord | HarnessError
    try:
        result = run_step(next(step for step in make_steps() if step.name == name))
    except (UsageError, IncompleteError) as error:
        result = error
    except Exception as error:
        log.exception("%s failed", name)
        result = IncompleteError(f"{name}: {type(error).__name__}: {one_line(error)}; its traceback is above")
    results.send(result)
    results.close()


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
                    yield Outcome(step, run_step(step), skipped=True)
                elif step.alone and not step.one_core and not running:
                    waiting.remove(step)
                    yield Outcome(step, run_step(step), skipped=False)
                    unfinished.remove(step.name)
                elif (step.one_core or not step.alone) and len(running) < jobs:
                    waiting.remove(step)
                    running[pool.submit(_run_named, step.name)] = step
            if running:
                ended, _ = wait_for(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    step = running.pop(future)
                    yield Outcome(step, future.result(), skipped=False)
                    unfinished.remove(step.name)


def _ready(waiting: Sequence[Step], unfinished: set[str]) -> list[Step]:
    return [step for step in waiting if not any(earlier.name in unfinished for earlier in step.inputs)]


_STEPS: dict[str, Step] = {}
"""The recipe's steps by name, in a process of `side_by_side`."""


def _begin(make_steps: Callable[[], Sequence[Step]], parent: int, threads: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    log_to_terminal()
    end_with_parent(parent)
    _STEPS.update({step.name: step for step in make_steps()})


def _run_named(name: str) -> StepRecord:
    return run_step(_STEPS[name])


def end_with_parent(parent: int) -> None:
    """End this process once its parent is gone, e.g. after kill -9, because a new run may resume the same steps."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
