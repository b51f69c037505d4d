"""Compare candidate and baseline by a policy: pass, fail, inconclusive or invalid. Pure: comparisons in, a report out.

>>> from harness.records.facts import facts_of
>>> facts_of("arena_hard").metric("arena_hard").slope  # points per point of the length-controlled win rate
1.79

A check is *safe* if the one-sided 1 - alpha lower bound of the difference is above -margin. (Of a metric of which less
is better, differences are mirrored: the margin is the largest tolerated rise.) All critical checks must be safe, so
each is tested at alpha (an intersection-union test: Berger 1982, Technometrics 24:295). It is *worse* if the drop
exceeds the margin with a p-value below alpha after Holm within its tier: any single one fails the candidate, so false
alarms add up and must be controlled together. Otherwise it is *undecided*. A check may pool several suites; its
difference is in the unit of the first suite's metric.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ...records import Record, ScoreCard
from ...records.facts import facts_of
from ...stats.combined import disagreement, pooled, slope_between
from ...stats.paired import (
    FEWEST,
    Bounds,
    ClusteredEstimate,
    benjamini_hochberg,
    detectable,
    holm,
    non_inferiority,
    required_n,
    required_repeats,
)
from ..comparison import Comparison, judge_failures, unscored_share
from ..differences import ALPHA, Difference, adjustment_line
from .policy import (
    CheckFinding,
    CheckResult,
    Evidence,
    GateCheck,
    GatePolicy,
    GateReport,
    LimitResult,
    Outcome,
    default_checks,
)

# -------------------------------------------------------------------------------------------------------- pooled checks
# Suites that measure the same thing move together from model to model, so a slope converts one metric into the other.
# Facts state the slopes of published boards, and `slopes_of` estimates them from the user's own cards.


UNKNOWN_DIRECTION = "it is unknown whether more or less is better; state higher_is_better in the check"
FEWEST_MODELS = 5
"""With fewer models on both boards the slope could be half or twice the one printed."""


def pooled_difference(check: GateCheck, rows: Sequence[Difference]) -> tuple[Difference | None, str | None]:
    """Return the pooled difference, and a note if the suites disagree. It is None if they cannot be pooled.

    `rows` are those of the check's suites, in their order. `first` and `other` are the values of the first suite, and
    `value` is the pooled difference.
    """
    unit = rows[0].metric
    slopes = [_slope(check, suite, row.metric, unit) for suite, row in zip(check.pooled, rows, strict=True)]
    directions = {row.higher_is_better if row.higher_is_better is not None else check.higher_is_better for row in rows}
    if {True, False} <= directions:
        return None, "more is better of one suite's metric and less of another's, so a slope above 0 cannot join them"
    if None in directions:
        return None, UNKNOWN_DIRECTION
    known_slopes = [slope for slope in slopes if slope is not None]
    if len(known_slopes) < len(slopes):
        unknown = [check.pooled[number] for number, slope in enumerate(slopes) if slope is None]
        return None, f"no slope of {', '.join(unknown)} is known; state it in the check (`harness gate slopes`)"
    if not all(row.estimate().varies for row in rows):
        return None, "a suite's questions all have the same difference, so it has no weight"
    estimates = [row.estimate() for row in rows]
    estimate, p = pooled(estimates, known_slopes), disagreement(estimates, known_slopes)
    values = ", ".join(f"{row.value / slope:+.2f}" for row, slope in zip(rows, known_slopes, strict=True))
    note = f"its suites disagree, so look at each: {values} in points of {unit} (p {p:.2g})" if p < ALPHA else None
    low, high = estimate.interval()
    update = {
        "category": None,
        "value": estimate.value,
        "ci_low": low,
        "ci_high": high,
        "se": estimate.se,
        "df": int(estimate.df),
        "p": estimate.p_two_sided(),
        "p_adjusted": None,
        "detectable": detectable(estimate.se, alpha=ALPHA / 2),
        "needed": None,
        "n": estimate.n,
        "correlation": None,
        "method": "pooled",
    }
    return rows[0].model_copy(update=update), note


def _slope(check: GateCheck, suite: str, metric: str, unit: str) -> float | None:
    """Return the points of a suite's metric per point of the first suite's, or None if it is unknown."""
    if suite == check.pooled[0]:
        return 1.0
    if suite in check.slopes:
        return check.slopes[suite]
    slope, slope_of_unit = facts_of(suite).metric(metric).slope, facts_of(check.pooled[0]).metric(unit).slope
    return None if slope is None or slope_of_unit is None else slope / slope_of_unit


class Slope(Record):
    """How two suites' headlines move together over models."""

    first: str
    second: str
    first_metric: str
    second_metric: str
    models: int
    slope: float
    """Points of the second per point of the first: the ratio of their standard deviations."""
    correlation: float
    """On the logit scale. Below about 0.9 the suites measure different things, and pooling them hides a loss."""
    stated: float | None
    """The slope that the facts state; None: none."""


