"""Reduce answers to held-out prompts to one mean reward per prompt, by model, seed and temperature.

A draw without an answer or without a reward is counted as unscored and never enters a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.records import Answer, Score
from harness.store import JsonlRows

from ..pairs.best import ANSWERS, REWARDS
from ..records import Part, PromptRow, RewardRow
from ..spec import EvaluateSpec

HELD_OUT: tuple[Part, ...] = ("validation", "test")


def draws(evaluate: EvaluateSpec) -> dict[float, int]:
    """Return the number of answers per prompt at each temperature: 1 at temperature 0, else `samples`."""
    return {temperature: 1 if temperature == 0 else evaluate.samples for temperature in evaluate.temperatures}


def temperature_folder(folder: Path, temperature: float) -> Path:
    """Return the subfolder of a held-out folder with the answers and rewards of one temperature."""
    return folder / f"t{temperature:g}"


@dataclass(frozen=True)
class Measured:
    """Rewards of one model and seed on one part of the prompts at one temperature."""

    model: str
    seed: int
    part: Part
    temperature: float
    rewards: dict[str, float]
    """Mean reward over the scored draws of each prompt id; prompts without one are left out."""
    scored: int
    """Number of draws with a reward."""
    unscored: int
    truncated: int
    tokens: float | None
    """Mean length of the answers in tokens, as counted by the backend."""

    @property
    def mean(self) -> float | None:
        return sum(self.rewards.values()) / len(self.rewards) if self.rewards else None


@dataclass
class _Sums:
    rewards: dict[str, list[float]] = field(default_factory=dict)
    truncated: int = 0
    tokens: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class HeldOut:
    """Which model answered the held-out prompts, and how."""

    model: str
    seed: int
    temperature: float
    samples: int
    """Number of answers requested per prompt."""


def measured(
    run: HeldOut, prompts: Iterable[PromptRow], answers: Iterable[Answer], rewards: Iterable[RewardRow]
) -> list[Measured]:
    """Return the rewards of the held-out prompts, one record per part."""
    parts = {row.prompt.id: row.part for row in prompts if row.part in HELD_OUT}
    reward_by_key = {row.key: row.value for row in rewards}
    sums: dict[Part, _Sums] = {}
    for prompt_id, part in parts.items():
        sums.setdefault(part, _Sums()).rewards[prompt_id] = []
    for answer in answers:
        if answer.prompt_id not in parts or answer.index >= run.samples or answer.error is not None:
            continue
        totals = sums[parts[answer.prompt_id]]
        totals.truncated += answer.truncated
        totals.tokens.append(sum(answer.completion_tokens))
        reward = reward_by_key.get(f"{answer.key}|{answer.sha}")
        if reward is not None:
            totals.rewards[answer.prompt_id].append(reward)
    return [_measured(run, part, part_sums) for part, part_sums in sums.items()]


def _measured(run: HeldOut, part: Part, sums: _Sums) -> Measured:
    scored = sum(len(values) for values in sums.rewards.values())
    return Measured(
        model=run.model,
        seed=run.seed,
        part=part,
        temperature=run.temperature,
        rewards={name: sum(values) / len(values) for name, values in sums.rewards.items() if values},
        scored=scored,
        unscored=len(sums.rewards) * run.samples - scored,
        truncated=sums.truncated,
        tokens=sum(sums.tokens) / len(sums.tokens) if any(sums.tokens) else None,
    )


def read_measured(
    folder: Path, model: str, seed: int, prompts: Sequence[PromptRow], evaluate: EvaluateSpec
) -> list[Measured]:
    """Return the rewards in a finished held-out folder, at every temperature."""
    results: list[Measured] = []
    for temperature, samples in draws(evaluate).items():
        source = temperature_folder(folder, temperature)
        answers = JsonlRows(source / ANSWERS, Answer).read()
        rewards = JsonlRows(source / REWARDS, RewardRow).read()
        results += measured(HeldOut(model, seed, temperature, samples), prompts, answers, rewards)
    return results


def score_of(
    value: float | None, interval: tuple[float, float] | None, se: float | None, *, n: int, lost: int
) -> Score:
    """Return a mean and its interval as a score card's `Score`."""
    low, high = interval if interval is not None else (None, None)
    return Score(value=value, ci_low=low, ci_high=high, se=se, n=n, unscored=lost)
