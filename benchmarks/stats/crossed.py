"""Coverage of intervals of a mean over questions and repeats: `python -m benchmarks.stats --only crossed`.

Values are question effect + repeat effect + noise, all normal, the true mean 0; what holds 0 is counted.
"""

from __future__ import annotations

import numpy as np

from harness.stats.variance import crossed_mean

DESIGNS = ((200, 3), (50, 3), (100, 2), (200, 5))
"""Questions, repeats."""
SPREADS = ((1.0, 0.0, 1.0), (1.0, 0.1, 1.0), (1.0, 0.3, 1.0), (0.0, 0.1, 1.0), (0.3, 0.3, 0.3))
"""Standard deviations between questions, between repeats, and of the rest."""


def shares(
    design: tuple[int, int], spread: tuple[float, float, float], rng: np.random.Generator, data_sets: int
) -> tuple[float, float]:
    """Share of 95 % intervals that hold the truth: over questions and repeats, and over questions alone."""
    questions, repeats = design
    both, alone = 0, 0
    for _ in range(data_sets):
        rows = spread[0] * rng.standard_normal((questions, 1)) + spread[1] * rng.standard_normal((1, repeats))
        found = crossed_mean(rows + spread[2] * rng.standard_normal((questions, repeats)))
        assert found is not None
        both += found.interval()[0] < 0 < found.interval()[1]
        alone += found.interval_questions()[0] < 0 < found.interval_questions()[1]
    return both / data_sets, alone / data_sets


def crossed_lines(sets: int) -> list[str]:
    """Markdown rows for twice as many data sets as the other sections simulate."""
    rng = np.random.default_rng(0)
    lines = [
        "| questions | repeats | sd of questions, repeats, rest | over both | over questions alone |",
        "| ---: | ---: | --- | ---: | ---: |",
    ]
    for design in DESIGNS:
        for spread in SPREADS:
            both, alone = shares(design, spread, rng, 2 * sets)
            spreads = ", ".join(f"{part:g}" for part in spread)
            lines.append(f"| {design[0]} | {design[1]} | {spreads} | {both:.3f} | {alone:.3f} |")
    return lines
