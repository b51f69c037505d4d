"""The scheduler: who gets how many GPUs, and real processes on pretend GPUs that no two steps share."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest

from harness.records.errors import ConfigError, IncompleteError
from recipes.estimate import Gpus, Job, PlannedStep, allot, simulate, starting
from recipes.schedule import fill_devices
from recipes.steps import Outcome
from tests.fakes.timed_steps import diamond, ran

DEVICES = ("4", "5", "6", "7")


def test_equal_small_jobs_share_the_gpus() -> None:
    jobs = [Job(name, Gpus(1), hours=27.0) for name in "abcd"]

    assert allot(jobs, 8, start_hours=0.1) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_a_fifth_equal_job_waits_because_it_would_leave_gpus_idle() -> None:
    jobs = [Job(name, Gpus(1), hours=27.0) for name in "abcde"]

    # 2, 2, 2, 1 and 1 GPUs would end after 27 hours with 40.5 GPU-hours idle; two rounds end after 13.5 + 3.4
    assert allot(jobs, 8, start_hours=0.1) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_gpus_follow_the_work() -> None:
    jobs = [Job("long", Gpus(1), hours=6.0), Job("short", Gpus(1), hours=2.0)]

    assert allot(jobs, 8, start_hours=0.1) == {"long": 6, "short": 2}


def test_nothing_narrow_starts_while_a_wide_job_waits() -> None:
    jobs = [Job("narrow", Gpus(1), hours=1.0), Job("wide", Gpus(8), hours=1.0)]

    assert allot(jobs, 7, start_hours=0.1) == {}
    assert allot(jobs, 8, start_hours=0.1) == {"wide": 8}


def test_a_job_gets_no_more_replicas_than_it_can_use() -> None:
    assert allot([Job("training", Gpus(2, replicas=1), hours=9.0)], 8, start_hours=0.1) == {"training": 2}
    assert allot([Job("server", Gpus(3), hours=9.0)], 8, start_hours=0.1) == {"server": 6}


def test_a_job_without_gpus_starts_at_once_and_one_that_must_be_alone_waits() -> None:
    pairs, suite = Job("pairs", Gpus(), hours=0.0), Job("suite", Gpus(1), hours=1.0, alone=True)

    assert starting([pairs, suite], 0, [Job("training", Gpus(8), 1.0)], 0.1) == {"pairs": 0}
    assert starting([suite], 4, [Job("training", Gpus(4), 1.0)], 0.1) == {}
    assert starting([suite], 8, [], 0.1) == {"suite": 8}
    assert starting([pairs], 0, [suite], 0.1) == {}


def test_a_plan_by_hand() -> None:
    # a and b side by side on one GPU each for 0.5 + 2 hours, then c on both for 0.5 + 1
    jobs = [
        Job("a", Gpus(1), 2.0),
        Job("b", Gpus(1), 2.0),
        Job("between", Gpus(), 0.0, after=("a", "b")),
        Job("c", Gpus(1), 2.0, after=("between",)),
    ]

    assert simulate(jobs, 2, start_hours=0.5) == (
        PlannedStep("a", 0.0, 2.5, 1, 2.0),
        PlannedStep("b", 0.0, 2.5, 1, 2.0),
        PlannedStep("between", 2.5, 0.0, 0, 0.0),
        PlannedStep("c", 2.5, 1.5, 2, 2.0),
    )


def run(out: Path) -> list[Outcome]:
    (out / "logs").mkdir(exist_ok=True)
    return list(fill_devices(diamond(out), partial(diamond, out), DEVICES, hours={}, start_hours=0.0))


@pytest.mark.slow
def test_no_two_steps_share_a_gpu_and_the_wide_one_gets_all(tmp_path: Path) -> None:
    outcomes = run(tmp_path)
    steps = ran(tmp_path)

    assert {outcome.step.name for outcome in outcomes} == set(steps) == {step.name for step in diamond(tmp_path)}
    for one, other in itertools.combinations(steps.values(), 2):
        assert not (one.overlaps(other) and one.devices & other.devices), (one, other)
    assert steps["first"].devices == frozenset()
    assert steps["wide"].devices == frozenset(DEVICES)
    assert len(steps["pair"].devices) == 2
    assert steps["alone"].devices == frozenset(DEVICES)
    assert not any(steps["alone"].overlaps(step) for name, step in steps.items() if name != "alone")
    narrow = [steps[f"narrow-{letter}"] for letter in "abcd"]
    assert set().union(*(step.devices for step in narrow)) == set(DEVICES)


@pytest.mark.slow
def test_a_step_that_dies_frees_its_gpus_and_the_next_run_does_only_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "wide.die").touch()
    (tmp_path / "logs" / "narrow-b.die").touch()

    with pytest.raises(IncompleteError, match=r"wide: its process ended with exit code 9; the same command resumes"):
        run(tmp_path)

    every = {step.name for step in diamond(tmp_path)}
    assert set(ran(tmp_path)) == every - {"wide", "narrow-b", "after-b"}
    assert ran(tmp_path)["alone"].devices == frozenset(DEVICES)  # so the GPUs of both were free again

    for file in (tmp_path / "logs").glob("*.die"):
        file.unlink()
    outcomes = run(tmp_path)

    assert {outcome.step.name for outcome in outcomes if not outcome.skipped} == {"wide", "narrow-b", "after-b"}
    assert {outcome.step.name for outcome in outcomes} == every


def test_a_step_that_needs_more_gpus_than_there_are_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step 'wide' needs 4 GPUs, but 2 are available"):
        list(fill_devices(diamond(tmp_path), partial(diamond, tmp_path), ("0", "1"), hours={}, start_hours=0.0))
    assert not (tmp_path / "first").exists()
