"""The reply cache under real processes: kill -9, two at once, a full or read-only disk, a deleted run folder."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.commands import Done, harness_process, run_command
from tests.fakes.disks import small_disk
from tests.fakes.openai_server import FakeOpenAI, judge_reply, serving

IN_FLIGHT = 4
"""The judge's concurrency: what one kill can make void."""


class World:
    """A fake model, a fake judge, and the command; `calls` judge calls a run from nothing."""

    def __init__(self, model: FakeOpenAI, judge: FakeOpenAI, folder: Path) -> None:
        self.model, self.judge, self.folder = model, judge, folder
        self.replies = folder / "replies.sqlite"
        entry = f"{{kind: llm, model: fake, url: '{judge.url}', concurrency: {IN_FLIGHT}, price_in: 1, price_out: 1}}"
        (folder / "harness.yaml").write_text(f"judges: {{fake: {entry}}}\n")

    def words(self, *more: str) -> tuple[str, ...]:
        words = ("run", "--model", f"endpoint:fake@{self.model.url}", "--edition", "pocket", "--judge", "fake")
        return (*words, "--suite", "mt_bench,arena_hard", *more)

    def start(self, *more: str) -> subprocess.Popen[str]:
        return harness_process(*self.words(*more), cwd=self.folder, HARNESS_REPLY_CACHE=str(self.replies))

    def run(self, *more: str) -> Done:
        return run_command(*self.words(*more), cwd=self.folder, HARNESS_REPLY_CACHE=str(self.replies))

    @property
    def asked(self) -> int:
        return len(self.judge.requests)

    def sound(self) -> bool:
        """Whether SQLite finds nothing wrong with the cache."""
        with sqlite3.connect(self.replies) as database:
            return list(database.execute("PRAGMA integrity_check")) == [("ok",)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(FakeOpenAI()) as model, serving(FakeOpenAI(reply=judge_reply)) as judge:
        yield World(model, judge, tmp_path)


LIMIT = ("--limit", "20")
CALLS = 2 * 20 + 2 * 20
"""Two ratings a conversation, two games a question."""


@pytest.mark.slow
def test_a_deleted_run_folder_costs_no_call(world: World) -> None:
    assert world.run(*LIMIT).code == 0
    assert world.asked == CALLS
    shutil.rmtree(world.folder / "results")

    again = world.run(*LIMIT)

    assert again.code == 0, again.err
    assert world.asked == CALLS
    assert "mt_bench: 0 judge calls, $0.00 paid" in again.out


@pytest.mark.slow
def test_two_runs_at_once_share_it(world: World) -> None:
    world.judge.latency = 0.01
    both = [world.start(*LIMIT, "--results", name) for name in ("one", "two")]
    ends = [process.communicate(timeout=180) for process in both]

    assert [process.returncode for process in both] == [0, 0], ends
    assert CALLS <= world.asked <= 2 * CALLS
    assert world.sound()
    before = world.asked
    assert world.run(*LIMIT, "--results", "three").code == 0
    assert world.asked == before


def killed_at(world: World, points: list[int], calls: int, *more: str) -> int:
    """Kills a run whenever so many judge requests have come, deletes its folder, and finishes; extra requests made."""
    waiting = list(points)
    running: list[subprocess.Popen[str]] = []

    def watch(count: int) -> None:
        left = len(points) - len(running)  # kills that later processes are for: a request still in flight takes none
        if len(waiting) > left and count >= waiting[0]:
            waiting.pop(0)
            os.kill(running[-1].pid, signal.SIGKILL)

    world.judge.on_request = watch
    for _ in points:
        running.append(world.start(*more))
        running[-1].communicate(timeout=180)
        assert running[-1].returncode == -signal.SIGKILL
        shutil.rmtree(world.folder / "results")  # the cache alone remembers
    last = world.run(*more)
    assert last.code == 0, last.err
    assert world.sound()
    return world.asked - calls


@pytest.mark.slow
def test_after_kill_9_each_request_is_seen_once_but_for_those_in_flight(world: World) -> None:
    world.judge.latency = 0.005

    extra = killed_at(world, [50], CALLS, *LIMIT)

    assert 0 <= extra <= IN_FLIGHT


@pytest.mark.slow
def test_ten_kills_of_a_thousand_calls(world: World) -> None:
    world.judge.latency = 0.005
    repeats = ("--repeats", "4")
    assert world.run("--no-cache", *repeats).code == 0
    calls = len({json.dumps(request.body) for request in world.judge.requests}) * 4  # a few prompts get equal answers
    world.judge.requests.clear()
    shutil.rmtree(world.folder / "results")
    points = sorted(random.Random(9).sample(range(1, calls), 10))

    extra = killed_at(world, points, calls, *repeats)

    print(f"10 kills of a run of {calls} judge calls: {extra} requests seen twice, {IN_FLIGHT} in flight at most")
    assert 0 <= extra <= 10 * IN_FLIGHT


# ------------------------------------------------------------------------------------------------------------ the disk


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(world: World) -> None:
    with small_disk(world.folder / "disk", 256) as remount:
        world.replies = world.folder / "disk" / "replies.sqlite"

        full = world.run(*LIMIT)

        assert full.code == 4
        assert "cannot use the reply cache" in full.err.splitlines()[-1]
        assert "full" in full.err.splitlines()[-1]
        assert "Traceback" not in full.err
        assert 0 < world.asked < CALLS
        remount("size=64m")
        done = world.run(*LIMIT)
        assert done.code == 0, done.err
        assert world.asked <= CALLS + IN_FLIGHT
        assert world.sound()


@pytest.mark.slow
def test_results_on_a_full_disk_end_the_run_as_cleanly(world: World) -> None:
    with small_disk(world.folder / "disk", 96) as remount:
        place = ("--results", str(world.folder / "disk"))

        full = world.run(*LIMIT, *place)

        assert full.code == 4
        assert "No space left" in full.err.splitlines()[-1]
        assert "Traceback" not in full.err
        remount("size=64m")
        done = world.run(*LIMIT, *place)
        assert done.code == 0, done.err
        assert world.asked == CALLS  # what could not be written is in the cache


@pytest.mark.slow
def test_a_run_continues_without_a_read_only_cache(world: World) -> None:
    with small_disk(world.folder / "disk", 4096) as remount:
        world.replies = world.folder / "disk" / "replies.sqlite"
        assert world.run(*LIMIT).code == 0
        remount("ro")
        shutil.rmtree(world.folder / "results")

        done = world.run(*LIMIT)

        assert done.code == 0, done.err
        assert "cannot use the reply cache" in done.err
        assert "--no-cache; this run continues without it" in done.err
        assert world.asked == 2 * CALLS


@pytest.mark.slow
def test_a_file_size_limit_ends_the_run_and_without_it_the_command_goes_on(world: World) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    full = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", *world.words()],
        cwd=world.folder,
        env={**os.environ, "HARNESS_REPLY_CACHE": str(world.replies)},
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )

    assert full.returncode == 4, full.stderr
    assert "Traceback" not in full.stderr
    assert 0 < world.asked < 280
    done = world.run()
    assert done.code == 0, done.err
    assert world.asked <= 280 + IN_FLIGHT
    assert world.sound()
