"""Judging that stops as soon as the verdict is safe: one step of the decision, and its replay on judged runs. Pure.

Questions come in an order shuffled by seed. After each block the confidence sequence of every check of the suite is
looked at: above -margin is safe, below it is worse. The sequence holds at every look, at alpha for safe and at alpha
shared out over the tier's checks (Bonferroni) for worse. Only sums over all questions have one: a suite with a fitted
metric (length control) or a category in a deciding tier is judged to the end.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..protocols import RunRows
from ..questions import QuestionRule, QuestionSums, common, question_sums, rules_of
from ..records import ScoreCard
from ..stats.paired import paired_difference
from ..stats.sequential import FIRST, one_sided_bounds
from .policy import GateCheck, GatePolicy, Tier
from .records import Step

BLOCK = 20
"""Questions between two looks, after the first `FIRST`."""


@dataclass(frozen=True)
class Watched:
    """A check that can be decided early, and how its metric is summed."""

    check: GateCheck
    rule: QuestionRule


@dataclass(frozen=True)
class Stop:
    """Where a suite's judging ends."""

    questions: int
    of: int
    steps: dict[str, Step]
    """Metric -> what its sequence says there."""


def order_of(ids: Sequence[str], suite: str, seed: int) -> list[str]:
    """The order in which questions are judged: by seed and suite alone."""
    shuffled = sorted(ids)
    random.Random(f"{seed}:{suite}").shuffle(shuffled)
    return shuffled


def looks(questions: int) -> list[int]:
    """After how many questions the verdict is looked at."""
    return [*range(min(FIRST, questions), questions, BLOCK), questions]


def watched(checks: Sequence[GateCheck], card: ScoreCard, run: RunRows) -> list[Watched] | None:
    """The suite's deciding checks with their rules; None where one of them has no confidence sequence."""
    rules = {rule.metric: rule for rule in rules_of(card.suite, card.headline, run.judgments)}
    found = []
    for check in checks:
        if check.tier == "advisory":
            continue
        rule = rules.get(check.metric or card.headline)
        if rule is None or rule.category is not None or check.category is not None:
            return None
        found.append(Watched(check, rule))
    return found or None


def step(
    one: Watched,
    baseline: QuestionSums,
    candidate: QuestionSums,
    *,
    planned: int,
    policy: GatePolicy,
    peers: Mapping[Tier, int],
) -> Step:
    """What a check's sequence says of the questions so far; `peers`: checks of each tier, over all suites."""
    first, other = common([baseline, candidate])
    if len(first.ids) < FIRST:
        return "open"
    found = paired_difference((other.above, other.below), (first.above, first.below), scale=first.scale)
    if found is None:
        return "open"
    limit = 0.0 if policy.strict else -one.check.margin
    bounds = one_sided_bounds(
        found.n,
        found.value,
        found.se,
        planned=planned,
        alpha_low=policy.alpha,
        alpha_high=policy.alpha / max(1, peers.get(one.check.tier, 1)),
    )
    if bounds.high < limit:
        return "worse"
    return "safe" if bounds.low > -one.check.margin and not policy.strict else "open"


def tier_sizes(checks: Sequence[GateCheck]) -> Mapping[Tier, int]:
    """Checks of each tier, over all suites: what the level of "worse" is shared out over."""
    return Counter(check.tier for check in checks)


def settled(steps: Sequence[tuple[GateCheck, Step]]) -> bool:
    """Whether a suite's judging can stop: one deciding check is worse, or every critical one is safe."""
    if any(found == "worse" for _, found in steps):
        return True
    critical = [found for check, found in steps if check.tier == "critical"]
    return bool(critical) and all(found == "safe" for found in critical)


def replay(
    checks: Sequence[Watched],
    baseline: RunRows,
    candidate: RunRows,
    *,
    policy: GatePolicy,
    peers: Mapping[Tier, int],
    seed: int,
) -> Stop:
    """Where judging would have stopped, had it been done in blocks; on runs that are judged already."""
    pairs = [
        (
            one,
            question_sums(one.rule, baseline.answers, baseline.judgments),
            question_sums(one.rule, candidate.answers, candidate.judgments),
        )
        for one in checks
    ]
    order = order_of(common([pairs[0][1], pairs[0][2]])[0].ids, baseline.card.suite, seed)
    steps: dict[str, Step] = {}
    for n in looks(len(order)):
        seen = order[:n]
        found = [
            (one.check, step(one, first.of(seen), other.of(seen), planned=len(order), policy=policy, peers=peers))
            for one, first, other in pairs
        ]
        steps = {one.rule.metric: answer for one, (_, answer) in zip(checks, found, strict=True)}
        if settled(found):
            return Stop(n, len(order), steps)
    return Stop(len(order), len(order), steps)
