"""Record the gate's policy (checks with margins, in tiers, limits on missing data), its evidence and its report.

>>> GatePolicy(checks=(GateCheck(suite="arena_hard", margin=6.5),)).checks[0].tier
'critical'
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence, Sized
from typing import Literal, Self

from pydantic import Field, model_validator

from ...records import MAX_EMPTY, Record, ScoreCard
from ...records.errors import ConfigError, did_you_mean, first_names
from ...records.facts import Tier, all_facts, facts_of, higher_is_better
from ...records.judge_choice import GAMES
from ..comparison import Comparison, Population
from ..differences import Difference

MIN_QUESTIONS = 20
"""With fewer, intervals still cover, but they assume that the few questions resemble the rest of the benchmark."""


def is_none(value: object) -> bool:
    return value is None


def is_empty(value: Sized) -> bool:
    return not value


class GateCheck(Record):
    """One metric of one suite, or one quantity that several suites measure."""

    suite: str = ""
    """Empty: `pooled` names the suites. `head_to_head_SUITE`: games of the candidate against the baseline."""
    pooled: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """Suites whose headline differences are pooled, in the unit of the first one."""
    slopes: dict[str, float] = Field(default={}, exclude_if=is_empty)
    """Pooled: suite -> points of its headline per point of the first suite's metric, instead of the facts' slopes."""
    metric: str | None = None
    """None: the suite's headline. Pooled: of the first suite."""
    category: str | None = None
    tier: Tier = "critical"
    # a margin of 0 could only be met by a certain gain, which no number of questions shows of an equal model
    margin: float = Field(gt=0, allow_inf_nan=False)
    """The largest tolerated drop (of a metric of which less is better: rise), in the metric's unit."""
    floor: float | None = Field(default=None, allow_inf_nan=False)
    """An absolute value that the candidate must reach, independent of the baseline: if less is better, a ceiling."""
    min_questions: int = Field(default=MIN_QUESTIONS, ge=2, exclude_if=lambda least: least == MIN_QUESTIONS)
    """Common questions, of each pooled suite, below which the check is undecided, whatever the scores."""
    higher_is_better: bool | None = Field(default=None, exclude_if=is_none)
    """For a metric whose direction neither the card nor the suite states; None: as stated."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if bool(self.suite) == bool(self.pooled):
            raise ValueError("a check names one suite (suite: NAME) or several (pooled: [NAME, NAME]), not both")
        if self.pooled and len(set(self.pooled)) < max(2, len(self.pooled)):
            raise ValueError(f"pooled needs two different suites or more, not {list(self.pooled)}")
        # categories of different suites are of different kinds, and a floor is in one suite's unit
        if self.pooled and (self.category or self.floor is not None):
            raise ValueError("a pooled check has neither category nor floor: those are of one suite")
        if len({suite.removeprefix(GAMES) for suite in self.pooled}) < len(self.pooled):
            raise ValueError(f"games of a suite have its questions, so they cannot be pooled with it: {self.pooled}")
        if set(self.slopes) - set(self.pooled[1:]) or not all(0 < slope < math.inf for slope in self.slopes.values()):
            raise ValueError(
                f"slopes must be above 0 and of the pooled suites after the first, {list(self.pooled[1:])}, not "
                f"{self.slopes}"
            )
        return self

    @property
    def suites(self) -> tuple[str, ...]:
        return self.pooled or (self.suite,)

    @property
    def label(self) -> str:
        """Return the suite, or the pooled ones as one word."""
        return "+".join(self.suites)


class GateLimits(Record):
    """Largest tolerated shares, 0..1. None means no limit."""

    unscored: float | None = Field(default=0.02, ge=0, le=1)
    """Of questions without a score, in either run; above it the gate is invalid."""
    judge_failures: float | None = Field(default=0.02, ge=0, le=1)
    """Of judgments without a verdict, in either run; above it the gate is invalid."""
    truncated: float | None = Field(default=0.1, ge=0, le=1)
    """Of the candidate's answers; above it the candidate fails."""
    empty: float | None = Field(default=MAX_EMPTY, ge=0, le=1, exclude_if=lambda share: share == MAX_EMPTY)
    """Of the answers: above it the candidate fails, or the gate is invalid if it is the baseline."""
    truncated_rise: float | None = Field(default=0.05, ge=0, le=1)
    """Candidate's share minus the baseline's; above it the candidate fails."""


