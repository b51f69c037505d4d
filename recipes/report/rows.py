"""Answers to held-out prompts and their rewards -> one mean reward a prompt, by model, seed and temperature.

A draw without an answer or without a reward is unscored: it is counted, and is no number.
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
    """Temperature -> answers a prompt: one greedy one, `samples` at every other."""
    return {temperature: 1 if temperature == 0 else evaluate.samples for temperature in evaluate.temperatures}


def place(folder: Path, temperature: float) -> Path:
    """Where a temperature's answers and rewards lie in a held-out folder."""
    return folder / f"t{temperature:g}"


@dataclass(frozen=True)
class Measured:
    """One model of one seed on one part of the prompts at one temperature."""

    model: str
    seed: int
    part: Part
    temperature: float
    rewards: dict[str, float]
    """Prompt id -> mean over its scored draws; prompts without one are left out."""
    scored: int
    """Draws with a reward."""
    unscored: int
    truncated: int
    tokens: float | None
    """Mean length of the answers, by the backend's count."""

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
    """Whose answers they are."""

    model: str
    seed: int
    temperature: float
    samples: int
    """Answers asked for a prompt."""


def measured(
    run: HeldOut, prompts: Iterable[PromptRow], answers: Iterable[Answer], rewards: Iterable[RewardRow]
) -> list[Measured]:
    """The held-out prompts' rewards, a part at a time."""
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
    """Of a finished held-out folder, at every temperature."""
    results: list[Measured] = []
    for temperature, samples in draws(evaluate).items():
        source = place(folder, temperature)
        answers = JsonlRows(source / ANSWERS, Answer).read()
        rewards = JsonlRows(source / REWARDS, RewardRow).read()
        results += measured(HeldOut(model, seed, temperature, samples), prompts, answers, rewards)
    return results


def score_of(
    value: float | None, interval: tuple[float, float] | None, se: float | None, *, n: int, lost: int
) -> Score:
    """A mean with its interval, as score cards say it."""
    low, high = interval if interval is not None else (None, None)
    return Score(value=value, ci_low=low, ci_high=high, se=se, n=n, unscored=lost)
