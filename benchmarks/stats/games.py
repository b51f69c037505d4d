"""Simulated benchmarks whose truth is known: questions with two correlated games, heavy ties and threefold weights.

Each question q has a difficulty shared by all models, each model an effect of its own on q, and both games of a
question share both: so games of one question are correlated, and two models' scores as well. A latent game x is cut at
four places into the labels >>, >, =, <, << with weights 3, 1, 1, 1, 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
SHARED, OWN, GAME = 0.8, 0.6, 0.8
"""Standard deviations of the latent parts. Two games of one model then correlate by 0.50, two models' question scores
by 0.42 (`python -m benchmarks.gate` prints the latter for real pairs)."""
TIE, STRONG = 0.5, 1.4
"""|x| below TIE is a tie (30 % of the games); above STRONG a threefold verdict (27 %)."""
TRUTH_QUESTIONS = 2_000_000


@dataclass(frozen=True)
class Sums:
    """Above and below the line of each question, shape (data sets, questions, models)."""

    above: FloatArray
    below: FloatArray


def play(rng: np.random.Generator, sets: int, questions: int, levels: tuple[float, ...]) -> Sums:
    """Data sets of models whose latent strengths are `levels`."""
    shape = (sets, questions, len(levels))
    latent = rng.normal(0, SHARED, (sets, questions, 1)) + rng.normal(0, OWN, shape) + np.array(levels)
    above, below = np.zeros(shape), np.zeros(shape)
    for _ in range(2):
        game = latent + rng.normal(0, GAME, shape)
        weight = np.where(np.abs(game) > STRONG, 3.0, 1.0)
        above += weight * np.where(np.abs(game) < TIE, 0.5, game > 0)
        below += weight
    return Sums(above, below)


def truth(levels: tuple[float, ...]) -> FloatArray:
    """The ratios of endlessly many questions, shape (models,)."""
    found = [play(np.random.default_rng(99), 1, TRUTH_QUESTIONS, (level,)) for level in levels]
    return np.array([part.above.sum() / part.below.sum() for part in found])