def slopes_of(cards: Iterable[ScoreCard]) -> list[Slope]:
    """Return the slope of each pair of suites with `FEWEST_MODELS` models in common, of percentages only.

    Cards of one suite count only if they have its most frequent protocol, and the last of a model's cards.
    """
    by_board: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for card in cards:
        value = card.scores[card.headline].value
        if card.complete and value is not None and facts_of(card.suite).metric(card.headline).unit == "percent":
            by_board[card.suite, card.protocol_sha][card.model] = value
    boards: dict[str, dict[str, float]] = {}
    for (suite, _), values in by_board.items():
        if len(values) > len(boards.get(suite, ())):
            boards[suite] = values
    rows = []
    for first, second in combinations(boards, 2):
        models = sorted(boards[first].keys() & boards[second].keys())
        scores = [np.array([boards[suite][model] for model in models], float) for suite in (first, second)]
        if len(models) < FEWEST_MODELS or not all(np.ptp(board) for board in scores):
            continue
        slope, correlation = slope_between(scores[0], scores[1])
        metrics = [facts_of(suite).metric(facts_of(suite).headline) for suite in (first, second)]
        has_stated = metrics[0].slope is not None and metrics[1].slope is not None
        rows.append(
            Slope(
                first=first,
                second=second,
                first_metric=metrics[0].name,
                second_metric=metrics[1].name,
                models=len(models),
                slope=slope,
                correlation=correlation,
                stated=(metrics[1].slope or 0.0) / (metrics[0].slope or 1.0) if has_stated else None,
            )
        )
    return rows


# --------------------------------------------------------------------------------------------------------- the decision


def checks_of(policy: GatePolicy, cards: Mapping[str, ScoreCard | None]) -> tuple[GateCheck, ...]:
    """Return the policy's checks, or the default checks of these suites. `cards` are the baseline's."""
    margins = {suite: card.margin for suite, card in cards.items() if card is not None and card.margin is not None}
    return policy.checks or default_checks(list(cards), margins)


def judge_gate(
    candidate: str, baseline: str, policy: GatePolicy, evidence: Mapping[str, Evidence], notes: Sequence[str] = ()
) -> GateReport:
    """Return the gate's report on `evidence`, per suite."""
    checks = checks_of(policy, {suite: suite_evidence.baseline for suite, suite_evidence in evidence.items()})
    results = _multiplicity([_checked(check, evidence, policy) for check in checks], policy)
    results = [_sequenced(result, evidence.get(result.suite)) for result in results]
    limits = [
        row
        for suite, suite_evidence in evidence.items()
        for row in _limits(suite, suite_evidence, policy, candidate, baseline)
    ]
    outcome, reasons = _verdict(results, limits, evidence, policy)
    return GateReport(
        candidate=candidate,
        baseline=baseline,
        outcome=outcome,
        reasons=tuple(reasons),
        checks=tuple(results),
        limits=tuple(limits),
        notes=(*notes, *_check_notes(results, evidence), *_anchor_notes(results, evidence)),
        policy=policy,
    )


def _checked(check: GateCheck, evidence: Mapping[str, Evidence], policy: GatePolicy) -> CheckResult:
    """Return the check's result by itself, before the correction for several checks."""
    metric, row, parts, note = _compared(check, evidence)
    missing = CheckResult(
        suite=check.label,
        metric=metric,
        category=check.category,
        tier=check.tier,
        margin=check.margin,
        found="missing",
        floor=check.floor,
        note=note,
    )
    if row is None:
        return missing
    if row.higher_is_better is None and check.higher_is_better is None:
        return missing.model_copy(update={"note": UNKNOWN_DIRECTION})
    if row.higher_is_better is None:
        row = row.model_copy(update={"higher_is_better": check.higher_is_better})
    is_audited = any(_is_audited(evidence.get(suite)) for suite in check.suites)
    design = _design(check, row, policy, can_plan=not is_audited and all(part.method in PLANNED for part in parts))
    # a benchmark that scores by itself may not state how many questions it asked
    if 0 < min(part.n for part in parts) < check.min_questions:
        design = replace(design, too_few=check.min_questions)
    return _result(missing, check, row, evidence.get(check.suite), policy, design)


