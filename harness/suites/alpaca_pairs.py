"""Refit two models' length-controlled win rates on resamples of the same instructions. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..protocols import Refits, RunRows, SuiteData
from ..records import Prompt
from ..stats.length_control import control_length, control_length_replicates
from .alpaca_scores import judged_of, length_rows


def paired_length_control(
    data: SuiteData, prompts: Sequence[Prompt], first: RunRows, second: RunRows, *, seed: int = 0
) -> Refits | None:
    """Return `lc_win_rate` of both models over the instructions that both answered.

    None if one cannot be fitted, or if a fit has only zero coefficients, whose refits would be meaningless."""
    judged = [judged_of(data, prompts, run.answers, run.judgments) for run in (first, second)]
    both = [prompt for prompt in prompts if all(part.lengths.get(prompt.id) for part in judged)]
    values, replicates = [], []
    for part in judged:
        rows = length_rows(data, both, part)
        fit = None if rows is None else control_length(rows, data.gamed)
        if rows is None or fit is None or not any(fit.coefficients):
            return None
        drawn = control_length_replicates(rows, data.gamed, fit, seed=seed)
        if drawn is None:
            return None
        values.append(fit.win_rate)
        replicates.append(drawn)
    return Refits("lc_win_rate", (values[0], values[1]), (replicates[0], replicates[1]), len(both))
