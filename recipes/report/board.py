"""Compute the leaderboard of variants: mean reward on held-out prompts, and every model against the baselines.

>>> def rewards(model: str, *means: float) -> Measured:
...     by_prompt = {f"p{number}": mean for number, mean in enumerate(means)}
...     return Measured(model, 1, "test", 0.0, by_prompt, scored=3, unscored=0, truncated=0, tokens=None)
>>> models = [rewards("wrpo", 0.6, 0.7, 0.9), rewards("dpo", 0.5, 0.6, 0.7)]
>>> (difference,) = variant_board("demo", models, baselines=["dpo"], preference=[]).differences
>>> round(difference.value, 3), round(difference.p, 3), difference.verdict
(0.133, 0.057, 'not shown')

Answers are reduced to one mean reward per prompt, by model, seed and temperature. A draw without an answer or without a
reward is counted as unscored and never enters a mean. Differences are paired by prompt and seed. Their interval is over
prompts and seeds at once (`harness.stats.variance`), so it predicts what another seed and other prompts would show; the
interval over prompts alone and the difference of each seed are listed beside it. p-values are adjusted (Holm) over the
models compared with one baseline at one temperature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.records import Answer, Score
from harness.stats.paired import holm
from harness.stats.variance import CrossedMean, crossed_mean
from harness.store import JsonlRows
from harness.suites.scoring import is_complete

from ..layout import ANSWERS, REWARDS, Part, PromptRow, RewardRow
from ..spec import EvaluateSpec
from .tables import ModelRow, VariantBoard, Verdict, Versus, at, sentence

ALPHA = 0.05
"""Differences with a smaller adjusted p-value are called better or worse."""
Key = tuple[str, float]
"""Model and temperature."""
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
    is_fixed: bool = False
    """Whether the model is the same for all seeds, so that it is compared with each of them."""

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
        totals.tokens.append(answer.visible_tokens or 0)
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
    if interval is None or not se:  # equal rewards do not show how much the mean varies
        return Score(value=value, n=n, unscored=lost)
    return Score(value=value, ci_low=interval[0], ci_high=interval[1], se=se, n=n, unscored=lost)


def variant_board(
    recipe: str, measured: Iterable[Measured], *, baselines: Sequence[str], preference: Sequence[str]
) -> VariantBoard:
    """Return the leaderboard of all measured models.

    `baselines` are the models that all others are compared with; a note names those that were not measured.
    `preference` are the variants that get a sentence.
    """
    groups = _grouped(measured)
    models = [_row(name, temperature, parts) for (name, temperature), parts in groups.items()]
    order = {temperature: rank for rank, temperature in enumerate(dict.fromkeys(row.temperature for row in models))}
    models.sort(key=lambda row: (order[row.temperature], not row.complete, -(row.reward.value or 0.0), row.model))
    measured_models = {row.model for row in models}
    present = [name for name in baselines if name in measured_models]
    differences = [
        difference
        for base in present
        for temperature in order
        for difference in _against(groups, models, base, temperature)
    ]
    test = {name for parts in groups.values() for result in parts.get("test", ()) for name in result.rewards}
    return VariantBoard(
        recipe=recipe,
        baselines=tuple(present),
        seeds=tuple(sorted({result.seed for parts in groups.values() for result in parts.get("test", ())})),
        prompts=len(test),
        models=tuple(models),
        differences=tuple(differences),
        sentences=tuple(sentence(name, present, differences) for name in preference if name in measured_models),
        notes=_notes(models, baselines, present),
    )


def best_by_validation(measured: Iterable[Measured]) -> list[str]:
    """Return the models, best first, by mean validation reward over seeds at the first temperature."""
    first: float | None = None
    means: dict[str, list[float]] = {}
    for result in measured:
        first = result.temperature if first is None else first
        if result.part == "validation" and result.temperature == first and result.mean is not None:
            means.setdefault(result.model, []).append(result.mean)
    return sorted(means, key=lambda name: (-sum(means[name]) / len(means[name]), name))


def _grouped(measured: Iterable[Measured]) -> dict[Key, dict[str, list[Measured]]]:
    groups: dict[Key, dict[str, list[Measured]]] = {}
    for result in measured:
        groups.setdefault((result.model, result.temperature), {}).setdefault(result.part, []).append(result)
    return groups


def _row(model: str, temperature: float, parts: Mapping[str, list[Measured]]) -> ModelRow:
    test, validation = parts.get("test", []), parts.get("validation", [])
    mean = _crossed([result.rewards for result in test])
    by_seed = {result.seed: result.mean for result in test if result.mean is not None}
    value = sum(by_seed.values()) / len(by_seed) if by_seed else None
    interval = None if mean is None or value is None else around(mean, value)
    reward = score_of(
        value,
        interval,
        None if mean is None or not mean.varies else mean.se,
        n=sum(result.scored for result in test),
        lost=sum(result.unscored for result in test),
    )
    held = [result.mean for result in validation if result.mean is not None]
    tokens = [result.tokens for result in test if result.tokens is not None]
    return ModelRow(
        model=model,
        temperature=temperature,
        reward=reward,
        by_seed=by_seed,
        seed_scores={result.seed: _seed_score(result) for result in test},
        validation=sum(held) / len(held) if held else None,
        tokens=sum(tokens) / len(tokens) if tokens else None,
        truncated=sum(result.truncated for result in test),
        complete=is_complete(reward),
    )


def _seed_score(result: Measured) -> Score:
    mean = _crossed([result.rewards])
    interval, se = (None, None) if mean is None or not mean.varies else (mean.interval(), mean.se)
    return score_of(result.mean, interval, se, n=result.scored, lost=result.unscored)


def around(mean: CrossedMean, value: float) -> tuple[float, float]:
    """Return the interval of a mean, moved to a value that was taken over more answers."""
    low, high = mean.interval()
    return low - mean.value + value, high - mean.value + value


def _crossed(by_seed: Sequence[Mapping[str, float]]) -> CrossedMean | None:
    if not by_seed:
        return None
    shared = [name for name in by_seed[0] if all(name in rewards for rewards in by_seed)]
    table = np.array([[rewards[name] for rewards in by_seed] for name in shared], dtype=np.float64)
    return crossed_mean(table.reshape(len(shared), len(by_seed)))


@dataclass(frozen=True)
class _Difference:
    """A model's mean reward minus a baseline's at one temperature."""

    model: str
    baseline: str
    temperature: float
    mean: CrossedMean
    by_seed: dict[int, float]

    def versus(self, p_adjusted: float, *, is_complete: bool) -> Versus:
        """Return the comparison. Without `is_complete`, unscored answers make it undecided."""
        mean = self.mean
        low, high = mean.interval()
        prompts_low, prompts_high = mean.interval_questions()
        verdict: Verdict = "not shown"
        if not is_complete:
            verdict = "incomplete"
        elif p_adjusted < ALPHA:
            verdict = "better" if mean.value > 0 else "worse"
        return Versus(
            model=self.model,
            baseline=self.baseline,
            temperature=self.temperature,
            value=mean.value,
            ci_low=low,
            ci_high=high,
            prompts_low=prompts_low,
            prompts_high=prompts_high,
            se=mean.se if mean.varies else 0.0,
            df=mean.df,
            by_seed=self.by_seed,
            prompts=mean.n,
            p=mean.p_two_sided(),
            p_adjusted=p_adjusted,
            detectable=mean.detectable(),
            verdict=verdict,
        )


def _against(
    groups: Mapping[Key, Mapping[str, list[Measured]]], models: Sequence[ModelRow], baseline: str, temperature: float
) -> list[Versus]:
    complete = {row.model: row.complete for row in models if row.temperature == temperature}
    base = groups[baseline, temperature].get("test", [])
    differences: list[_Difference] = []
    for name in complete:
        crossed = _paired(groups[name, temperature].get("test", []), base)
        if name != baseline and crossed is not None:
            differences.append(_Difference(name, baseline, temperature, *crossed))
    # One family per baseline and temperature: the question is which of these models beats this baseline.
    adjusted = holm([difference.mean.p_two_sided() for difference in differences])
    return [
        difference.versus(p, is_complete=complete[difference.model] and complete[baseline])
        for difference, p in zip(differences, adjusted, strict=True)
    ]


def _paired(first: list[Measured], base: list[Measured]) -> tuple[CrossedMean, dict[int, float]] | None:
    """Return the difference paired by seed and prompt and that of each seed, or None if they share no seed or prompt.

    The target has one seed, which is paired with every seed of the other model.
    """
    pairs = _seed_pairs(first, base)
    by_seed = [
        {name: result.rewards[name] - baseline.rewards[name] for name in result.rewards if name in baseline.rewards}
        for _, result, baseline in pairs
    ]
    mean = _crossed(by_seed)
    if mean is None:
        return None
    shared = set.intersection(*map(set, by_seed))
    return mean, {
        seed: sum(gaps[name] for name in shared) / len(shared)
        for (seed, _, _), gaps in zip(pairs, by_seed, strict=True)
    }


def _seed_pairs(first: list[Measured], base: list[Measured]) -> list[tuple[int, Measured, Measured]]:
    first_by_seed, base_by_seed = {result.seed: result for result in first}, {result.seed: result for result in base}
    if len(base_by_seed) == 1 and _is_fixed(base[0]):
        return [(seed, result, base[0]) for seed, result in sorted(first_by_seed.items())]
    if len(first_by_seed) == 1 and _is_fixed(first[0]):
        return [(seed, first[0], result) for seed, result in sorted(base_by_seed.items())]
    return [(seed, first_by_seed[seed], base_by_seed[seed]) for seed in sorted(first_by_seed) if seed in base_by_seed]


def _is_fixed(measured: Measured) -> bool:
    return measured.is_fixed or measured.model == "target"


def _notes(models: Sequence[ModelRow], baselines: Sequence[str], present: Sequence[str]) -> tuple[str, ...]:
    notes = [f"{name} was not measured, so nothing is compared with it" for name in baselines if name not in present]
    seeds = {seed for row in models for seed in row.by_seed if row.model != "target"}
    if len(seeds) == 1:
        notes.append("only one seed, so the intervals do not cover what another seed would give")
    for row in models:
        if not row.complete:
            lost, total = row.reward.unscored, row.reward.n + row.reward.unscored
            notes.append(
                f"{row.model} at {at(row.temperature)}: {lost} of {total} answers are unscored, so it is not compared"
            )
    return tuple(notes)