def _result(
    missing: CheckResult,
    check: GateCheck,
    row: Difference,
    evidence: Evidence | None,
    policy: GatePolicy,
    design: _Design,
) -> CheckResult:
    """Return the result of a check that has a difference. `missing` is its result without one."""
    less_is_better = row.higher_is_better is False
    estimate = row.estimate().mirrored if less_is_better else row.estimate()
    judged = non_inferiority(estimate, check.margin, alpha=policy.alpha, strict=policy.strict)
    # too few questions decide the floor no more than the difference
    floor = None if evidence is None or design.too_few is not None else _floor(check, row, evidence, policy)
    out_of_reach = not policy.strict and _is_out_of_reach(check, row)
    answer = judged.answer
    if out_of_reach and answer == "safe" and judged.lower < 0:
        answer = "undecided"  # a candidate that loses everything would be safe too
    # built by the constructor rather than by model_copy, which would accept a misspelt field
    return CheckResult(
        suite=missing.suite,
        metric=missing.metric,
        category=missing.category,
        tier=missing.tier,
        margin=missing.margin,
        found=answer if design.too_few is None else "undecided",
        difference=row,
        plain=_plain(row, evidence) if row.method == "adjusted" else None,
        lower=None if less_is_better else judged.lower,
        upper=-judged.lower if less_is_better else None,
        p_safe=judged.p_safe,
        p_worse=judged.p_worse,
        resolvable=design.resolvable,
        needed=design.needed,
        repeats=None if evidence is None else _repeats(row, check, evidence, policy),
        more_draws=design.more_draws,
        too_few=design.too_few,
        out_of_reach=out_of_reach,
        floor=missing.floor,
        above_floor=None if floor is None else floor.is_above,
        p_floor=None if floor is None else floor.p,
        note=missing.note,
    )


def _is_out_of_reach(check: GateCheck, row: Difference) -> bool:
    """Return whether the baseline is within the margin of the worst possible score."""
    if check.pooled or row.higher_is_better is None:
        return False
    lowest, highest = _ends(check.suite, row)
    return (row.first - lowest if row.higher_is_better else highest - row.first) <= check.margin


def _ends(suite: str, row: Difference) -> Bounds:
    """Return the lowest and highest score that the metric can have, infinite if unknown."""
    if row.bounds is not None:
        return row.bounds
    unit = facts_of(suite).metric(row.metric).unit
    if unit == "percent":
        return 0.0, 100.0
    # lm-eval's metrics may be of any kind; of those between 0 and 1, more of which is better, 0 is the lowest
    in_unit = all(0 <= value <= 1 for value in (row.first, row.other))
    is_share = unit == "share" and row.higher_is_better and in_unit
    return (0.0 if is_share else -math.inf), math.inf


PLANNED = ("paired", "refitted", "unpaired", "direct")
"""Differences whose error falls with the root of the questions. That of an adjusted one, or of an audit, does not, and
more questions would not be these very questions."""


@dataclass(frozen=True)
class _Design:
    """What these questions can decide, and how many would decide at the check's margin."""

    resolvable: float | None = None
    """The smallest margin at which an equal model passes; None: the questions do not vary."""
    needed: int | None = None
    """Questions; None: unknown, or more questions would be other questions."""
    more_draws: float | None = None
    """How many times the draws per question, for the population "these"."""
    too_few: int | None = None
    """The check's `min_questions`, if a suite has fewer common ones."""


def _design(check: GateCheck, row: Difference, policy: GatePolicy, *, can_plan: bool) -> _Design:
    if not row.estimate().varies or row.n == 0:
        return _Design()
    resolvable = detectable(row.se, alpha=policy.alpha, power=policy.power)
    if row.method == "within":
        # the error falls with the root of the draws
        return _Design(resolvable, more_draws=(resolvable / check.margin) ** 2)
    if not can_plan:
        return _Design(resolvable)
    return _Design(resolvable, required_n(row.n, row.se, check.margin, alpha=policy.alpha, power=policy.power))


