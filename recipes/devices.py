"""GPUs: how many a step can use, and who gets how many.

Two replicas of a model on four GPUs each, or one model on all eight:

>>> allot([Job("big", Gpus(unit=4), hours=9.0), Job("small", Gpus(unit=1), hours=9.0)], free=8, start_hours=0.1)
{'big': 4, 'small': 4}
>>> allot([Job("huge", Gpus(unit=8), hours=9.0), Job("small", Gpus(unit=1), hours=9.0)], free=8, start_hours=0.1)
{'huge': 8}

`schedule` starts the processes, `plan` works out the hours; both divide the GPUs with `allot`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.backends.devices import assigned_devices, groups_of


@dataclass(frozen=True)
class Gpus:
    """How many GPUs a step can use: `unit` for one replica of its model (0: none), times at most `replicas`."""

    unit: int = 0
    replicas: int | None = None
    """None: as many as fit."""

    def limit(self, free: int) -> int:
        """Return the most GPUs that the step can use if `free` are free."""
        if not self.unit:
            return 0
        replicas = free // self.unit
        return self.unit * (replicas if self.replicas is None else min(replicas, self.replicas))


@dataclass(frozen=True)
class Job:
    """A step and its remaining work in GPU-hours."""

    name: str
    gpus: Gpus
    hours: float
    alone: bool = False
    """Whether no other step may run at the same time."""
    after: tuple[str, ...] = ()
    """Names of the steps that must end before it starts."""


def starting(ready: Sequence[Job], free: int, running: Collection[Job], start_hours: float) -> dict[str, int]:
    """Return the jobs that start now, with their numbers of GPUs. A job with `alone` gets all, once nothing runs."""
    if any(job.alone for job in running):
        return {}
    together = [job for job in ready if not job.alone]
    shares = allot(together, free, start_hours)
    starts = {job.name: shares.get(job.name, 0) for job in together if job.name in shares or not job.gpus.unit}
    if starts or running:
        return starts
    return {job.name: free for job in [job for job in ready if job.alone][:1]}


def allot(ready: Sequence[Job], free: int, start_hours: float) -> dict[str, int]:
    """Return the number of GPUs for each job that starts now; the others wait. `free`: the GPUs that nobody uses.

    Jobs with the largest unit go first, and while one waits nothing narrower starts, so that it gets its GPUs as soon
    as the running jobs end. As many jobs start side by side as keep the GPUs busiest until the last one ends: a start
    costs `start_hours` on all GPUs of a job, and GPUs idle if one job ends long before another.
    """
    order = sorted((job for job in ready if job.gpus.unit), key=lambda job: (-job.gpus.unit, -job.hours))
    if not order or order[0].gpus.unit > free:
        return {}
    fitting: list[Job] = []
    for job in order:
        if sum(each.gpus.unit for each in fitting) + job.gpus.unit <= free:
            fitting.append(job)
    options = [_shared(fitting[:count], free) for count in range(1, len(fitting) + 1)]
    return max(reversed(options), key=lambda shares: _busy(fitting, shares, start_hours))  # the widest of equals


def _shared(jobs: Sequence[Job], free: int) -> dict[str, int]:
    """Give every job one unit, then each spare unit to the job that would end last."""
    shares = {job.name: job.gpus.unit for job in jobs}
    while True:
        spare = free - sum(shares.values())
        growing = [job for job in jobs if job.gpus.unit <= spare and shares[job.name] < job.gpus.limit(free)]
        if not growing:
            return shares
        last = max(growing, key=lambda job: job.hours / shares[job.name])
        shares[last.name] += last.gpus.unit


def _busy(jobs: Sequence[Job], shares: dict[str, int], start_hours: float) -> float:
    """Return the GPU-hours of work done per hour until the last of these jobs ends."""
    hours = {job.name: job.hours for job in jobs if job.name in shares}
    longest = max(start_hours + hours[name] / share for name, share in shares.items())
    return sum(hours.values()) / longest if longest else 0.0


@dataclass(frozen=True)
class PlannedStep:
    """When a step runs and on how many GPUs, by the plan. Times are in hours; the first steps start at 0."""

    name: str
    start: float
    hours: float
    devices: int
    gpu_hours: float
    """The work of the step, without the start of its model, during which the GPUs count as idle."""


def simulate(jobs: Sequence[Job], devices: int, start_hours: float) -> tuple[PlannedStep, ...]:
    """Return when each job runs if the scheduler divides the GPUs among them and each goes as fast as estimated.

    Every job needs at most `devices` GPUs. A job without GPUs takes no time. What runs `alone` uses one unit.
    """
    now, free = 0.0, devices
    waiting, running, planned = list(jobs), dict[str, tuple[Job, PlannedStep]](), list[PlannedStep]()
    while waiting or running:
        names = {job.name for job in waiting} | set(running)
        ready = [job for job in waiting if not names.intersection(job.after)]
        shares = starting(ready, free, [job for job, _ in running.values()], start_hours)
        for job in ready:
            if job.name not in shares:
                continue
            count = job.gpus.unit if job.alone else shares[job.name]
            hours = start_hours + job.hours / count if count else 0.0
            running[job.name] = (job, PlannedStep(job.name, now, hours, count, job.hours if count else 0.0))
            waiting.remove(job)
        now = min(step.start + step.hours for _, step in running.values())
        for _, step in list(running.values()):
            if step.start + step.hours <= now:
                planned.append(running.pop(step.name)[1])
        free = devices - sum(step.devices for _, step in running.values())
    return tuple(sorted(planned, key=lambda step: step.start))


def replica_devices(unit: int) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each replica, in groups of `unit` of this process's GPUs; [None] if none are set.

    >>> import os
    >>> os.environ["CUDA_VISIBLE_DEVICES"] = "4,5,6,7"
    >>> replica_devices(2)
    ['4,5', '6,7']
    >>> del os.environ["CUDA_VISIBLE_DEVICES"]
    """
    return [*groups_of(assigned_devices(), unit)] or [None]
