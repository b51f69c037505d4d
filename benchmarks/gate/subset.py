"""What the adjusted estimate gains if a candidate was judged on some of the questions, on published judgments."""

from __future__ import annotations

import numpy as np

from harness.stats.combined import adjusted_difference
from harness.stats.intervals import FloatArray
from harness.suites.scoring import common

from .published import Published

SIZES = {"mt_bench": (40,), "alpaca_eval": (100, 200), "arena_hard": (100, 200)}
LOWEST = 5.0
"""Percent. Below, a hundred questions contain two or three wins, too few for any interval, adjusted or not."""
SUBSET_HEAD = (
    *("suite", "judged", "of", "variance, adjusted / plain", "95 % interval covers the full set's difference"),
    *("covers the difference over all such questions", "draws"),
)


def subset_rows(part: Published, trials: int) -> list[list[str]]:
    """Return one row per number of questions, over random pairs of models.

    Variance and first coverage are about the difference on all of the suite's questions. For the second, the full set
    is itself a random half of them, and the truth is the difference on the whole.
    """
    models = [sums for sums in common(list(part.models.values())) if sums.scale == 1.0 or (sums.value or 0.0) > LOWEST]
    scores = np.array([_linear(sums.above, sums.below, sums.scale) for sums in models])
    rng, total = np.random.default_rng(0), scores.shape[1]
    rows = []
    for count in SIZES[part.suite]:
        errors: list[tuple[float, float]] = []
        covered, covered_all = 0, 0
        for _ in range(trials):
            candidate, baseline = rng.choice(len(scores), 2, replace=False)
            rest = np.delete(scores, [candidate, baseline], axis=0).T
            at = rng.choice(total, count, replace=False)
            true = float(scores[candidate].mean() - scores[baseline].mean())
            estimate = adjusted_difference(scores[candidate, at], at, scores[baseline], rest)
            assert estimate is not None, "the sizes are large enough"
            errors.append((estimate.value - true, float((scores[candidate, at] - scores[baseline, at]).mean()) - true))
            low, high = estimate.interval_set()
            covered += low <= true <= high
            covered_all += _covers_all(scores, candidate, baseline, count, rng)
        ratio = np.var([error for error, _ in errors]) / np.var([error for _, error in errors])
        shares = [f"{100 * count_covered / trials:.1f} %" for count_covered in (covered, covered_all)]
        rows.append([part.suite, str(count), str(total), f"{ratio:.2f}", *shares, str(trials)])
    return rows


def _covers_all(scores: FloatArray, candidate: int, baseline: int, count: int, rng: np.random.Generator) -> bool:
    """Return whether the gate's interval covers, if the suite were drawn with replacement from its own questions."""
    total = scores.shape[1]
    drawn = scores[:, rng.integers(total, size=total)]
    at = rng.choice(total, count, replace=False)
    rest = np.delete(drawn, [candidate, baseline], axis=0).T
    estimate = adjusted_difference(drawn[candidate, at], at, drawn[baseline], rest)
    assert estimate is not None, "the sizes are large enough"
    low, high = estimate.estimate().interval()
    return bool(low <= scores[candidate].mean() - scores[baseline].mean() <= high)


def _linear(above: FloatArray, below: FloatArray, scale: float) -> FloatArray:
    ratio = above.sum() / below.sum()
    scores: FloatArray = scale * (ratio + (above - ratio * below) / below.mean())
    return scores