def _suite_row(check: GateCheck, evidence: Evidence | None) -> tuple[str, Difference | None, str | None]:
    """Return the metric with its difference, or with the reason why there is none, if it is known."""
    if evidence is None or evidence.comparison is None:
        return check.metric or "headline", None, None if evidence is None else evidence.note
    metric = metric_of(check, evidence.comparison)
    # early looks were made at the plain difference, so an adjusted one beside their verdict would contradict it
    choose = evidence.comparison.difference if metric in evidence.steps else evidence.comparison.deciding
    row = choose(metric, check.category)
    if row is not None:
        return metric, row, None
    shared_metrics = sorted({row.metric for row in evidence.comparison.differences if row.category == check.category})
    note = f"both runs have {', '.join(shared_metrics)}" if shared_metrics else None
    if _has(evidence.baseline, metric, check.category) and _has(evidence.candidate, metric, check.category):
        note = "one of the cards has no standard error of it, so the difference cannot be judged"
        if evidence.comparison.population == "these":
            advice = f"check {', '.join(shared_metrics)}"
            note = f"it is not a sum over questions, so the population these cannot judge it; {advice}"
    return metric, None, note


def _compared(
    check: GateCheck, evidence: Mapping[str, Evidence]
) -> tuple[str, Difference | None, list[Difference], str | None]:
    """Return the metric, its difference, the differences of the suites that it is made of, and a note.

    Of a pooled check it is one difference in the unit of the first suite's metric.
    """
    if not check.pooled:
        metric, row, note = _suite_row(check, evidence.get(check.suite))
        return metric, row, [] if row is None else [row], note
    rows = []
    for suite in check.pooled:
        single = GateCheck(suite=suite, metric=check.metric if suite == check.pooled[0] else None, margin=check.margin)
        metric, row, note = _suite_row(single, evidence.get(suite))
        if row is None:
            note = f"{suite} {metric}" + ("" if note is None else f", {note}")
            return check.metric or "headline", None, [], note
        rows.append(row)
    pooled_row, note = pooled_difference(check, rows)
    return rows[0].metric, pooled_row, rows, note


def _is_audited(evidence: Evidence | None) -> bool:
    cards = [] if evidence is None else [evidence.baseline, evidence.candidate]
    return any(card is not None and card.judging is not None and card.judging.audit is not None for card in cards)


def _plain(row: Difference, evidence: Evidence | None) -> Difference | None:
    return None if evidence is None or evidence.comparison is None else evidence.comparison.difference(row.metric)


def _check_notes(results: Sequence[CheckResult], evidence: Mapping[str, Evidence]) -> list[str]:
    """Return one sentence per check that an adjusted estimate decides, or whose pooled suites disagree."""
    notes = []
    for result in results:
        comparison = evidence[result.suite].comparison if result.suite in evidence else None
        row = None if comparison is None or result.plain is None else comparison.adjustment(result.metric)
        if row is not None and result.plain is not None:
            notes.append(f"{named(result)}: {adjustment_line(row, result.plain)}")
        if result.note is not None and result.difference is not None:
            notes.append(f"{named(result)}: {result.note}")
    return notes


def _anchor_notes(results: Sequence[CheckResult], evidence: Mapping[str, Evidence]) -> list[str]:
    """Return a sentence for each suite whose anchors would not notice that the judge moved by a check's margin."""
    notes = []
    for suite, suite_evidence in evidence.items():
        cards = [card for card in (suite_evidence.baseline, suite_evidence.candidate) if card is not None]
        anchors = [anchor for card in cards if card.judging is not None for anchor in card.judging.anchors.values()]
        blind = [
            (anchor.detectable, result.margin, anchor.n)
            for result in results
            for anchor in anchors
            if result.suite.partition("+")[0] == suite  # a pooled margin is in points of the first suite
            and result.tier != "advisory"
            and facts_of(suite).metric(result.metric).unit == anchor.unit
            and anchor.detectable is not None
            and anchor.detectable > result.margin
        ]
        if blind:
            shift, margin, count = max(blind)
            notes.append(
                f"{suite}: {count} anchors notice a move of the judge from {shift:.3g} points on, more than the margin "
                f"of {margin:g}, so a smaller move could pass for a difference between the models; about "
                f"{math.ceil(count * (shift / margin) ** 2)} anchors notice one of {margin:g}"
            )
    return notes


