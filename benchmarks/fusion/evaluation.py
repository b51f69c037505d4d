"""Mean rewards on held-out prompts: of trained models, of the sources, of a mixture, of the best answer of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipes.pairs import extremes

from .methods import best_source
from .model import SAMPLED, TinyTransformer, sample
from .preparation import SOURCE_NAMES, Prepared, rewarded
from .world import IntArray, World


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Prompts that no method trains on. All models answer them with the same random numbers."""

    world: World
    prompts: IntArray
    seed: int

    def means(self, models: Sequence[TinyTransformer]) -> tuple[float, float]:
        """Return the mean reward, greedy and at temperature 0.8; of several models, with averaged probabilities."""
        greedy, sampled = (
            self.world.rewards(self.prompts, sample(models, self.prompts, temperature=temperature, seed=self.seed))
            for temperature in (0.0, SAMPLED)
        )
        return round(float(greedy.mean()), 5), round(float(sampled.mean()), 5)

    def untrained(self, name: str, prepared: Prepared) -> tuple[float, float]:
        """Return the same for a row that nothing was trained for beyond SFT (`study.UNTRAINED`)."""
        sources = prepared.sources
        if name == "best-of-sources":
            best = self._best_of_sources(prepared)
            return best, best  # its answers are samples either way
        models = {
            "target": [sources.target],
            "sft": [prepared.sft],
            "best-source": [sources.models[best_source(sources)]],
            "mixture": sources.models,
        }
        return self.means(models[name])

    def _best_of_sources(self, prepared: Prepared) -> float:
        """Return the mean reward of the best of all samples of all sources, which needs the reward when answering."""
        drawn = [
            answer
            for number, (name, model) in enumerate(zip(SOURCE_NAMES, prepared.sources.models, strict=True))
            for answer in rewarded(self.world, model, name, self.prompts, seed=self.seed * 100 + 50 + number)
        ]
        return round(float(np.mean([each.best.reward for each in extremes(drawn).values()])), 5)
