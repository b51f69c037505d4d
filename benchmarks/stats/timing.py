"""Time of 10,000 bootstrap replicates of 92 models x 500 questions x 2 games, beside the reference's way.

The reference (arena-hard-auto show_result.py) fits a logistic regression of all models' battles once a replicate:
scikit-learn's lbfgs, no intercept, C = 1e15, tol = 1e-8, rows repeated by weight. `reference_fit` is that fit, written
here from its description, on battles of the same shape.
"""

from __future__ import annotations

import time

import numpy as np

from harness.stats.intervals import FloatArray
from harness.stats.paired import rank_intervals

from .games import play
from .methods import RESAMPLES, ratio_replicates

MODELS, QUESTIONS = 92, 500


def timing_lines() -> list[str]:
    """Markdown rows: what, replicates, seconds."""
    levels = tuple(np.linspace(-1, 1, MODELS))
    data = play(np.random.default_rng(0), 1, QUESTIONS, levels)
    above, below = data.above[0], data.below[0]
    started = time.perf_counter()
    drawn = ratio_replicates(above, below)
    ours = time.perf_counter() - started
    started = time.perf_counter()
    rank_intervals(above.sum(axis=0) / below.sum(axis=0), drawn)
    ranks = time.perf_counter() - started
    theirs = reference_fit(above, below)
    return [
        "| what | replicates | seconds |",
        "| --- | ---: | ---: |",
        f"| {MODELS} models x {QUESTIONS} questions x 2 games, ours | {RESAMPLES} | {ours:.2f} |",
        f"| rank intervals of these {MODELS} models from them | {RESAMPLES} | {ranks:.2f} |",
        "| one fit in the reference's way (logistic regression of all battles) | 1 | "
        + ("scikit-learn is not installed |" if theirs is None else f"{theirs:.2f} |"),
    ]


def reference_fit(above: FloatArray, below: FloatArray) -> float | None:
    """Seconds of one fit of all models' weighted battles against one baseline; None without scikit-learn."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return None
    wins = np.rint(2 * above.sum(axis=0)).astype(np.int64)  # a tie is half a win: the reference doubles every row
    battles = np.rint(2 * below.sum(axis=0)).astype(np.int64)
    features = np.zeros((int(battles.sum()), MODELS + 1))
    target = np.zeros(len(features))
    features[:, MODELS] = -1.0
    row = 0
    for model in range(MODELS):
        features[row : row + battles[model], model] = 1.0
        target[row : row + wins[model]] = 1.0
        row += battles[model]
    started = time.perf_counter()
    LogisticRegression(fit_intercept=False, C=1e15, tol=1e-8, max_iter=1000).fit(features * np.log(10), target)
    return time.perf_counter() - started
