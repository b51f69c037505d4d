"""The gate's evidence and report. Records only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..compare.comparison import Comparison
from ..differences import Difference
from ..records import Record, ScoreCard
from .policy import GatePolicy, Tier

Outcome = Literal["pass", "fail", "inconclusive", "invalid"]
CheckFinding = Literal["safe", "worse", "undecided", "missing"]
Step = Literal["safe", "worse", "open"]
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 3, "invalid": 4}


class CheckResult(Record):
    """The outcome of one check."""

    suite: str
    metric: str
    category: str | None
    tier: Tier
    margin: float
    found: CheckFinding
    difference: Difference | None = None
    lower: float | None = None
    """The difference is above this with confidence 1 - alpha."""
    p_safe: float | None = None
    """Of "the drop is the margin or more"."""
    p_worse: float | None = None
    """Of "the drop is no more than the margin", after Holm within the tier (advisory: Benjamini-Hochberg)."""
    needed: int | None = None
    """Questions that would decide, if the true difference were the observed one."""
    repeats: int | None = None
    """Judgments per question that would decide on these questions; None: unknown, or no number would."""
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
    """The result of stopping early, for one suite."""

    suite: str
    questions: int
    """Number judged when it stopped."""
    of: int
    steps: Mapping[str, Step]
    """Metric -> state of its confidence sequence at that point."""
    calls: int
    """Judge calls made (replayed: that would have been made)."""
    calls_saved: int
    seed: int
    replayed: bool
    """The run was judged completely: this shows what stopping would have saved; the verdict uses all questions."""
    note: str | None = None


class GateReport(Record):
    """The verdict of `harness gate`, with reasons."""

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
    """The gate's evidence on one suite."""

    comparison: Comparison | None
    """None: one of the two has no run of the suite."""
    baseline: ScoreCard | None
    candidate: ScoreCard | None
    drifted: str | None = None
    """A sentence, if anchors show that the judge has moved."""
    steps: Mapping[str, Step] = {}
    """Metric -> state of its confidence sequence, if judging could stop early."""
    within: Mapping[str, float] = {}
    """Metric -> variance of the difference between repeats of one question's judgment, if there were repeats."""
