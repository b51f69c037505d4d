"""Scoring in real processes: killed with kill -9 in the middle, and on a full disk."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.store import JsonlRows
from recipes.layout import RewardRow
from tests import ROOT
from tests.fakes.disks import small_disk
from tests.fakes.rewards_worker import TEXTS

BATCH = 2
ANSWERS = sum(map(len, TEXTS.values()))
FUNCTION = """
import time

def slow(prompts, completions):
    time.sleep(0.02)
    with open({log!r}, "a") as file:
        file.writelines(f"{{text}}\\n" for text in completions)
    return [float(text.split()[1]) + float(text.split()[2]) / 10 for text in completions]
"""


class World:
    """A slow reward that writes down what it scored, and the process that asks it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "scored.txt"
        self.log.touch()
        self.function = folder / "mine.py"
        self.function.write_text(FUNCTION.format(log=str(self.log)))
        self.out = folder / "out"

    def start(self) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "tests.fakes.rewards_worker", str(self.out), f"{self.function}:slow"]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    @property
    def scored(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())

    def check(self) -> None:
        """Every answer has its own reward, once."""
        path = self.out / "rewards" / "a" / "rewards.jsonl"
        rows = list(JsonlRows(path, RewardRow).every())
        assert len({row.key for row in rows}) == len(rows) == ANSWERS
        assert all(row.value == float(row.prompt_id[1:]) + row.index / 10 for row in rows)


def killed_when(process: subprocess.Popen[str], world: World, count: int) -> None:
    limit = time.monotonic() + 60
    while world.scored.total() < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_in_mid_scoring_it_goes_on_and_scores_nothing_that_it_had_written_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    kills = (6, 20, 41)
    for count in kills:
        killed_when(world.start(), world, count)

    last = world.start()
    _, err = last.communicate(timeout=60)

    assert last.returncode == 0, err
    world.check()
    assert len(world.scored) == ANSWERS
    again = sum(times - 1 for times in world.scored.values())
    assert again <= len(kills) * BATCH  # what was in flight when it was killed: scored, not yet written


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.out.mkdir()
    with small_disk(world.out / "rewards", 16) as remount:
        full = world.start()
        _, err = full.communicate(timeout=60)

        assert full.returncode == 4, err
        assert "No space left on device; free space, then run the same command" in err.splitlines()[-1]
        assert "Traceback" not in err
        before = world.scored.total()
        assert 0 < before < ANSWERS
        remount("size=8m")
        done = world.start()
        _, err = done.communicate(timeout=60)
        assert done.returncode == 0, err
        world.check()
        assert world.scored.total() <= ANSWERS + BATCH
