"""The leaderboard of variants: mean reward on test prompts, and every model against the baselines. Pure.

Differences are paired by prompt and seed. Their interval is over prompts and seeds at once (`harness.stats.crossed`),
so that it says what another seed and other prompts would show; the interval over prompts alone and the seeds' own
differences stand beside it. p-values are adjusted (Holm) over the models compared with one baseline at one temperature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from harness.records import Score
from harness.scoring import is_complete
from harness.stats.crossed import CrossedMean, crossed_mean
from harness.stats.significance import holm

from .records import ModelRow, VariantBoard, Verdict, Versus
from .rows import Measured, score_of
from .sentences import at, sentence

ALPHA = 0.05
Key = tuple[str, float]


def variant_board(
    recipe: str, measured: Iterable[Measured], *, baselines: Sequence[str], preference: Sequence[str]
) -> VariantBoard:
    """`baselines`: models that all others are compared with; those not measured are named in a note. `preference`:
    variants that get a sentence."""
    found = _grouped(measured)
    models = [_row(name, temperature, parts) for (name, temperature), parts in found.items()]
    order = {temperature: place for place, temperature in enumerate(dict.fromkeys(row.temperature for row in models))}
    models.sort(key=lambda row: (order[row.temperature], not row.complete, -(row.reward.value or 0.0), row.model))
    known = [name for name in baselines if any(row.model == name for row in models)]
    differences = [one for base in known for temperature in order for one in _against(found, models, base, temperature)]
    test = {name for parts in found.values() for one in parts.get("test", ()) for name in one.rewards}
    return VariantBoard(
        recipe=recipe,
        baselines=tuple(known),
        seeds=tuple(sorted({one.seed for parts in found.values() for one in parts.get("test", ())})),
        prompts=len(test),
        models=tuple(models),
        differences=tuple(differences),
        sentences=tuple(sentence(name, known, differences) for name in preference if (name in _names(models))),
        notes=_notes(models, baselines, known),
    )


def best_by_validation(measured: Iterable[Measured]) -> list[str]:
    """Models by mean validation reward over seeds, at the first temperature, best first."""
    first: float | None = None
    means: dict[str, list[float]] = {}
    for one in measured:
        first = one.temperature if first is None else first
        if one.part == "validation" and one.temperature == first and one.mean is not None:
            means.setdefault(one.model, []).append(one.mean)
    return sorted(means, key=lambda name: (-sum(means[name]) / len(means[name]), name))


# ------------------------------------------------------------------------------------------------------ the models


def _grouped(measured: Iterable[Measured]) -> dict[Key, dict[str, list[Measured]]]:
    found: dict[Key, dict[str, list[Measured]]] = {}
    for one in measured:
        found.setdefault((one.model, one.temperature), {}).setdefault(one.part, []).append(one)
    return found


def _row(model: str, temperature: float, parts: Mapping[str, list[Measured]]) -> ModelRow:
    test, validation = parts.get("test", []), parts.get("validation", [])
    mean = _crossed([one.rewards for one in test])
    by_seed = {one.seed: one.mean for one in test if one.mean is not None}
    value = sum(by_seed.values()) / len(by_seed) if by_seed else None
    interval = None if mean is None or value is None else _around(mean, value)
    reward = score_of(
        value,
        interval,
        None if mean is None else mean.se,
        n=sum(one.scored for one in test),
        lost=sum(one.unscored for one in test),
    )
    held = [one.mean for one in validation if one.mean is not None]
    tokens = [one.tokens for one in test if one.tokens is not None]
    return ModelRow(
        model=model,
        temperature=temperature,
        reward=reward,
        by_seed=by_seed,
        seed_scores={one.seed: _seed_score(one) for one in test},
        validation=sum(held) / len(held) if held else None,
        tokens=sum(tokens) / len(tokens) if tokens else None,
        truncated=sum(one.truncated for one in test),
        complete=is_complete(reward),
    )


def _seed_score(one: Measured) -> Score:
    mean = _crossed([one.rewards])
    interval, se = (None, None) if mean is None else (mean.interval(), mean.se)
    return score_of(one.mean, interval, se, n=one.scored, lost=one.unscored)


def _around(mean: CrossedMean, value: float) -> tuple[float, float]:
    """The interval about the mean of all scored prompts, whose error is that of the prompts scored in every seed."""
    low, high = mean.interval()
    return low - mean.value + value, high - mean.value + value


def _crossed(by_seed: Sequence[Mapping[str, float]]) -> CrossedMean | None:
    """Over the prompts that every seed has."""
    if not by_seed:
        return None
    shared = [name for name in by_seed[0] if all(name in one for one in by_seed)]
    table = np.array([[one[name] for one in by_seed] for name in shared], dtype=np.float64)
    return crossed_mean(table.reshape(len(shared), len(by_seed)))


# ---------------------------------------------------------------------------------------------------- differences


def _against(
    found: Mapping[Key, Mapping[str, list[Measured]]], models: Sequence[ModelRow], baseline: str, temperature: float
) -> list[Versus]:
    """Every other model minus the baseline, best first."""
    complete = {row.model: row.complete for row in models if row.temperature == temperature}
    names = [name for name in complete if name != baseline]
    base = found[baseline, temperature].get("test", [])
    made = [_difference(found[name, temperature].get("test", []), base) for name in names]
    pairs = [(name, one) for name, one in zip(names, made, strict=True) if one is not None]
    adjusted = holm([mean.p_two_sided() for _, (mean, _) in pairs])
    return [
        _versus(name, baseline, temperature, mean, by_seed, p, whole=complete[name] and complete[baseline])
        for (name, (mean, by_seed)), p in zip(pairs, adjusted, strict=True)
    ]


def _difference(first: list[Measured], base: list[Measured]) -> tuple[CrossedMean, dict[int, float]] | None:
    """Paired by seed; a model of one seed (the target) stands beside every seed of the other."""
    pairs = _seed_pairs(first, base)
    by_seed = [
        {name: one.rewards[name] - other.rewards[name] for name in one.rewards if name in other.rewards}
        for _, one, other in pairs
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
    mine, theirs = {one.seed: one for one in first}, {one.seed: one for one in base}
    if len(theirs) == 1 and base[0].model == "target":
        return [(seed, one, base[0]) for seed, one in sorted(mine.items())]
    if len(mine) == 1 and first[0].model == "target":
        return [(seed, first[0], other) for seed, other in sorted(theirs.items())]
    return [(seed, mine[seed], theirs[seed]) for seed in sorted(mine) if seed in theirs]


def _versus(
    model: str,
    baseline: str,
    temperature: float,
    mean: CrossedMean,
    by_seed: dict[int, float],
    p_adjusted: float,
    *,
    whole: bool,
) -> Versus:
    low, high = mean.interval()
    prompts_low, prompts_high = mean.interval_questions()
    verdict: Verdict = "not shown"
    if not whole:
        verdict = "incomplete"
    elif p_adjusted < ALPHA:
        verdict = "better" if mean.value > 0 else "worse"
    return Versus(
        model=model,
        baseline=baseline,
        temperature=temperature,
        value=mean.value,
        ci_low=low,
        ci_high=high,
        prompts_low=prompts_low,
        prompts_high=prompts_high,
        se=mean.se,
        df=mean.df,
        by_seed=by_seed,
        prompts=mean.questions,
        p=mean.p_two_sided(),
        p_adjusted=p_adjusted,
        detectable=mean.detectable(),
        verdict=verdict,
    )


# ---------------------------------------------------------------------------------------------------------- notes


def _names(models: Sequence[ModelRow]) -> set[str]:
    return {row.model for row in models}


def _notes(models: Sequence[ModelRow], baselines: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    notes = [f"{name} was not measured: nothing is compared with it" for name in baselines if name not in known]
    seeds = {seed for row in models for seed in row.by_seed if row.model != "target"}
    if len(seeds) == 1:
        notes.append("one seed: the intervals say nothing of what another seed would give")
    for row in models:
        if not row.complete:
            lost, asked = row.reward.unscored, row.reward.n + row.reward.unscored
            notes.append(f"{row.model} at {at(row.temperature)}: {lost} of {asked} answers unscored, so not compared")
    return tuple(notes)
