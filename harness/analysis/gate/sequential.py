"""Stop judging as soon as the verdict is safe: one step of the decision, and its replay on judged runs. Pure.

Questions come in an order shuffled by seed. After each block every check of the suite is tested against its margin with
the group-sequential boundaries of all planned looks: certainly above -margin is safe, certainly below it is worse.
Over all looks together the level is alpha for safe, and alpha shared by the tier's checks (Bonferroni) for worse. Only
sums over all questions can be tested early: a suite with a fitted metric (length control), one of which less is better,
or a category in a deciding tier is judged to the end.

>>> looks(100)
[40, 60, 80, 100]
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...records import ScoreCard
from ...records.facts import QuestionRule, Tier, higher_is_better
from ...records.protocols import RunRows
from ...stats.paired import ClusteredEstimate, student_bound
from ...stats.sequential import FIRST, boundaries
from ...suites.scoring import QuestionSums, common, question_sums, rules_of, sums_difference
from .policy import GateCheck, GatePolicy, Step

BLOCK = 20
"""Questions between two looks, after the first `FIRST`."""


@dataclass(frozen=True)
class SequentialCheck:
    """A check that can be decided early, and the rule that sums its metric."""

    check: GateCheck
    rule: QuestionRule


@dataclass(frozen=True)
class Stop:
    """The point at which a suite's judging ends."""

    questions: int
    of: int
    steps: dict[str, Step]
    """Metric -> state of its test at that point."""


def order_of(ids: Sequence[str], suite: str, seed: int) -> list[str]:
    """Return the order in which questions are judged. It depends on seed and suite only."""
    shuffled = sorted(ids)  # so that the order does not depend on the order of a file
    random.Random(f"{seed}:{suite}").shuffle(shuffled)
    return shuffled


def looks(questions: int) -> list[int]:
    """Return the numbers of questions after which the verdict is evaluated."""
    return [*range(min(FIRST, questions), questions, BLOCK), questions]


def watched(checks: Sequence[GateCheck], card: ScoreCard, run: RunRows) -> list[SequentialCheck] | str:
    """Return the suite's deciding checks with their rules, or why none of them can be tested early."""
    if run.audit is not None:
        return "the judge is audited, and an audit is drawn from all questions"
    rules = {rule.metric: rule for rule in rules_of(card.suite, card.headline, run.judgments)}
    watched_checks = []
    for check in checks:
        if check.tier == "advisory":
            continue
        metric = check.metric or card.headline
        rule = rules.get(metric)
        if check.pooled:
            return "a deciding check is pooled over suites"
        if check.category is not None or (rule is not None and rule.category is not None):
            return f"{metric} is of one category"
        if rule is None:
            sums = [name for name, other in rules.items() if other.category is None]
            return f"{metric} is fitted to all verdicts" + (f"; use metric: {sums[0]}" if sums else "")
        if higher_is_better(card, rule.metric) is not True:
            return f"less {metric} is better"
        watched_checks.append(SequentialCheck(check, rule))
    return watched_checks or "it has no deciding check"


def step(
    watched_check: SequentialCheck,
    baseline: QuestionSums,
    candidate: QuestionSums,
    *,
    look: tuple[int, int],
    policy: GatePolicy,
    peers: Mapping[Tier, int],
) -> Step:
    """Return the state of a check's test on the questions so far.

    `look`: questions judged at this look, one of `looks`, and questions planned; questions that were judged but have no
    score in one of the runs count as looked at. `peers`: checks per tier, over all suites.
    """
    baseline_sums, candidate_sums = common([baseline, candidate])
    estimate = sums_difference(candidate_sums, baseline_sums)
    check = watched_check.check
    judged, planned = look
    # the last look is the ordinary test, which may have fewer questions than an early look needs
    fewest = check.min_questions if judged == planned else max(FIRST, check.min_questions)
    if estimate is None or len(baseline_sums.ids) < fewest:
        return "open"
    return look_result(estimate, check.margin, look=look, policy=policy, peers=peers.get(check.tier, 1))


def look_result(
    estimate: ClusteredEstimate, margin: float, *, look: tuple[int, int], policy: GatePolicy, peers: int = 1
) -> Step:
    """Return what the difference so far shows at this look. `peers` checks share the level of "worse"."""
    judged, planned = look
    planned_looks = looks(planned)
    shares, look_number = tuple(count / planned for count in planned_looks), planned_looks.index(judged)
    # a strict policy fails on any certain drop, which later questions may still show, so only "worse" is reached early
    can_be_safe = not policy.strict or judged == planned
    limit = 0.0 if policy.strict else -margin
    worse = boundaries(shares, policy.alpha / max(1, peers))[look_number]
    if estimate.value + student_bound(worse, estimate.df) * estimate.se < limit:
        return "worse"
    safe = student_bound(boundaries(shares, policy.alpha)[look_number], estimate.df)
    return "safe" if can_be_safe and estimate.value - safe * estimate.se > -margin else "open"


def tier_sizes(checks: Sequence[GateCheck]) -> Mapping[Tier, int]:
    """Return the number of checks per tier, over all suites, which share the level of "worse"."""
    return Counter(check.tier for check in checks)


def settled(steps: Sequence[tuple[GateCheck, Step]]) -> bool:
    """Return whether a suite's judging can stop: one deciding check is worse, or every critical one is safe."""
    if any(state == "worse" for _, state in steps):
        return True
    critical = [state for check, state in steps if check.tier == "critical"]
    return bool(critical) and all(state == "safe" for state in critical)


def replay(
    checks: Sequence[SequentialCheck],
    baseline: RunRows,
    candidate: RunRows,
    *,
    policy: GatePolicy,
    peers: Mapping[Tier, int],
    seed: int,
) -> Stop:
    """Return where judging in blocks would have stopped, for runs that are already judged."""
    pairs = [
        (
            watched_check,
            question_sums(watched_check.rule, baseline.answers, baseline.judgments),
            question_sums(watched_check.rule, candidate.answers, candidate.judgments),
        )
        for watched_check in checks
    ]
    order = order_of(common([pairs[0][1], pairs[0][2]])[0].ids, baseline.card.suite, seed)
    steps: dict[str, Step] = {}
    for n in looks(len(order)):
        seen = order[:n]
        check_steps = [
            (
                watched_check.check,
                step(
                    watched_check,
                    baseline_sums.of(seen),
                    candidate_sums.of(seen),
                    look=(n, len(order)),
                    policy=policy,
                    peers=peers,
                ),
            )
            for watched_check, baseline_sums, candidate_sums in pairs
        ]
        steps = {watched.rule.metric: answer for watched, (_, answer) in zip(checks, check_steps, strict=True)}
        if settled(check_steps):
            return Stop(n, len(order), steps)
    return Stop(len(order), len(order), steps)
