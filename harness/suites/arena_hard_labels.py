"""Arena-Hard's verdict labels: which there are, what each means, and how a judge's text is searched for one.

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
"""The mirrored spellings count in v2.0 alone."""


def v01_labels(text: str) -> list[str]:
    """The distinct labels in a text, sorted; v0.1 takes one that stands alone."""
    return sorted(set(DOUBLE.findall(text)))


def v2_label(text: str) -> str | None:
    """The last label in double brackets, else the last in single ones, whatever the case; None where there is none."""
    upper = text.upper()
    found = DOUBLE.findall(upper) or SINGLE.findall(upper)
    return str(found[-1]) if found else None
