"""State the results in words: one plain sentence per variant. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .records import Versus


def sentence(model: str, baselines: Sequence[str], differences: Sequence[Versus]) -> str:
    """Return how a model compares with each baseline, e.g. `wrpo: beats dpo at T 0.3, not shown at T 0 (...); ....`

    Baselines that are variants come first, and the models that all variants started from come last.
    """
    parts = []
    for baseline in baselines:
        matches = [
            difference for difference in differences if (difference.model, difference.baseline) == (model, baseline)
        ]
        if matches:
            parts.append(_part(baseline, matches))
    return f"{model}: " + "; ".join(parts) + "." if parts else f"{model}: not compared with any baseline."


def _part(baseline: str, matches: Sequence[Versus]) -> str:
    figures = ", ".join(f"{at(difference.temperature)} {difference_text(difference)}" for difference in matches)
    temperatures = {
        verdict: [at(difference.temperature) for difference in matches if difference.verdict == verdict]
        for verdict in ("better", "worse", "not shown", "incomplete")
    }
    every = len(matches)
    if len(temperatures["better"]) == every:
        claim = f"beats {baseline}"
    elif len(temperatures["worse"]) == every:
        claim = f"is worse than {baseline}"
    elif len(temperatures["not shown"]) == every:
        claim = f"not shown to beat {baseline}"
    else:
        clauses = [
            (temperatures["better"], f"beats {baseline} at"),
            (temperatures["worse"], "is worse at" if temperatures["better"] else f"does not beat {baseline}: worse at"),
            (temperatures["not shown"], "not shown at" if temperatures["better"] else "not shown to be better at"),
            (temperatures["incomplete"], "too many answers unscored at"),
        ]
        claim = ", ".join(f"{words} {' and '.join(names)}" for names, words in clauses if names)
        if not temperatures["better"] and not temperatures["worse"]:
            claim = f"not shown to beat {baseline}: {claim}"
    return f"{claim} ({figures})"


def at(temperature: float) -> str:
    """Return a temperature as text, e.g. `T 0.3`."""
    return "T 0" if temperature == 0 else f"T {temperature:g}"


def difference_text(difference: Versus) -> str:
    """Return a difference with its interval, e.g. `+0.120 [0.040, 0.200]`."""
    return f"{signed(difference.value)} [{difference.ci_low:.3f}, {difference.ci_high:.3f}]"


def signed(value: float) -> str:
    """Return the value with its sign, e.g. `+0.120`; a value that rounds to zero gets no minus."""
    return f"{round(value, 3) + 0.0:+.3f}"
