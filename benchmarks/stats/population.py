"""Two equal models on fixed questions: how often each kind of question calls them different, and what each can see.

The models' difficulty differs by question (SKEW) and is equal on the mean over these questions; a draw adds noise.
"""

from __future__ import annotations

import numpy as np

from harness.stats.intervals import FloatArray
from harness.stats.paired import detectable, paired_difference
from harness.stats.variance import Parts, within_difference

LEVEL, SKEW, NOISE = 2.0, 1.5, 1.0
"""Standard deviations between questions (shared), between models on a question, and between draws (mean; it differs by
question from 0.2 to 1.8), in points of a rating."""
DESIGNS = ((20, (2, 2)), (20, (3, 3)), (80, (1, 1)), (80, (2, 2)), (80, (2, 5)), (80, (5, 5)), (500, (3, 3)))
"""Questions, draws per question of either model."""


def population_lines(sets: int) -> list[str]:
    lines = [
        "| questions | draws | told apart, these | told apart, all | detectable, these | detectable, all |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for design in DESIGNS:
        questions, draws = design
        these, everywhere, within, between = design_errors(sets, questions, draws)
        cells = [str(questions), f"{draws[0]}, {draws[1]}", _share(these), f"{everywhere:.3f}", _share(within)]
        lines.append(f"| {' | '.join(cells)} | {between:.3f} |")
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def design_errors(
    sets: int, questions: int, draws: tuple[int, int], *, seed: int = 8
) -> tuple[float | None, float, float | None, float]:
    """Return the shares of pairs told apart at 5 % and the mean detectable differences, of these and of all questions.

    None for these questions if a model has one draw.
    """
    rng = np.random.default_rng(seed)
    alarms: list[tuple[bool, bool]] = []
    seen: list[tuple[float, float]] = []
    for _ in range(sets):
        first, second = pair(rng, questions, draws)
        within = within_difference(first, second)
        between = paired_difference(totals(first), totals(second))
        assert between is not None
        alarms.append((within is not None and within.p_two_sided() <= 0.05, between.p_two_sided() <= 0.05))
        seen.append((within.se if within is not None else np.nan, between.se))
    rates, errors = np.mean(alarms, axis=0), np.mean(seen, axis=0)
    both = [detectable(float(error), alpha=0.025) for error in errors]
    if np.isnan(errors[0]):
        return None, float(rates[1]), None, both[1]
    return float(rates[0]), float(rates[1]), both[0], both[1]


def pair(rng: np.random.Generator, questions: int, draws: tuple[int, int]) -> tuple[Parts, Parts]:
    level, noise = rng.normal(0, LEVEL, (questions, 1)), rng.uniform(0.2, 2 * NOISE - 0.2, (questions, 1))
    skew = rng.normal(0, SKEW, (questions, 1))
    skew -= skew.mean()
    first, second = (
        Parts(
            level + sign * skew / 2 + noise * rng.standard_normal((questions, count)), np.ones((questions, count)), True
        )
        for sign, count in zip((1, -1), draws, strict=True)
    )
    return first, second


def totals(parts: Parts) -> tuple[FloatArray, FloatArray]:
    return parts.above.sum(axis=1), parts.below.sum(axis=1)