class GatePolicy(Record):
    """`gate.yaml`."""

    version: Literal[1] = 1
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """One-sided: how often a candidate exactly at the margin may pass; and, for each of the two deciding tiers, how
    often one that is no worse than the margin anywhere may fail."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """Power used to compute the number of questions that would decide."""
    strict: bool = False
    """Whether any certain drop fails, however small."""
    population: Population = Field(default="all", exclude_if=lambda population: population == "all")
    """all: would the drop hold on other questions of the kind; these: on these very questions, several draws each."""
    checks: tuple[GateCheck, ...] = ()
    """Empty: the default checks of the suites that both runs have."""
    limits: GateLimits = GateLimits()

    @property
    def suites(self) -> list[str]:
        """Return the suites that the checks name."""
        return list(dict.fromkeys(suite for check in self.checks for suite in check.suites))

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        # a metric checked twice would be tested twice, and Holm would charge the other checks for it
        seen = [(check.label, check.metric, check.category) for check in self.checks]
        twice = next((key for key in seen if seen.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"two checks of {twice[0]} {twice[1] or 'headline'} {twice[2] or ''}".rstrip())
        return self


def default_checks(suites: Collection[str], margins: Mapping[str, float] | None = None) -> tuple[GateCheck, ...]:
    """Return the default checks of these suites, as their facts state them, or `margins` of users' own suites.

    Their margins are such that two equal models pass all three judged suites together at least 85 % of the time
    (docs/gate.md, measured by `python -m benchmarks.gate`). Smaller margins need pooled suites or direct games.
    """
    stated = tuple(
        GateCheck(suite=facts.name, metric=check.metric, tier=check.tier, margin=check.margin)
        for facts in all_facts()
        if facts.name in suites
        for check in facts.gate
    )
    own = (margins or {}).items()
    return (*stated, *(GateCheck(suite=suite, margin=margin) for suite, margin in own if suite in suites))


def refuse_unknown_metrics(policy: GatePolicy, cards: Sequence[ScoreCard]) -> None:
    """Raise ConfigError for a check's metric or category that neither the cards of its suite nor its facts have.

    A metric that only these runs lack passes: then there is nothing to compare, which is not a wrong policy. Raise it,
    too, for two checks of one metric, and for a direction other than the known one.
    """
    _refuse_contradictions(policy, cards)
    for check in policy.checks:
        suite = check.suites[0]
        facts = facts_of(suite)
        metrics = {name for card in cards if card.suite == suite for name in card.scores}
        # of the metrics that the facts of users' own suites list, each suite has some
        metrics |= set() if facts.by_argument and metrics else {metric.name for metric in facts.metrics}
        names = metrics | {name.partition(",")[0] for name in metrics}
        if check.metric is not None and metrics and check.metric not in names:
            raise ConfigError(
                f"the gate's policy checks metric {check.metric!r} of {suite}, which has none of that name"
                f"{did_you_mean(check.metric, sorted(names))}; it has: {first_names(metrics)}"
            )
        categories = {name for card in cards if card.suite == suite for name in card.by_category}
        if check.category is not None and categories and check.category not in categories:
            raise ConfigError(
                f"the gate's policy checks category {check.category!r} of {suite}, which has none of that name"
                f"{did_you_mean(check.category, sorted(categories))}; it has: {first_names(categories)}"
            )


def _refuse_contradictions(policy: GatePolicy, cards: Sequence[ScoreCard]) -> None:
    """Raise ConfigError for a headline that is checked twice, once by its name, and for a direction that is wrong."""
    card_of = {card.suite: card for card in cards}
    checked: set[tuple[str, str, str | None]] = set()
    for check in policy.checks:
        suite = check.suites[0]
        card = card_of.get(suite)
        headline = facts_of(suite).headline if card is None else card.headline
        metric = check.metric or headline
        if card is not None:
            filtered = [name for name in card.scores if name.partition(",")[0] == metric]
            metric = filtered[0] if len(filtered) == 1 else metric
        key = check.label, metric, check.category
        if key in checked:
            raise ConfigError(
                f"the gate's policy checks {metric!r} of {check.label} twice: without metric: it is the headline, "
                f"{headline!r}; keep one of the two checks"
            )
        checked.add(key)
        known = None if card is None else higher_is_better(card, metric)
        if check.higher_is_better is not None and known is not None and known != check.higher_is_better:
            raise ConfigError(
                f"the gate's policy states higher_is_better: {str(check.higher_is_better).lower()} for {metric!r} of "
                f"{suite}, of which {'more' if known else 'less'} is better: drop it from the check"
            )


Outcome = Literal["pass", "fail", "inconclusive", "invalid"]
CheckFinding = Literal["safe", "worse", "undecided", "missing"]
Step = Literal["safe", "worse", "open"]
# 1 is what CI takes for "do not ship"; 2 is wrong usage in every command, so the other two outcomes follow it
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
    plain: Difference | None = Field(default=None, exclude_if=is_none)
    """The difference without the adjustment for questions that were not judged, if `difference` is adjusted."""
    lower: float | None = None
    """The difference is above this with confidence 1 - alpha; None if less is better."""
    upper: float | None = Field(default=None, exclude_if=is_none)
    """If less is better: the difference is below this with confidence 1 - alpha."""
    p_safe: float | None = None
    """Of "the drop is the margin or more"."""
    p_worse: float | None = None
    """Of "the drop is no more than the margin", after Holm within the tier (advisory: Benjamini-Hochberg)."""
    resolvable: float | None = None
    """The smallest margin at which this design passes an equal model, with the policy's power."""
    needed: int | None = None
    """Questions with which an equal model passes at this check's margin, with the policy's power."""
    repeats: int | None = None
    """Judgments per question that do the same on these questions; None: unknown, or no number does."""
    more_draws: float | None = Field(default=None, exclude_if=is_none)
    """Of the population "these": how many times the answers (or judgments) per question do what `needed` would."""
    too_few: int | None = Field(default=None, exclude_if=is_none)
    """The check's `min_questions`, if the runs share fewer: it is then undecided."""
    out_of_reach: bool = Field(default=False, exclude_if=is_empty)
    """Whether the baseline is within the margin of the lowest score, so that no drop could exceed it."""
    floor: float | None = None
    above_floor: bool | None = None
    """None: no floor, or not decided by this run. If less is better: whether it is below the ceiling."""
    p_floor: float | None = Field(default=None, exclude_if=is_none)
    """Of "the candidate does not reach the floor"."""
    note: str | None = Field(default=None, exclude_if=is_none)
    """Why there is nothing to compare, if that is known, or that pooled suites disagree."""

    @property
    def bound(self) -> float | None:
        """Return the bound on the side where the candidate is worse, or None if there is nothing to compare."""
        return self.lower if self.upper is None else self.upper

    @property
    def less_is_better(self) -> bool:
        return self.difference is not None and self.difference.higher_is_better is False


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
    """Metric -> state of its group-sequential test at that point."""
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
    p_pass: float | None = Field(default=None, exclude_if=is_none)
    """One of several candidates: p of "a critical check is not safe", after Holm over the candidates."""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


class JudgeNoise(Record):
    """The judges' part of the variance of one question's difference, in the metric's unit squared."""

    single: float
    """If each question is judged once."""
    included: float
    """With the repeats that these two runs have."""


class Evidence(Record):
    """The gate's evidence on one suite."""

    comparison: Comparison | None
    """None: one of the two has no run of the suite."""
    baseline: ScoreCard | None
    """None: no run, or games of the candidate against it."""
    candidate: ScoreCard | None
    drifted: str | None = None
    """A sentence, if anchors show that the judge has moved."""
    steps: Mapping[str, Step] = {}
    """Metric -> state of its group-sequential test, if judging could stop early."""
    noise: Mapping[str, JudgeNoise] = {}
    """By metric, if both runs were judged repeatedly."""
    note: str | None = Field(default=None, exclude_if=is_none)
    """What would give a comparison, if there is none."""