def _has(card: ScoreCard | None, metric: str, category: str | None) -> bool:
    scores = {} if card is None else card.scores if category is None else card.by_category.get(category, {})
    return metric in scores and scores[metric].value is not None


def metric_of(check: GateCheck, comparison: Comparison) -> str:
    """Return the check's metric: `acc` also names `acc,FILTER` if both runs have it with only one filter."""
    if check.metric is None:
        return comparison.headline
    names = {row.metric for row in comparison.differences if row.category == check.category}
    filtered = sorted(name for name in names if name.partition(",")[0] == check.metric)
    return filtered[0] if len(filtered) == 1 and check.metric not in names else check.metric


def _repeats(row: Difference, check: GateCheck, evidence: Evidence, policy: GatePolicy) -> int | None:
    noise = evidence.noise.get(row.metric)
    if noise is None:
        return None
    # the variance of one question's difference, without what the repeats of these runs have left of the judges' noise
    between = max(0.0, row.se**2 * row.n - noise.included)
    return required_repeats(between, noise.single, row.n, check.margin, alpha=policy.alpha, power=policy.power)


@dataclass(frozen=True)
class _FloorTest:
    """Whether the candidate's own score reaches the check's floor."""

    is_above: bool | None
    """None: its one-sided bounds are on both sides of the floor."""
    p: float
    """Of "the candidate does not reach the floor"."""


def _floor(check: GateCheck, row: Difference, evidence: Evidence, policy: GatePolicy) -> _FloorTest | None:
    """Return the test of the floor, or None if the check has no floor or the candidate no standard error."""
    card = evidence.candidate
    scores = None if card is None else card.scores if check.category is None else card.by_category.get(check.category)
    score = None if scores is None else scores.get(row.metric)
    if check.floor is None or score is None or score.value is None or score.se is None:
        return None
    if not score.se and row.bounds is None:
        return None  # nothing varies, so its error is unknown
    estimate, floor = _own_estimate(score.value, score.se, row), check.floor
    if row.higher_is_better is False:
        estimate, floor = estimate.mirrored, -floor
    is_above = None
    if estimate.lower(policy.alpha) >= floor:
        is_above = True
    elif estimate.upper(policy.alpha) < floor:
        is_above = False
    return _FloorTest(is_above, estimate.p_above(floor))


def _own_estimate(value: float, se: float, row: Difference) -> ClusteredEstimate:
    """Return the candidate's own score for one-sided bounds, by the rule of its two-sided interval.

    With bounds: the centre of the score and two pseudo-questions, one at each (`paired.ratio_interval`). Of 20 right
    answers, the bounds around the score itself would pass a floor of 92 % for a model that is right in 92 % in a fifth
    of cases.
    """
    if row.method in ("refitted", "unpaired"):
        return ClusteredEstimate(value, se, 0, row.n)
    if row.bounds is None:
        return ClusteredEstimate(value, se, row.n - 1, row.n)
    scores = np.array([*[value] * row.n, *row.bounds])
    # an imported card's own error may be of its questions alone
    least = float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return ClusteredEstimate(float(scores.mean()), max(se, least), row.n + 1, row.n)


def _multiplicity(results: list[CheckResult], policy: GatePolicy) -> list[CheckResult]:
    """Adjust `p_worse` within each tier. A check that was worse by itself may become undecided."""
    adjusted = list(results)
    for tier in ("critical", "supporting", "advisory"):
        numbers = [index for index, result in enumerate(adjusted) if result.tier == tier and result.p_worse is not None]
        adjust = benjamini_hochberg if tier == "advisory" else holm
        for index, p in zip(numbers, adjust([adjusted[index].p_worse or 0.0 for index in numbers]), strict=True):
            finding: CheckFinding = adjusted[index].found
            if finding == "worse" and p > policy.alpha:
                finding = "undecided"
            adjusted[index] = adjusted[index].model_copy(update={"p_worse": p, "found": finding})
    return adjusted


def _sequenced(result: CheckResult, evidence: Evidence | None) -> CheckResult:
    """Let the group-sequential test decide if judging could stop early. After looks, a fixed-n test is not valid."""
    step = None if evidence is None else evidence.steps.get(result.metric)
    if step is None or result.category is not None or result.found == "missing" or result.too_few is not None:
        return result
    if result.out_of_reach and step == "safe":  # an early look is no safer than the last
        return result
    finding: CheckFinding = "undecided" if step == "open" else step
    return result.model_copy(update={"found": finding})


