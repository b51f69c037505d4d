"""Steps side by side: nothing before what it builds on, at most so many, an alone step by itself."""

from __future__ import annotations

from pathlib import Path

from recipes.layout import Counts
from recipes.schedule import _ready
from recipes.steps import Step


def step(name: str, *inputs: Step) -> Step:
    def work(_: Path) -> Counts:
        return {}

    return Step("sources", name, Path(name), {}, work, inputs)


def test_a_step_is_ready_when_what_it_builds_on_is_finished() -> None:
    first = step("first")
    left, right = step("left", first), step("right", first)
    last = step("last", left, right)

    assert _ready([first, left, right, last], {"first", "left", "right", "last"}) == [first]
    assert _ready([left, right, last], {"left", "right", "last"}) == [left, right]
    assert _ready([last], {"right", "last"}) == []  # right runs
    assert _ready([last], {"last"}) == [last]


def test_a_step_that_builds_on_steps_of_another_run_is_ready() -> None:
    assert _ready([left := step("left", step("elsewhere"))], {"left"}) == [left]
