"""Candidate beside baseline, by a policy: pass, fail, inconclusive or invalid. Pure: comparisons in, a report out.

A check is *safe* where the one-sided 1 - alpha lower bound of the difference is above -margin; all critical checks must
be, so each is tested at alpha (an intersection-union test: Berger 1982, Technometrics 24:295). It is *worse* where the
drop is beyond the margin with a p-value that stays under alpha after Holm within its tier: any one would fail the
candidate, so false alarms add up and must be held down together. Else it is *undecided*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..compare.comparison import judge_failures, unscored_share
from ..differences import Difference
from ..records import ScoreCard
from ..stats.noninferiority import non_inferiority
from ..stats.paired import ClusteredEstimate
from ..stats.power import required_repeats
from ..stats.significance import benjamini_hochberg, holm
from .policy import DEFAULT_CHECKS, GateCheck, GatePolicy
from .records import CheckResult, Evidence, Found, GateReport, LimitResult, Outcome


def checks_of(policy: GatePolicy, suites: Sequence[str]) -> tuple[GateCheck, ...]:
    """The policy's checks, or the default ones of these suites."""
    return policy.checks or tuple(check for check in DEFAULT_CHECKS if check.suite in suites)


def judge_gate(
    candidate: str, baseline: str, policy: GatePolicy, evidence: Mapping[str, Evidence], notes: Sequence[str] = ()
) -> GateReport:
    """The report on `evidence`, suite by suite."""
    checks = checks_of(policy, list(evidence))
    results = _multiplicity([_checked(check, evidence.get(check.suite), policy) for check in checks], policy)
    results = [_sequenced(one, evidence.get(one.suite)) for one in results]
    limits = [row for suite, one in evidence.items() for row in _limits(suite, one, policy, candidate, baseline)]
    outcome, reasons = _verdict(results, limits, evidence, policy)
    return GateReport(
        candidate=candidate,
        baseline=baseline,
        outcome=outcome,
        reasons=tuple(reasons),
        checks=tuple(results),
        limits=tuple(limits),
        notes=tuple(notes),
        policy=policy,
    )


def _checked(check: GateCheck, evidence: Evidence | None, policy: GatePolicy) -> CheckResult:
    comparison = evidence.comparison if evidence is not None else None
    metric = check.metric or (comparison.headline if comparison is not None else "headline")
    row = comparison.difference(metric, check.category) if comparison is not None else None
    missing = CheckResult(
        suite=check.suite,
        metric=metric,
        category=check.category,
        tier=check.tier,
        margin=check.margin,
        found="missing",
        floor=check.floor,
    )
    if evidence is None or row is None:
        return missing
    judged = non_inferiority(row.estimate(), check.margin, alpha=policy.alpha, power=policy.power, strict=policy.strict)
    return missing.model_copy(
        update={
            "found": judged.answer,
            "difference": row,
            "lower": judged.lower,
            "p_safe": judged.p_safe,
            "p_worse": judged.p_worse,
            "needed": judged.needed,
            "repeats": _repeats(row, check, evidence, policy),
            "above_floor": _above_floor(check, row, evidence.candidate, policy),
        }
    )


def _repeats(row: Difference, check: GateCheck, evidence: Evidence, policy: GatePolicy) -> int | None:
    within = evidence.within.get(row.metric)
    if within is None:
        return None
    total = row.se**2 * row.n
    return required_repeats(
        max(0.0, total - within), within, row.n, row.value + check.margin, alpha=policy.alpha, power=policy.power
    )


def _above_floor(check: GateCheck, row: Difference, card: ScoreCard | None, policy: GatePolicy) -> bool | None:
    """By the candidate's own interval: one-sided bounds of its value."""
    scores = None if card is None else card.scores if check.category is None else card.by_category.get(check.category)
    score = None if scores is None else scores.get(row.metric)
    if check.floor is None or score is None or score.value is None or score.se is None:
        return None
    own = ClusteredEstimate(score.value, score.se, row.df, score.n)
    if own.lower(policy.alpha) >= check.floor:
        return True
    return False if own.upper(policy.alpha) < check.floor else None


def _multiplicity(results: list[CheckResult], policy: GatePolicy) -> list[CheckResult]:
    """`p_worse` adjusted within each tier; a check that was worse by itself alone may become undecided."""
    found = list(results)
    for tier in ("critical", "supporting", "advisory"):
        at = [place for place, one in enumerate(found) if one.tier == tier and one.p_worse is not None]
        adjust = benjamini_hochberg if tier == "advisory" else holm
        for place, p in zip(at, adjust([found[place].p_worse or 0.0 for place in at]), strict=True):
            worse = p <= policy.alpha
            now: Found = found[place].found
            if now == "worse" and not worse:
                now = "undecided"
            found[place] = found[place].model_copy(update={"p_worse": p, "found": now})
    return found


