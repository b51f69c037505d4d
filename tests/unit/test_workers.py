"""A pool of workers: nothing that was asked is lost with a worker, nothing is answered twice, nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from harness.backends.cluster import ATTEMPTS, Need, WorkerGoneError, WorkerLostError, WorkerPool, check_room
from harness.records.errors import ConfigError, ServerError


class Doubling:
    """Doubles numbers, one after the other; `before(number)` may raise. `deaths`: times it does not start."""

    def __init__(self, before: Callable[[int], None] = lambda _: None, *, never: bool = False) -> None:
        self._before = before
        self._never = never
        self.asked: list[int] = []
        self.starts = 0
        self.stopped = False

    async def start(self) -> None:
        self.starts += 1
        if self._never:
            await asyncio.Event().wait()

    async def work(self, work: int) -> int:
        self.asked.append(work)
        await asyncio.sleep(0.001)
        self._before(work)
        return 2 * work

    async def stop(self) -> None:
        self.stopped = True


def pool(*workers: Doubling, patience: float = 5.0) -> WorkerPool[int, int]:
    return WorkerPool("test", workers, capacity=3, patience=patience)


async def doubled(made: WorkerPool[int, int], count: int) -> list[int]:
    async with made:
        return await asyncio.gather(*(made.ask(number) for number in range(count)))


def dies_once(after: int) -> Callable[[int], None]:
    """Lost in its call number `after`."""
    calls: list[int] = []

    def before(work: int) -> None:
        calls.append(work)
        if len(calls) == after:
            raise WorkerLostError("killed")

    return before


def test_what_was_in_flight_at_a_lost_worker_is_asked_again_and_each_gets_its_own_result() -> None:
    first, second = Doubling(dies_once(after=4)), Doubling()

    assert asyncio.run(doubled(pool(first, second), 50)) == [2 * number for number in range(50)]

    times = Counter([*first.asked, *second.asked])
    assert set(times) == set(range(50))
    assert 51 <= sum(times.values()) <= 50 + 3  # the one it died of, at most three places at the worker that died
    assert first.stopped
    assert second.stopped


def test_a_lost_worker_that_comes_back_works_on() -> None:
    only = Doubling(dies_once(after=1))

    assert asyncio.run(doubled(pool(only), 9)) == [2 * number for number in range(9)]
    assert only.starts == 2


def test_work_that_loses_every_worker_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.backends.cluster.LOOK_AGAIN", 0.0)

    def before(work: int) -> None:
        if work == 2:
            raise WorkerLostError("killed")

    async def run() -> list[int | BaseException]:
        async with pool(Doubling(before)) as made:
            return await asyncio.gather(*(made.ask(number) for number in range(2, 12)), return_exceptions=True)

    poison, *rest = asyncio.run(run())

    assert isinstance(poison, WorkerLostError)
    assert str(poison) == f"{ATTEMPTS} workers were lost with it in flight"
    assert [found for found in rest if isinstance(found, int)][-1] == 22


def test_the_works_own_error_goes_to_who_asked_and_to_nobody_else() -> None:
    def before(work: int) -> None:
        if work == 3:
            raise ValueError("three")

    only = Doubling(before)

    async def run() -> list[int | BaseException]:
        async with pool(only) as made:
            return await asyncio.gather(*(made.ask(number) for number in range(5)), return_exceptions=True)

    assert [repr(found) for found in asyncio.run(run())] == ["0", "2", "4", "ValueError('three')", "8"]
    assert only.starts == 1


def test_when_the_last_worker_is_gone_for_good_everything_that_waits_says_why() -> None:
    def before(work: int) -> None:
        raise WorkerGoneError("worker on node 10.0.0.7: out of memory")

    with pytest.raises(ServerError, match=r"test: worker on node 10\.0\.0\.7: out of memory"):
        asyncio.run(doubled(pool(Doubling(before), Doubling(before)), 9))


def test_a_pool_in_which_nobody_can_work_does_not_wait_for_ever() -> None:
    never = Doubling(never=True)

    with pytest.raises(ServerError, match="test: no worker for 0 s"):
        asyncio.run(doubled(pool(never, patience=0.05), 1))

    assert never.stopped


def test_a_bug_in_a_worker_is_not_waited_for() -> None:
    class Broken(Doubling):
        async def start(self) -> None:
            raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        asyncio.run(doubled(pool(Broken()), 1))


def test_a_worker_that_no_node_can_hold_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [{"CPU": 16.0}, {"CPU": 8.0, "GPU": 2.0}]

    with pytest.raises(ConfigError, match=r"needs 1 CPU and 4 GPU on one node.*16 CPU and 0 GPU, 8 CPU and 2 GPU"):
        check_room(Need(gpus=4), nodes, 1)

    check_room(Need(gpus=1), nodes, 2)
    assert not caplog.records
    check_room(Need(gpus=1), nodes, 3)
    assert "room for 2 of 3 workers" in caplog.text


def test_a_worker_is_given_no_more_than_its_places() -> None:
    most = 0
    inside = 0

    class Watched(Doubling):
        async def work(self, work: int) -> int:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1
            return 2 * work

    async def run(weight: float) -> list[int]:
        async with pool(Watched()) as made:
            return await asyncio.gather(*(made.ask(number, weight=weight) for number in range(20)))

    assert asyncio.run(run(1.0)) == [2 * number for number in range(20)]
    assert most == 3
    most = 0
    asyncio.run(run(0.5))
    assert most == 6
