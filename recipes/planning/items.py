"""The remaining work of one step, what it costs, and totals over several steps.

GPU-hours = tokens / (tokens per second and device) / 3600; wall-clock hours = GPU-hours / devices of the step.
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
    """The remaining work of one step. It is 0 if the step is done."""

    stage: str
    name: str
    seed: int | None = None
    model: str | None = None
    """The source, the variant, `sft` or `target`."""
    done: bool = False
    calls: int = 0
    """Answers to sample or to reward, or questions of suites to ask."""
    calls_done: int = 0
    prompt_tokens: float = 0.0
    """Tokens that the answering model reads, or prompt and answer tokens that the reward model reads."""
    answer_tokens: float = 0.0
    """Tokens that the answering model generates."""
    trained_tokens: float = 0.0
    """Tokens of prompts and answers, times epochs."""
    gpu_hours: float | None = 0.0
    """None: the rate is unknown."""
    hours: float | None = 0.0
    """Wall-clock hours if the step runs alone."""
    dollars: float | None = 0.0
    """Endpoints by their prices, devices by `rates.gpu_hour_price` if it is set. None: unknown."""
    rates: tuple[str, ...] = ()
    """Rates that the time was estimated from, with their origin."""


@dataclass(frozen=True)
class DeviceTime:
    """The time that devices need for a number of tokens."""

    tokens: float
    rate: Mean | None
    devices: int
    work: str
    """Shown in the plan: generation, reward or training."""

    @property
    def gpu_hours(self) -> float | None:
        if not self.tokens:
            return 0.0
        return None if self.rate is None else self.tokens / self.rate.value / 3600


@dataclass(frozen=True)
class PlanContext:
    """What every estimate is computed from."""

    recipe: Recipe
    known: Measurements
    first: int
    """Index of the first stage that is rerun even if it is done (`--from`)."""

    def done(self, stage: str, folder: Path) -> bool:
        """Return whether a step is done and will not be rerun."""
        return STAGES.index(stage) < self.first and record_of(folder) is not None

    def left(self, stage: str, rows: Path, wanted: int) -> int:
        """Return how many of `wanted` rows are still missing from the file."""
        if STAGES.index(stage) >= self.first:
            return wanted
        return 0 if self.done(stage, rows.parent) else max(0, wanted - lines_of(rows))

    def timed(self, item: PlanItem, *times: DeviceTime) -> PlanItem:
        """Return the item with its device time, and with its cost in dollars if GPU-hours have a price."""
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
    """Return sums over steps, as JSON. Unknown values are left out of a sum, and `…_unknown` counts them."""
    listed = list(items)
    out: dict[str, JsonValue] = {"steps": len(listed), "done": sum(item.done for item in listed)}
    for name in SUMS:
        out[name] = sum(getattr(item, name) for item in listed)
    for name in KNOWN:
        values = [getattr(item, name) for item in listed]
        out[name] = sum(value for value in values if value is not None)
        out[f"{name}_unknown"] = sum(value is None for value in values)
    return out