def _sequenced(one: CheckResult, evidence: Evidence | None) -> CheckResult:
    """Where judging could stop early the confidence sequence decides: a fixed-n test would be looked at too often."""
    step = None if evidence is None else evidence.steps.get(one.metric)
    if step is None or one.category is not None or one.found == "missing":
        return one
    now: Found = "undecided" if step == "open" else step
    return one.model_copy(update={"found": now})


def _limits(suite: str, evidence: Evidence, policy: GatePolicy, candidate: str, baseline: str) -> list[LimitResult]:
    rows = []

    def hold(name: str, run: str, value: float | None, limit: float | None) -> None:
        if value is not None and limit is not None:
            rows.append(LimitResult(suite=suite, name=name, run=run, value=value, limit=limit, kept=value <= limit))

    if evidence.baseline is None or evidence.candidate is None:
        return []
    for run, card in ((candidate, evidence.candidate), (baseline, evidence.baseline)):
        hold("unscored", run, unscored_share(card.scores[card.headline]), policy.limits.unscored)
        hold("judge_failures", run, judge_failures(card), policy.limits.judge_failures)
    cut, before = truncated_share(evidence.candidate), truncated_share(evidence.baseline)
    hold("truncated", candidate, cut, policy.limits.truncated)
    rise = None if cut is None or before is None else cut - before
    hold("truncated_rise", candidate, rise, policy.limits.truncated_rise)
    return rows


def truncated_share(card: ScoreCard) -> float | None:
    truncated, answers = card.counts.get("truncated"), card.counts.get("answers")
    if not isinstance(truncated, int) or not isinstance(answers, int) or not answers:
        return None
    return truncated / answers


def named(one: CheckResult) -> str:
    return f"{one.suite} {one.metric}" + (f" ({one.category})" if one.category else "")


def _verdict(
    results: Sequence[CheckResult], limits: Sequence[LimitResult], evidence: Mapping[str, Evidence], policy: GatePolicy
) -> tuple[Outcome, list[str]]:
    invalid = [
        f"{named(one)}: nothing to compare" for one in results if one.found == "missing" and one.tier != "advisory"
    ]
    invalid += [] if results else ["no check: the policy names none, and there is no default for these suites"]
    invalid += [
        f"{one.suite}: {one.name} {one.value:.1%} of {one.run}, over the limit of {one.limit:.1%}"
        for one in limits
        if not one.kept and one.name in ("unscored", "judge_failures")
    ]
    if invalid:
        return "invalid", invalid
    failed = _failures(results, limits)
    drifted = [one.drifted for one in evidence.values() if one.drifted is not None]
    if drifted:  # a difference may be the judge's: neither a pass nor a fail is to be trusted
        return "inconclusive", drifted + failed
    if failed:
        return "fail", failed
    undecided = [sentence(one, policy) for one in results if one.tier == "critical" and one.found == "undecided"]
    undecided += [
        f"{named(one)}: whether the floor of {one.floor:g} is reached is not decided"
        for one in results
        if one.tier == "critical" and one.floor is not None and one.above_floor is None
    ]
    if undecided:
        return "inconclusive", undecided
    return "pass", [sentence(one, policy) for one in results if one.tier == "critical"] or ["no critical check"]


def _failures(results: Sequence[CheckResult], limits: Sequence[LimitResult]) -> list[str]:
    deciding = [one for one in results if one.tier != "advisory"]
    failed = [
        f"{named(one)}: {one.difference.value:+.2f}, a drop beyond the margin of {one.margin:g} (p {one.p_worse:.2g})"
        for one in deciding
        if one.found == "worse" and one.difference is not None
    ]
    failed += [f"{named(one)}: below the floor of {one.floor:g}" for one in deciding if one.above_floor is False]
    failed += [
        f"{one.suite}: {one.name} {one.value:.1%} of {one.run}, over the limit of {one.limit:.1%}"
        for one in limits
        if not one.kept and one.name.startswith("truncated")
    ]
    return failed


def sentence(one: CheckResult, policy: GatePolicy) -> str:
    """One check in words."""
    if one.difference is None or one.lower is None:
        return f"{named(one)}: nothing to compare"
    bound = f"{one.difference.value:+.2f}, with {1 - policy.alpha:.0%} confidence above {one.lower:+.2f}"
    if one.found == "safe":
        return f"{named(one)}: {bound}: no drop of {one.margin:g}"
    if one.needed is None:
        return f"{named(one)}: {bound}; right at the margin of {one.margin:g}, where no number of questions decides"
    repeats = f", or {one.repeats} judgments of each question" if one.repeats else ""
    return (
        f"{named(one)}: {bound}; a drop of {one.margin:g} is not ruled out with {one.difference.n} questions: "
        f"about {one.needed} would decide{repeats}"
    )
