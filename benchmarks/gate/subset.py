"""What the adjusted estimate gains if runs were judged on some of the questions, on published judgments.

Either the candidate alone has a limit, or both runs have the same part of the questions, or each has a part of its own.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.stats.combined import AdjustedDifference, JudgedPart, adjusted_difference, difference_of_parts
from harness.stats.intervals import FloatArray
from harness.suites.scoring import common

from .published import Published

SIZES = {"mt_bench": (30, 40), "alpaca_eval": (30, 100, 200), "arena_hard": (30, 100, 200)}
WEAKEST = 4
"""Models of AlpacaEval that win two to six in a hundred: the hardest case, as few questions show their spread."""
Limited = Literal["one run", "both, the same part", "both, parts of their own"]
LIMITED: tuple[Limited, ...] = ("one run", "both, the same part", "both, parts of their own")
SUBSET_HEAD = (
    *(
        "suite",
        "limited",
        "judged",
        "of",
        "variance, adjusted / plain",
        "95 % interval covers the full set's difference",
    ),
    *("covers the difference over all such questions", "draws"),
)


def subset_rows(part: Published, trials: int) -> list[list[str]]:
    """Return one row per design and number of questions, over random pairs of models.

    Variance and first coverage are about the difference on all of the suite's questions. For the second, the full set
    is itself drawn with replacement from the suite's questions, and the truth is the difference on these.
    """
    models = common(list(part.models.values()))  # the lowest score first
    scores = np.array([_linear(sums.above, sums.below, sums.scale) for sums in models])
    widest = models[0].scale * (models[0].bounds[1] - models[0].bounds[0]) if models[0].bounds else 0.0
    rng, total = np.random.default_rng(0), scores.shape[1]
    fields = {part.suite: len(scores)} | ({f"{part.suite}, weakest": WEAKEST} if part.suite == "alpaca_eval" else {})
    rows = []
    for (name, field), limited, count in product(fields.items(), LIMITED, SIZES[part.suite]):
        errors: list[tuple[float, float]] = []
        covered, covered_all = 0, 0
        for _ in range(trials):
            candidate, baseline = rng.choice(field, 2, replace=False)
            true = float(scores[candidate].mean() - scores[baseline].mean())
            at, at_baseline = _parts(limited, total, count, rng)
            estimate = _adjusted(scores, (candidate, baseline), (at, at_baseline), widest)
            errors.append((estimate.value - true, _plain(scores, (candidate, baseline), (at, at_baseline)) - true))
            low, high = estimate.interval_set()
            covered += low <= true <= high
            drawn = scores[:, rng.integers(total, size=total)]
            parts = _parts(limited, total, count, rng)
            low, high = _adjusted(drawn, (candidate, baseline), parts, widest).estimate().interval()
            covered_all += low <= true <= high
        ratio = np.var([error for error, _ in errors]) / np.var([error for _, error in errors])
        shares = [f"{100 * count_covered / trials:.1f} %" for count_covered in (covered, covered_all)]
        rows.append([name, limited, str(count), str(total), f"{ratio:.2f}", *shares, str(trials)])
    return rows


Positions = NDArray[np.int64]


def _parts(limited: Limited, total: int, count: int, rng: np.random.Generator) -> tuple[Positions, Positions]:
    """Return the questions of candidate and baseline."""
    at = rng.choice(total, count, replace=False)
    if limited == "both, the same part":
        return at, at
    return at, np.arange(total) if limited == "one run" else rng.choice(total, count, replace=False)


def _adjusted(
    scores: FloatArray, pair: tuple[int, int], parts: tuple[Positions, Positions], widest: float
) -> AdjustedDifference:
    (candidate, baseline), (at, at_baseline) = pair, parts
    rest = np.delete(scores, pair, axis=0).T
    if len(at_baseline) == scores.shape[1]:
        estimate = adjusted_difference(scores[candidate, at], at, scores[baseline], rest, widest=widest)
    else:
        judged, reference = (
            JudgedPart(scores[candidate, at], at),
            JudgedPart(scores[baseline, at_baseline], at_baseline),
        )
        estimate = difference_of_parts(judged, reference, rest, widest=widest)
    assert estimate is not None, "the sizes are large enough"
    return estimate


def _plain(scores: FloatArray, pair: tuple[int, int], parts: tuple[Positions, Positions]) -> float:
    """Return the difference on the common questions; with fewer than two, that of the two means."""
    shared = np.intersect1d(*parts)
    if len(shared) < 2:
        return float(scores[pair[0], parts[0]].mean() - scores[pair[1], parts[1]].mean())
    return float((scores[pair[0], shared] - scores[pair[1], shared]).mean())


def _linear(above: FloatArray, below: FloatArray, scale: float) -> FloatArray:
    ratio = above.sum() / below.sum()
    scores: FloatArray = scale * (ratio + (above - ratio * below) / below.mean())
    return scores
