"""Measure the judge's own noise: the variance between repeats of the same judgment. Pure."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..questions import question_sums, rules_of
from ..run_rows import RunRows


def judge_variance(run: RunRows) -> dict[str, float]:
    """Return metric -> mean over questions of the variance between repeats of the question's linearised score.

    In the metric's unit squared, for one repeat rather than their mean. Empty if nothing was judged twice."""
    by_repeat = defaultdict(list)
    for row in run.judgments:
        by_repeat[row.repeat].append(row)
    if len(by_repeat) < 2:
        return {}
    variances = {}
    for rule in rules_of(run.card.suite, run.card.headline, run.judgments):
        tables = [question_sums(rule, run.answers, rows) for rows in by_repeat.values()]
        shared = set.intersection(*(set(table.ids) for table in tables))
        ids = [prompt_id for prompt_id in tables[0].ids if prompt_id in shared]
        if ids:
            scores = np.array([part.of(ids).scores() for part in tables])
            variances[rule.metric] = float(scores.var(axis=0, ddof=1).mean())
    return variances
