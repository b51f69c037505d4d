"""Intervals of many ratios over questions at once: the draws are shared by all that have equally many questions.

The numbers are those of `intervals.ratio_interval` with the same seed, which draws the same questions' places; only
the drawing is done once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from .intervals import RESAMPLES, FloatArray, Interval, percentile_interval, resampling_weights


def ratio_intervals(
    tables: Sequence[FloatArray], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval | None]:
    """95 % interval of sum(above) / sum(below) of each table of shape (questions, 2): above, below the line.

    None for fewer than two questions.
    """
    found: list[Interval | None] = [None] * len(tables)
    by_size: dict[int, list[int]] = defaultdict(list)
    for place, table in enumerate(tables):
        by_size[len(table)].append(place)
    for questions, places in by_size.items():
        if questions < 2:
            continue
        together = np.concatenate([tables[place] for place in places], axis=1)
        rng = np.random.default_rng(seed)
        drawn = np.concatenate([weights @ together for weights in resampling_weights(questions, resamples, rng)])
        for column, place in enumerate(places):
            above, below = drawn[:, 2 * column], drawn[:, 2 * column + 1]
            found[place] = percentile_interval(above[below > 0] / below[below > 0])
    return found
