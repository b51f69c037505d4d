"""Steps of a recipe that sleep on pretend GPUs and write when they ran, for tests of the scheduler."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recipes.estimate import Gpus
from recipes.layout import Counts
from recipes.steps import Step

NAP = 0.3
"""Seconds per step: long enough for two steps that may run together to do so."""


@dataclass(frozen=True)
class Ran:
    """One line of a step's log: when it ran, on which GPUs."""

    name: str
    start: float
    end: float
    devices: frozenset[str]

    def overlaps(self, other: Ran) -> bool:
        return self.start < other.end and other.start < self.end


def work(name: str, logs: Path, folder: Path) -> Counts:
    start = time.time()
    time.sleep(NAP)
    if (logs / f"{name}.die").exists():
        os._exit(9)
    devices = [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device]
    (folder / "out.json").write_text("{}")
    facts = {"name": name, "start": start, "end": time.time(), "devices": devices}
    (logs / f"{name}.json").write_text(json.dumps(facts))
    return {"devices": len(devices)}


def step(out: Path, name: str, gpus: Gpus, *inputs: Step, alone: bool = False) -> Step:
    run = partial(work, name, out / "logs")
    return Step("sources", name, out / name, {"name": name}, run, inputs, gpus=gpus, alone=alone)


def diamond(out: Path) -> Sequence[Step]:
    """Return a wide step, four narrow ones, what follows each, and an `alone` step after one of them, for four GPUs."""
    first = step(out, "first", Gpus())
    wide = step(out, "wide", Gpus(4), first)
    narrow = [step(out, f"narrow-{letter}", Gpus(1), first) for letter in "abcd"]
    pair = step(out, "pair", Gpus(2, replicas=1), narrow[0])
    after = [step(out, f"after-{letter}", Gpus(1), each) for letter, each in zip("bc", narrow[1:3], strict=True)]
    alone = step(out, "alone", Gpus(1), narrow[3], alone=True)
    return [first, wide, *narrow, pair, *after, alone]


def ran(out: Path) -> dict[str, Ran]:
    rows = [json.loads(file.read_text()) for file in (out / "logs").glob("*.json")]
    return {row["name"]: Ran(row["name"], row["start"], row["end"], frozenset(row["devices"])) for row in rows}
