"""How much of a question's score is the judge's own noise: variance between repeats of the same judgment. Pure."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from ..questions import question_sums, rules_of
from ..run_rows import RunRows


def judge_variance(run: RunRows) -> dict[str, float]:
    """Metric -> mean over questions of the variance between repeats of the question's linearised score, in the
    metric's unit squared; empty where nothing was judged twice. One repeat's variance, not that of their mean."""
    by_repeat = defaultdict(list)
    for row in run.judgments:
        by_repeat[row.repeat].append(row)
    if len(by_repeat) < 2:
        return {}
    found = {}
    for rule in rules_of(run.card.suite, run.card.headline, run.judgments):
        tables = [question_sums(rule, run.answers, rows) for rows in by_repeat.values()]
        shared = set.intersection(*(set(one.ids) for one in tables))
        ids = [one for one in tables[0].ids if one in shared]
        if ids:
            scores = np.array([part.of(ids).scores() for part in tables])
            found[rule.metric] = float(scores.var(axis=0, ddof=1).mean())
    return found
