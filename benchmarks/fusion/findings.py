"""What the results say: means over seeds, who may be best in each world, and differences with intervals. Pure.

A seed repeats everything, so seeds are the independent units: all intervals are paired Student intervals over seeds.
They are simultaneous by Bonferroni over the comparisons named, whatever the correlation of the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.paired import CONFIDENCE, t_quantile

from .study import UNTRAINED, PairFacts, Trained

FloatArray = NDArray[np.float64]
GREEDY, SAMPLED = 0, 1
World = tuple[str, str]
"""Gap and SFT."""


@dataclass(frozen=True)
class WorldResults:
    """Results in one world, by seed."""

    world: World
    seeds: tuple[int, ...]
    rewards: Mapping[str, FloatArray]
    """(seeds,) per method: test reward of the setting that validation prompts chose, for each seed by itself."""
    chosen: Mapping[str, tuple[dict[str, float], ...]]
    """Those settings."""
    facts: tuple[PairFacts, ...]

    @property
    def trained(self) -> tuple[str, ...]:
        """Methods that train after SFT."""
        return tuple(name for name in self.rewards if name not in UNTRAINED)

    def mean(self, method: str) -> float:
        return float(self.rewards[method].mean())


def by_world(rows: Sequence[Trained], decoding: int) -> list[WorldResults]:
    """Return the results of each world for one decoding; the best setting by validation wins, the earlier on a tie.

    Settings are chosen by the same decoding. Raise ValueError if a method lacks seeds in a world.
    """
    worlds: dict[World, dict[str, dict[int, list[Trained]]]] = {}
    for row in rows:
        worlds.setdefault((row.gap, row.sft), {}).setdefault(row.method, {}).setdefault(row.seed, []).append(row)
    return [_world_results(world, methods, decoding) for world, methods in worlds.items()]


def _world_results(world: World, methods: Mapping[str, Mapping[int, list[Trained]]], decoding: int) -> WorldResults:
    seeds = tuple(next(iter(methods.values())))
    rewards, chosen = {}, {}
    for name, by_seed in methods.items():
        if tuple(by_seed) != seeds:
            raise ValueError(f"{name} in {world} has the seeds {tuple(by_seed)}, other methods {seeds}")
        best = [max(by_seed[seed], key=lambda row: row.validation[decoding]) for seed in seeds]
        rewards[name] = np.array([row.test[decoding] for row in best])
        chosen[name] = tuple(row.settings for row in best)
    facts = tuple(row.facts for row in (methods["sft"][seed][0] for seed in seeds) if row.facts is not None)
    return WorldResults(world, seeds, rewards, chosen, facts)


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over seeds with a simultaneous 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def difference(first: FloatArray, second: FloatArray, *, comparisons: int = 1) -> PairedDifference:
    """Return first less second, paired by seed; the interval is one of `comparisons` that hold together."""
    apart = first - second
    half = _error(apart) * t_quantile(1 - (1 - CONFIDENCE) / 2 / comparisons, len(apart) - 1)
    mean = float(apart.mean())
    return PairedDifference(mean, mean - half, mean + half)


def may_be_best(results: WorldResults, methods: Sequence[str]) -> list[str]:
    """Return the methods that no other is shown to beat, best mean first.

    With a probability of at least 95 % the truly best method is among them: it is left out only if one of the others
    seems better, which happens with at most 5 % / others each.
    """
    kept = []
    for name in methods:
        rivals = [rival for rival in methods if rival != name]
        bar = t_quantile(1 - (1 - CONFIDENCE) / len(rivals), len(results.seeds) - 1)
        apart = [results.rewards[rival] - results.rewards[name] for rival in rivals]
        if not any(float(each.mean()) > bar * _error(each) for each in apart):
            kept.append(name)
    return sorted(kept, key=lambda name: -results.mean(name))


def over_worlds(worlds: Sequence[WorldResults]) -> dict[str, FloatArray]:
    """Return each method's reward averaged over the worlds, (seeds,): worlds of one seed are not independent."""
    return {name: np.mean([results.rewards[name] for results in worlds], axis=0) for name in worlds[0].rewards}


def _error(values: FloatArray) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(len(values)))
