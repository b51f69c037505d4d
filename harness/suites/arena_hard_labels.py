"""Arena-Hard's verdict labels: their meaning, and how to find one in a judge's text.

v0.1: config/judge_config.yaml and gen_judgment.py at efc012e. v2.0: config/arena-hard-v2.0.yaml, gen_judgment.py and
show_result.py at 196f6b8.
"""

from __future__ import annotations

import re

STRONG_WEIGHT = 3  # show_result.py WEIGHT: a ">>" verdict counts as three battles
DOUBLE = re.compile(r"\[\[([AB<>=]+)\]\]")
SINGLE = re.compile(r"\[([AB<>=]+)\]")

V01_LABELS: dict[str, tuple[float, int]] = {
    "A>>B": (1.0, STRONG_WEIGHT),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, STRONG_WEIGHT),
}
"""Label -> (points of A, battles it counts as)."""
V2_LABELS: dict[str, tuple[float, int]] = V01_LABELS | {
    "A<<B": (0.0, STRONG_WEIGHT),
    "A<B": (0.0, 1),
    "B=A": (0.5, 1),
    "B<A": (1.0, 1),
    "B<<A": (1.0, STRONG_WEIGHT),
}
"""The mirrored spellings count in v2.0 only."""


def v01_labels(text: str) -> list[str]:
    """Return the distinct labels in a text, sorted; v0.1 accepts a verdict with exactly one."""
    return sorted(set(DOUBLE.findall(text)))


def v2_label(text: str) -> str | None:
    """Return the last label in double brackets, else the last in single ones, in upper case; None if there is none."""
    upper = text.upper()
    labels = DOUBLE.findall(upper) or SINGLE.findall(upper)
    return str(labels[-1]) if labels else None
