"""What was found, in words: one sentence a variant, plainly. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .records import Versus


def sentence(model: str, baselines: Sequence[str], differences: Sequence[Versus]) -> str:
    """`wrpo beats dpo at T 0.3, not shown greedy (greedy +0.4 [...], ...); ...`: what was found, baseline by baseline.

    The baselines that are variants come first, the models they all started from last.
    """
    parts = []
    for baseline in baselines:
        found = [one for one in differences if (one.model, one.baseline) == (model, baseline)]
        if found:
            parts.append(_part(baseline, found))
    return f"{model}: " + "; ".join(parts) + "." if parts else f"{model}: compared with nothing."


def _part(baseline: str, found: Sequence[Versus]) -> str:
    said = ", ".join(f"{at(one.temperature)} {difference_text(one)}" for one in found)
    places = {
        verdict: [at(one.temperature) for one in found if one.verdict == verdict]
        for verdict in ("better", "worse", "not shown", "incomplete")
    }
    every = len(found)
    if len(places["better"]) == every:
        what = f"beats {baseline}"
    elif len(places["worse"]) == every:
        what = f"is worse than {baseline}"
    elif len(places["not shown"]) == every:
        what = f"not shown to beat {baseline}"
    else:
        clauses = [
            (places["better"], f"beats {baseline} at"),
            (places["worse"], "is worse at" if places["better"] else f"does not beat {baseline}: worse at"),
            (places["not shown"], "not shown at" if places["better"] else "not shown to be better at"),
            (places["incomplete"], "too much unscored at"),
        ]
        what = ", ".join(f"{words} {' and '.join(names)}" for names, words in clauses if names)
        if not places["better"] and not places["worse"]:
            what = f"not shown to beat {baseline}: {what}"
    return f"{what} ({said})"


def at(temperature: float) -> str:
    return "T 0" if temperature == 0 else f"T {temperature:g}"


def difference_text(one: Versus) -> str:
    """`+0.120 [0.040, 0.200]`."""
    return f"{signed(one.value)} [{one.ci_low:.3f}, {one.ci_high:.3f}]"


def signed(value: float) -> str:
    """`+0.120`; what rounds to nothing has no minus."""
    return f"{round(value, 3) + 0.0:+.3f}"
