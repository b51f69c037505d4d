"""A step as far as it is still to do, what it costs, and the sum of several. Reckoned per device:

GPU-hours = tokens / (tokens a second and device) / 3600; hours on the clock = GPU-hours / devices of the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from harness.records import Record

from ..recipe import STAGES, Recipe
from .measured import Mean, Measurements, lines_of, record_of


class PlanItem(Record):
    """One step, as far as it is still to do."""

    stage: str
    name: str
    seed: int | None = None
    model: str | None = None
    """The source, the variant, `sft` or `target`."""
    done: bool = False
    calls: int = 0
    """Answers to draw or to reward, questions of suites."""
    calls_done: int = 0
    prompt_tokens: float = 0.0
    """Read by who answers, or with the answer by the reward model."""
    answer_tokens: float = 0.0
    """Written."""
    trained_tokens: float = 0.0
    """Of prompts and answers, times epochs."""
    gpu_hours: float | None = 0.0
    """None: no rate is known."""
    hours: float | None = 0.0
    """On the clock, were it run alone."""
    dollars: float | None = 0.0
    """Of endpoints by their prices, of devices by `rates.gpu_hour_price` where there is one; None: not known."""
    rates: tuple[str, ...] = ()
    """What the time was reckoned from."""


@dataclass(frozen=True)
class DeviceTime:
    """Device time of some tokens."""

    tokens: float
    rate: Mean | None
    devices: int
    work: str
    """For the reader: generation, reward, training."""

    @property
    def gpu_hours(self) -> float | None:
        if not self.tokens:
            return 0.0
        return None if self.rate is None else self.tokens / self.rate.value / 3600


@dataclass(frozen=True)
class PlanContext:
    """What every estimate looks at."""

    recipe: Recipe
    known: Measurements
    first: int
    """Index of the stage from which on everything is made anew."""

    def done(self, stage: str, folder: Path) -> bool:
        return STAGES.index(stage) < self.first and record_of(folder) is not None

    def left(self, stage: str, rows: Path, wanted: int) -> int:
        """Of `wanted` rows those that are not in the file yet."""
        if STAGES.index(stage) >= self.first:
            return wanted
        return 0 if self.done(stage, rows.parent) else max(0, wanted - lines_of(rows))

    def timed(self, item: PlanItem, *times: DeviceTime) -> PlanItem:
        """The item with its device time, and the dollars of that where an hour has a price."""
        hours = [(time.gpu_hours, time) for time in times]
        known = all(value is not None for value, _ in hours)
        gpu_hours = sum(value or 0.0 for value, _ in hours)
        price = self.recipe.spec.rates.gpu_hour_price or 0.0
        return item.model_copy(
            update={
                "gpu_hours": gpu_hours if known else None,
                "hours": sum((value or 0.0) / time.devices for value, time in hours) if known else None,
                "dollars": gpu_hours * price if known or not price else None,
                "rates": tuple(f"{time.work}: {time.rate.by}" for time in times if time.tokens and time.rate),
            }
        )


SUMS = ("calls", "calls_done", "prompt_tokens", "answer_tokens", "trained_tokens")
KNOWN = ("gpu_hours", "hours", "dollars")


def total(items: Iterable[PlanItem]) -> dict[str, JsonValue]:
    """Sums over steps. What is not known of some is summed over the others; `…_unknown` says of how many it is not."""
    listed = list(items)
    out: dict[str, JsonValue] = {"steps": len(listed), "done": sum(item.done for item in listed)}
    for name in SUMS:
        out[name] = sum(getattr(item, name) for item in listed)
    for name in KNOWN:
        values = [getattr(item, name) for item in listed]
        out[name] = sum(value for value in values if value is not None)
        out[f"{name}_unknown"] = sum(value is None for value in values)
    return out