def _limits(suite: str, evidence: Evidence, policy: GatePolicy, candidate: str, baseline: str) -> list[LimitResult]:
    if evidence.candidate is None:
        return []
    limits = policy.limits
    if evidence.baseline is None:  # games: one run, whose answers are limited in the runs that they come from
        return [
            LimitResult(suite=suite, name=name, run=candidate, value=value, limit=limit, kept=value <= limit)
            for name, value, limit in (
                ("unscored", unscored_share(evidence.candidate.scores[evidence.candidate.headline]), limits.unscored),
                ("judge_failures", judge_failures(evidence.candidate), limits.judge_failures),
            )
            if value is not None and limit is not None
        ]
    truncated, baseline_truncated = truncated_share(evidence.candidate), truncated_share(evidence.baseline)
    rise = None if truncated is None or baseline_truncated is None else truncated - baseline_truncated
    shares: list[tuple[str, str, float | None, float | None]] = [
        entry
        for run, card in ((candidate, evidence.candidate), (baseline, evidence.baseline))
        for entry in (
            ("unscored", run, unscored_share(card.scores[card.headline]), limits.unscored),
            ("judge_failures", run, judge_failures(card), limits.judge_failures),
        )
    ]
    # a run without an empty answer gets no row
    shares += [
        ("empty", candidate, evidence.candidate.empty_share or None, limits.empty),
        ("empty_baseline", baseline, evidence.baseline.empty_share or None, limits.empty),
    ]
    shares += [
        ("truncated", candidate, truncated, limits.truncated),
        ("truncated_rise", candidate, rise, limits.truncated_rise),
    ]
    return [
        LimitResult(suite=suite, name=name, run=run, value=value, limit=limit, kept=value <= limit)
        for name, run, value, limit in shares
        if value is not None and limit is not None
    ]


def _exceeded(limits: Sequence[LimitResult], *, names: Collection[str]) -> list[str]:
    return [
        f"{limit.suite}: {limit.name} {limit.value:.1%} of {limit.run}, over the limit of {limit.limit:.1%}"
        for limit in limits
        if not limit.kept and limit.name in names
    ]


def truncated_share(card: ScoreCard) -> float | None:
    truncated, answers = card.counts.get("truncated"), card.counts.get("answers")
    if not isinstance(truncated, int) or not isinstance(answers, int) or not answers:
        return None
    return truncated / answers


def named(result: CheckResult) -> str:
    detail = result.category or ("adjusted" if result.plain is not None else None)
    return f"{result.suite} {result.metric}" + (f" ({detail})" if detail else "")


def _verdict(
    results: Sequence[CheckResult], limits: Sequence[LimitResult], evidence: Mapping[str, Evidence], policy: GatePolicy
) -> tuple[Outcome, list[str]]:
    invalid = [
        missing_sentence(result) for result in results if result.found == "missing" and result.tier != "advisory"
    ]
    invalid += [] if results else ["no check: the policy names none, and there is no default for these suites"]
    invalid += _exceeded(limits, names=("unscored", "judge_failures", "empty_baseline"))
    if invalid:
        return "invalid", invalid
    failed = _failures(results, limits, policy)
    drifted = [suite_evidence.drifted for suite_evidence in evidence.values() if suite_evidence.drifted is not None]
    if drifted:  # a difference may be caused by the judge: neither a pass nor a fail can be trusted
        return "inconclusive", drifted + failed
    if failed:
        return "fail", failed
    critical = [result for result in results if result.tier == "critical"]
    undecided = [sentence(result, policy) for result in critical if result.found == "undecided"]
    undecided += [
        f"{named(result)}: it is undecided whether the candidate reaches the {floor_word(result)} of {result.floor:g}"
        for result in critical
        if result.floor is not None and result.above_floor is None
    ]
    if undecided:
        return "inconclusive", undecided
    return "pass", [sentence(result, policy) for result in critical] or ["no critical check"]


def _failures(results: Sequence[CheckResult], limits: Sequence[LimitResult], policy: GatePolicy) -> list[str]:
    deciding = [result for result in results if result.tier != "advisory"]
    failed = [_failure(result, policy) for result in deciding if result.found == "worse"]
    failed += [
        f"{named(result)}: {'above' if result.less_is_better else 'below'} the {floor_word(result)} of {result.floor:g}"
        for result in deciding
        if result.above_floor is False
    ]
    return failed + _exceeded(limits, names=("empty", "truncated", "truncated_rise"))


