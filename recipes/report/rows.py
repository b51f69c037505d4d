"""Answers to held-out prompts and their rewards -> one mean reward a prompt, by model, seed and temperature.

A draw without an answer or without a reward is unscored: it is counted, and is no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.records import Answer, Score
from harness.store import JsonlRows

from ..records import Part, PromptRow, Reward
from ..spec import EvaluateSpec

ANSWERS, REWARDS = "answers.jsonl", "rewards.jsonl"


def draws(evaluate: EvaluateSpec) -> dict[int, float]:
    """`Answer.index` -> temperature: one greedy answer, `samples` at every other temperature, numbered on."""
    found: dict[int, float] = {}
    for temperature in evaluate.temperatures:
        for _ in range(1 if temperature == 0 else evaluate.samples):
            found[len(found)] = temperature
    return found


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
    asked: int = 0
    truncated: int = 0
    tokens: list[int] = field(default_factory=list)


def measured(
    model: str,
    seed: int,
    prompts: Iterable[PromptRow],
    answers: Iterable[Answer],
    rewards: Iterable[Reward],
    temperatures: Mapping[int, float],
) -> list[Measured]:
    """The held-out prompts' rewards. `temperatures`: those of `draws`."""
    parts = {row.prompt.id: row.part for row in prompts if row.part in ("validation", "test")}
    given = {row.key: row for row in rewards}
    sums: dict[tuple[Part, float], _Sums] = {}
    for prompt_id, part in parts.items():
        for temperature in temperatures.values():
            at = sums.setdefault((part, temperature), _Sums())
            at.asked += 1
            at.rewards.setdefault(prompt_id, [])
    for answer in answers:
        if answer.prompt_id not in parts or answer.index not in temperatures or answer.error is not None:
            continue
        at = sums[parts[answer.prompt_id], temperatures[answer.index]]
        at.truncated += answer.truncated
        at.tokens.append(sum(answer.completion_tokens))
        reward = given.get(f"{answer.prompt_id}#{answer.index}|{answer.sha}")
        if reward is not None and reward.value is not None:
            at.rewards[answer.prompt_id].append(reward.value)
    return [_measured(model, seed, part, temperature, found) for (part, temperature), found in sums.items()]


def _measured(model: str, seed: int, part: Part, temperature: float, sums: _Sums) -> Measured:
    scored = sum(len(values) for values in sums.rewards.values())
    return Measured(
        model=model,
        seed=seed,
        part=part,
        temperature=temperature,
        rewards={name: sum(values) / len(values) for name, values in sums.rewards.items() if values},
        scored=scored,
        unscored=sums.asked - scored,
        truncated=sums.truncated,
        tokens=sum(sums.tokens) / len(sums.tokens) if any(sums.tokens) else None,
    )


def read_measured(
    folder: Path, model: str, seed: int, prompts: Sequence[PromptRow], evaluate: EvaluateSpec
) -> list[Measured]:
    """Of a finished held-out folder."""
    answers = JsonlRows(folder / ANSWERS, Answer).read()
    rewards = JsonlRows(folder / REWARDS, Reward).read()
    return measured(model, seed, prompts, answers, rewards, draws(evaluate))


def score_of(
    value: float | None, interval: tuple[float, float] | None, se: float | None, *, n: int, lost: int
) -> Score:
    """A mean with its interval, as score cards say it."""
    low, high = interval if interval is not None else (None, None)
    return Score(value=value, ci_low=low, ci_high=high, se=se, n=n, unscored=lost)
