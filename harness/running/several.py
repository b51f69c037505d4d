"""Several models at once, each on devices that no other one has.

>>> async def job(devices: str | None) -> str:
...     return f"on {devices}"
>>> asyncio.run(side_by_side([job, job, job], ["0,1", "2,3"]))
['on 0,1', 'on 2,3', 'on 0,1']
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..backends.devices import devices_of, disjoint_devices, visible_devices
from ..records.errors import ConfigError
from ..records.protocols import LoadedJudge, NothingToOpen, Placed
from .plan import Plan

T = TypeVar("T")


async def side_by_side(
    jobs: Sequence[Callable[[str | None], Coroutine[Any, Any, T]]], slots: Sequence[str | None]
) -> list[T | Exception]:
    """Run each job on the first free slot; return their results, or the errors that ended them, in their order.

    An error of one job does not stop the others.
    """
    free: asyncio.Queue[str | None] = asyncio.Queue()
    for slot in slots:
        free.put_nowait(slot)

    async def placed(job: Callable[[str | None], Coroutine[Any, Any, T]]) -> T | Exception:
        slot = await free.get()
        try:
            return await job(slot)
        except Exception as error:  # also a crash: the other models have nothing to do with it
            return error
        finally:
            free.put_nowait(slot)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(placed(job)) for job in jobs]
    return [task.result() for task in tasks]


def slots_for(plans: Sequence[Plan], count: int) -> list[str | None]:
    """Return the GPUs of each of `count` models that run at a time; None for models that are not served here.

    Raise ConfigError if there are too few GPUs, or if a model or a judge would be loaded without a choice of GPUs.
    """
    count = min(count, len(plans))
    for plan in plans:
        backend, spec = plan.backend, plan.spec
        if not isinstance(backend, Placed | NothingToOpen) and spec.model.scheme != "endpoint":
            raise ConfigError(
                f"backend {spec.backend!r} cannot be given GPUs of its own; leave out --parallel-models {count}"
            )
        for judge in [judge for suite in plan.suites for judge in suite.judges]:
            if isinstance(judge, LoadedJudge):
                raise ConfigError(
                    f"judge {judge.spec.name!r} is loaded on this machine, once per model; leave out --parallel-models "
                    f"{count}, or serve it and give its endpoint"
                )
    if not any(isinstance(plan.backend, Placed) for plan in plans):
        return [None] * count
    serve = plans[0].spec.serve
    devices = tuple(serve.devices.split(",")) if serve.devices is not None else visible_devices()
    return [*disjoint_devices(devices, unit=devices_of(serve), count=count)]