def _failure(result: CheckResult, policy: GatePolicy) -> str:
    assert result.difference is not None, "what is worse was compared"
    loss = f"{named(result)}: {_signed(result)}, a {loss_word(result)}"
    if policy.strict:
        return f"{loss} that is shown (p {result.p_worse:.2g}); the policy is strict, so any fails"
    return f"{loss} beyond the margin of {result.margin:g} (p {result.p_worse:.2g})"


def _signed(result: CheckResult) -> str:
    row = result.difference
    return "-" if row is None else f"{row.value:+.{row.decimals}f}"


def missing_sentence(result: CheckResult) -> str:
    return f"{named(result)}: nothing to compare" + ("" if result.note is None else f": {result.note}")


def loss_word(result: CheckResult) -> str:
    """Return what the margin limits."""
    return "rise" if result.less_is_better else "drop"


def floor_word(result: CheckResult) -> str:
    return "ceiling" if result.less_is_better else "floor"


def sentence(result: CheckResult, policy: GatePolicy) -> str:
    """Return one check as a sentence."""
    if result.difference is None or result.bound is None:
        return missing_sentence(result)
    side, loss = "below" if result.less_is_better else "above", loss_word(result)
    places = result.difference.decimals
    bound = f"{_signed(result)}, with {1 - policy.alpha:.0%} confidence {side} {result.bound:+.{places}f}"
    if result.found == "safe":
        return f"{named(result)}: {bound}: no {loss} of {result.margin:g}"
    if result.found == "worse":
        return _failure(result, policy)
    if result.out_of_reach:
        return (
            f"{named(result)}: {bound}; the baseline's {result.difference.first:.{places}f} is within the margin of "
            f"{result.margin:g} of the {'highest' if result.less_is_better else 'lowest'} score, so no {loss} could "
            "exceed it: set a smaller margin"
        )
    if result.too_few is not None:
        each = " of each suite" if result.difference.method == "pooled" else ""
        return (
            f"{named(result)}: {_signed(result)} on {result.difference.n} questions; under "
            f"{result.too_few}{each} (min_questions of the check) decide nothing"
        )
    if result.difference.ci_low is None and result.difference.method == "within":
        return (
            f"{named(result)}: {_signed(result)}, and the draws of each of {result.difference.n} "
            f"questions agree, too few questions to tell how much they vary; {FEWEST} would"
        )
    if result.difference.ci_low is None:
        return (
            f"{named(result)}: {_signed(result)} on each of {result.difference.n} questions, too few to "
            f"tell how much it varies; {FEWEST} would"
        )
    return f"{named(result)}: {bound}; {_what_decides(result, policy, result.difference.n)}"


def _what_decides(result: CheckResult, policy: GatePolicy, questions: int) -> str:
    """Return what this design can decide, and what would decide at the check's margin.

    Both are about an equal model, because the observed difference is too noisy to plan by.
    """
    loss, row = loss_word(result), result.difference
    if row is not None and row.is_shown and row.gain is not None and row.gain < 0:
        shown = f"a {loss} is shown (p {row.p_shown:.2g}), but not whether it exceeds the margin of {result.margin:g}"
        return shown if policy.strict else f"{shown}; `strict: true` in the policy fails any {loss} that is shown"
    text = f"a {loss} of {result.margin:g} is not ruled out"
    text += f" with {questions} questions" if questions else ""
    # the table's bound is of the test of fixed size
    if result.p_safe is not None and result.p_safe < policy.alpha and not policy.strict:
        return f"{text} after the earlier looks, though one test of as many would rule it out"
    if result.more_draws is not None and result.resolvable is not None and result.more_draws > 1:
        return (
            f"{text}: an equal model passes with these draws at a margin of {result.resolvable:.3g}, and at "
            f"{result.margin:g} with about {result.more_draws:.1f} times as many per question"
        )
    if result.needed is None and result.resolvable is not None and result.resolvable > result.margin:
        return f"{text}: an equal model passes with this design at a margin of {result.resolvable:.3g}"
    if result.needed is None or result.resolvable is None or result.needed <= questions:
        return text
    repeats = f", or {result.repeats} judgments of each question" if result.repeats else ""
    return (
        f"{text}: an equal model passes with them at a margin of {result.resolvable:.3g}, "
        f"and at {result.margin:g} with about {result.needed}{repeats}"
    )
