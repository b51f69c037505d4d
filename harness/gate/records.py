"""What a gate is shown and what it finds: records alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..compare.comparison import Comparison
from ..differences import Difference
from ..records import Record, ScoreCard
from .policy import GatePolicy, Tier

Outcome = Literal["pass", "fail", "inconclusive", "invalid"]
Found = Literal["safe", "worse", "undecided", "missing"]
Step = Literal["safe", "worse", "open"]
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 3, "invalid": 4}


class CheckResult(Record):
    """What became of one check."""

    suite: str
    metric: str
    category: str | None
    tier: Tier
    margin: float
    found: Found
    difference: Difference | None = None
    lower: float | None = None
    """The difference is above this with confidence 1 - alpha."""
    p_safe: float | None = None
    """Of "the drop is the margin or more"."""
    p_worse: float | None = None
    """Of "the drop is no more than the margin", after Holm within the tier (advisory: Benjamini-Hochberg)."""
    needed: int | None = None
    """Questions that would decide, were the difference the one seen."""
    repeats: int | None = None
    """Judgments of each question that would decide on these questions; None: unknown, or no number would."""
    floor: float | None = None
    above_floor: bool | None = None
    """None: no floor, or not decided by this run."""


class LimitResult(Record):
    suite: str
    name: str
    run: str
    value: float
    limit: float
    kept: bool


class SequentialReport(Record):
    """What stopping early came to, for one suite."""

    suite: str
    questions: int
    """Judged when it stopped."""
    of: int
    steps: Mapping[str, Step]
    """Metric -> what its confidence sequence said then."""
    calls: int
    """Judge calls made (replayed: that would have been made)."""
    calls_saved: int
    seed: int
    replayed: bool
    """The run was judged whole: this is what stopping would have saved, and the verdict is of all questions."""
    note: str | None = None


class GateReport(Record):
    """What `harness gate` found, and why."""

    schema_version: Literal[1] = 1
    candidate: str
    baseline: str
    outcome: Outcome
    reasons: tuple[str, ...]
    """Sentences, the most important first."""
    checks: tuple[CheckResult, ...] = ()
    limits: tuple[LimitResult, ...] = ()
    notes: tuple[str, ...] = ()
    policy: GatePolicy
    sequential: tuple[SequentialReport, ...] = ()

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


class Evidence(Record):
    """What the gate is shown of one suite."""

    comparison: Comparison | None
    """None: one of the two has no run of the suite."""
    baseline: ScoreCard | None
    candidate: ScoreCard | None
    drifted: str | None = None
    """A sentence, where anchors say that the judge has moved."""
    steps: Mapping[str, Step] = {}
    """Metric -> what its confidence sequence says, where judging could stop early."""
    within: Mapping[str, float] = {}
    """Metric -> variance, between repeats of one question's judgment, of the difference; where there were repeats."""
