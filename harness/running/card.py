"""Make the score card of what is in a run's store now: scores, failures by reason, trust, provenance, usage.

An audited run, whose expensive judge saw some questions, has scores on that judge's scale; the estimate is that of
`harness.stats.combined`. Only metrics that are sums over questions have one. What is fitted to all verdicts, such as a
length-controlled rate, stays the cheap judge's and is listed as such, apart from the scores.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from ..judging.anchors import check_anchors
from ..judging.calibrated import Citation, cite
from ..judging.injection import count_injections
from ..judging.jury import Combined, combine
from ..records import (
    MAX_EMPTY,
    AnchorCheck,
    Answer,
    Audit,
    AuditGain,
    JudgeSpending,
    Judging,
    Judgment,
    Prompt,
    Rating,
    Score,
    ScoreCard,
    SuiteScores,
    digest,
)
from ..records.errors import ConfigError
from ..records.facts import facts_of
from ..records.protocols import InParts, Numbers, Suite
from ..records.settings import RunSpec
from ..store import RunStore
from ..store.provenance import provenance
from ..suites.scoring import (
    MIN_SCORED,
    AuditedSums,
    QuestionSums,
    audited_sums,
    incomplete_notes,
    is_complete_card,
    question_sums,
    rules_of,
)
from .pipeline import SuiteRun, current_judgments
from .plan import AuditPlan, Plan, SuitePlan
from .trust import judging, trust_notes

# ------------------------------------------------------------------------------------------------------- audited scores


NOT_VERDICTS = frozenset({"characters", "tokens"})
"""Units of metrics that no judge influences."""


@dataclass(frozen=True)
class AuditedScores:
    """The scores of an audited run."""

    results: SuiteScores
    """On the expensive judge's scale, with notes for the card."""
    headline: str
    audit: Audit
    is_complete: bool
    """Whether the expensive judge gave enough verdicts."""


def audited_scores(
    plan: AuditPlan,
    suite: Suite,
    cheap: SuiteScores,
    sums: Sequence[tuple[QuestionSums, QuestionSums]],
    ends: tuple[float, float],
) -> AuditedScores:
    """Return the scores on the expensive judge's scale, without spending.

    `sums`: the cheap and the expensive side's terms of each metric that has some, the main one first. `ends`: the
    lowest and the highest verdict.
    """
    facts = facts_of(suite.name)
    estimates = {first.metric: audited_sums(first, second) for first, second in sums}
    scores = {metric: _score(estimate, cheap.scores[metric], ends) for metric, estimate in estimates.items()}
    # lengths are of the answers, so the audit changes nothing about them
    lengths = {name: score for name, score in cheap.scores.items() if facts.metric(name).unit in NOT_VERDICTS}
    headline = audited_headline(suite.headline, list(scores))
    audit = Audit(
        judge=plan.name,
        drawn=len(plan.prompt_ids),
        judged=len(set().union(*(set(first.ids) & set(second.ids) for first, second in sums))),
        of=len(set().union(*(first.ids for first, _ in sums))),
        gains={metric: _gain(estimate) for metric, estimate in estimates.items() if estimate is not None},
        cheap={name: score for name, score in cheap.scores.items() if name not in lengths},
        spending={},
    )
    whole = audit.judged >= MIN_SCORED * audit.drawn and scores[headline].value is not None
    results = SuiteScores(scores=scores | lengths, notes=(*cheap.notes, *_notes(audit, suite.headline, headline)))
    return AuditedScores(results, headline, audit, whole)


def audited_headline(headline: str, metrics: Sequence[str]) -> str:
    """Return the metric that ranks an audited card: the suite's own if it is among the `metrics` that are sums."""
    return headline if headline in metrics else metrics[0]


def _score(estimate: AuditedSums | None, cheap: Score, ends: tuple[float, float]) -> Score:
    if estimate is None:
        return Score(value=None, n=0, unscored=cheap.n + cheap.unscored)
    score = Score(value=estimate.sums.value, n=cheap.n, unscored=cheap.unscored)
    return score.with_interval(estimate.ratio.interval(*ends), estimate.sums.scale)


def _gain(estimate: AuditedSums) -> AuditGain:
    ratio = estimate.ratio
    return AuditGain(slope=ratio.slope, correlation=ratio.correlation, effective=ratio.effective)


def _notes(audit: Audit, own_headline: str, headline: str) -> list[str]:
    notes = [f"audited: scores are on the scale of {audit.judge}, which judged {audit.judged} of {audit.of} questions"]
    gain = audit.gains.get(headline)
    if gain is not None:
        notes[0] += f"; the interval is that of {gain.effective:.0f} questions judged by it alone"
    if audit.judged < audit.drawn:
        notes.append(f"audit: {audit.drawn - audit.judged} of {audit.drawn} questions lack a verdict of {audit.judge}")
    if headline != own_headline:
        notes.append(
            f"{own_headline} cannot be audited, because it is not a sum over questions; the headline is {headline}"
        )
    return notes


def spending_by_judge(store: RunStore, names: Iterable[str]) -> dict[str, JudgeSpending]:
    """Return what the verdicts of each of these judges took."""
    spent = {name: store.spending(name) for name in names}
    return {
        name: JudgeSpending(calls=spending.calls, paid=round(sum(spending.paid), 6) if spending.paid else None)
        for name, spending in spent.items()
    }


# ------------------------------------------------------------------------------------------------------------- the card


NOT_MEASURED = {"name", "same_model", "results", "mirror", "cache", "max_cost", "transport", "anchors"}
"""Settings that say where and how a run is made; no score depends on them, so the card's `config` leaves them out."""


def score_card(plan: Plan, run: SuiteRun, environment: dict[str, JsonValue]) -> ScoreCard:
    """Return the card of what is in the store now. `environment`: versions and git state, from `provenance()`.

    Raise ConfigError if the suite does not compute its own headline.
    """
    suite_plan, suite, spec = run.plan, run.plan.suite, plan.spec
    prompt_ids = {prompt.id for prompt in suite_plan.prompts}
    answers = [answer for answer in run.store.answers.all() if answer.prompt_id in prompt_ids]
    rows = current_judgments(answers, run.store.judgments.all())
    judgments = sorted(rows, key=lambda row: row.key)  # the order of arrival must not change a score's last digit
    anchor_rows = sorted(run.store.anchors.all(), key=lambda row: row.key)
    auditor = suite_plan.audit and suite_plan.audit.name
    main_rows = [row for row in judgments if row.judge != auditor]
    combined = None if suite_plan.jury is None else combine(main_rows, suite_plan.jury)
    scored = main_rows if combined is None else combined.judgments  # the suite sees one verdict per task
    results = suite.score(suite_plan.prompts, answers, scored)
    _check_headline(results, suite.headline, suite.name)
    anchors = _anchor_checks(suite_plan, anchor_rows)
    trust = _trust(suite_plan, answers, main_rows, combined).model_copy(update={"anchors": anchors})
    headline, complete = suite.headline, is_complete_card(suite.name, suite.headline, results.scores)
    if suite_plan.audit is not None:
        audited = _audited(suite_plan, results, answers, scored, [row for row in judgments if row.judge == auditor])
        results, headline = audited.results, audited.headline
        complete = is_complete_card(suite.name, headline, results.scores) and audited.is_complete
        spending = spending_by_judge(run.store, [judge.spec.name for judge in suite_plan.judges])
        trust = trust.model_copy(update={"audit": audited.audit.model_copy(update={"spending": spending})})
    # a calibration is on the benchmark's own questions, and says nothing of the pocket edition's
    citation = cite(spec.results, suite.name, suite_plan.scale) if spec.edition == "official" else None
    notes = (
        *suite_plan.differences(),
        *results.notes,
        *dict.fromkeys(judge.spec.note for judge in suite_plan.judges if judge.spec.note),
        *_answer_notes(plan, suite_plan, answers),
        *trust_notes(trust),
        *([] if citation is None else [citation.note]),
        *incomplete_notes(suite.name, headline, results.scores),
    )
    return ScoreCard(
        suite=suite.name,
        suite_version=suite.version,
        model=spec.model.label,
        judge=suite_plan.judge_label,
        headline=headline,
        complete=complete,
        protocol=suite_plan.protocol,
        sampling=_settings(suite_plan),
        scores=results.scores,
        by_category=results.by_category,
        counts=count(suite_plan.prompts, answers, judgments),
        notes=notes,
        margin=getattr(suite, "margin", None),
        judging=trust,
        provenance={**environment, **_provenance(plan, run, citation)},
        usage=_usage(run.store, answers, [*judgments, *anchor_rows]),
    )


def _audited(
    plan: SuitePlan,
    results: SuiteScores,
    answers: Sequence[Answer],
    judgments: Sequence[Judgment],
    audit_judgments: Sequence[Judgment],
) -> AuditedScores:
    """Return the scores of an audited run. `judgments`: the cheap side's, a jury's as combined."""
    assert plan.audit is not None, "only audited runs come here"
    categories = {prompt.id: prompt.category for prompt in plan.prompts}
    rules = rules_of(plan.suite.name, plan.suite.headline, judgments)
    sides = (judgments, audit_judgments)
    sums = [tuple(question_sums(rule, answers, side, categories=categories) for side in sides) for rule in rules]
    verdict = next((row.verdict for row in audit_judgments if row.verdict is not None), None)
    # the interval ends where the scale does; a preference is a share of a point
    ends = (verdict.low, verdict.high) if isinstance(verdict, Rating) else (0.0, 1.0)
    return audited_scores(plan.audit, plan.suite, results, [(first, second) for first, second in sums], ends)


def numbers_card(model: str, numbers: Numbers, run_id: str, identity: dict[str, JsonValue]) -> ScoreCard:
    """Return the card of results without a pipeline. Raise ConfigError if the headline is not among them."""
    _check_headline(numbers.scores, numbers.headline, numbers.suite)
    scores = numbers.scores.scores
    return ScoreCard(
        suite=numbers.suite,
        suite_version=numbers.suite_version,
        model=model,
        judge=numbers.judge,
        headline=numbers.headline,
        complete=is_complete_card(numbers.suite, numbers.headline, scores),
        protocol=numbers.protocol,
        sampling={"answer_settings": "unknown"},
        scores=scores,
        by_category=numbers.scores.by_category,
        counts=numbers.counts,
        notes=(*numbers.scores.notes, *incomplete_notes(numbers.suite, numbers.headline, scores)),
        higher_is_better=dict(numbers.higher_is_better),
        judging=numbers.judging,
        provenance={**provenance(), "model": identity, "run_id": run_id},
    )


def _check_headline(results: SuiteScores, metric: str, suite: str) -> None:
    if metric not in results.scores:
        names = ", ".join(results.scores) or "none"
        raise ConfigError(f"suite {suite!r} has no score named {metric!r}, its headline; its scores: {names}")


def _provenance(plan: Plan, run: SuiteRun, citation: Citation | None) -> dict[str, JsonValue]:
    spec, anchors = plan.spec, run.plan.anchors
    return {
        "model": plan.identity,
        "run_id": run.store.folder.name,
        "config": _config_digest(spec),
        "seed": spec.seed,
        **_weights_apart(plan),
        **({} if anchors is None else {"anchors": anchors.sha}),  # not in the protocol: they change no score
        **({} if citation is None else {"calibration": citation.provenance}),
        **({} if plan.fusion is None else {"fusion": plan.fusion.model_dump(mode="json")}),
    }


def _weights_apart(plan: Plan) -> dict[str, JsonValue]:
    """Return the digests of an adapter and of its base. The identity has that of both together."""
    digests = plan.backend.parts() if isinstance(plan.backend, InParts) else {}
    return {"weights": digests} if digests else {}


def _config_digest(spec: RunSpec) -> str:
    settings = spec.model_dump(mode="json", exclude=NOT_MEASURED)
    # an option of earlier versions: digests of runs that change nothing about reasoning stay what they were
    return digest(settings | {"serve": {"reasoning_parser": None} | settings["serve"]})[:12]


def _answer_notes(plan: Plan, suite_plan: SuitePlan, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Return the notes on how the answers are, one sentence per rule that applies."""
    return (
        *injection_notes(answers),
        *slot_notes(suite_plan, answers),
        *_thinking_notes(plan.identity),
        *reasoning_notes(answers),
        *empty_notes(answers),
        *_long_notes(suite_plan, answers),
    )


def injection_notes(answers: Sequence[Answer]) -> list[str]:
    """Return one sentence if answers speak to the judge, else nothing."""
    counts = count_injections(answers)
    if not counts.suspect:
        return []
    share = f"{counts.suspect} of {counts.answers} answers hold words that could lead a judge (injection)"
    return [f"{share}: harness judge injections shows which"]


def slot_notes(plan: SuitePlan, answers: Sequence[Answer]) -> list[str]:
    """Return one sentence if filling the judge's prompt as the original tool does would change it, else nothing."""
    prompts = {prompt.id: prompt for prompt in plan.prompts}
    count = sum(
        any(task.names_slots for task in plan.suite.tasks(prompts[answer.prompt_id], answer))
        for answer in answers
        if any("{" in text for text in answer.turns)
    )
    if not count:
        return []
    answer = "an answer names" if count == 1 else f"{count} answers name"
    if plan.strict:
        return [f"strict reference: {answer} a slot of the judge's prompt, which is filled there, as the original does"]
    return [
        f"deviation: {answer} a slot of the judge's prompt, which stays text; the original tool would fill it "
        "(--strict-reference)"
    ]


def _thinking_notes(identity: dict[str, JsonValue]) -> list[str]:
    """Return one sentence if the user changed how the candidate thinks, else nothing."""
    switches = identity.get("thinking")
    if not isinstance(switches, dict):
        return []
    changes = ", ".join(f"{name} {json.dumps(value)}" for name, value in switches.items())
    return [f"the candidate's reasoning is not as its checkpoint has it: {changes}"]


def reasoning_notes(answers: Sequence[Answer]) -> list[str]:
    """Return one sentence if reasoning was split off answers' texts, else nothing."""
    split = sum(answer.is_split for answer in answers)
    good = sum(answer.error is None for answer in answers)
    text = f"{split} of {good} answers had reasoning in their text; it was split off by its marks"
    return [text] * (split > 0)


def empty_notes(answers: Sequence[Answer]) -> list[str]:
    """Return one sentence if more than MAX_EMPTY of the answers show the reader nothing, else nothing."""
    good = [answer for answer in answers if answer.error is None]
    empty, cut = sum(answer.is_blank for answer in good), sum(answer.is_cut_in_reasoning for answer in good)
    if empty <= MAX_EMPTY * len(good):
        return []
    why = f", {cut} of them cut in their reasoning (--reasoning-room gives it tokens of its own)" if cut else ""
    return [f"{empty} of {len(good)} answers are empty{why}: not ranked without --rank-incomplete"]


def _long_notes(plan: SuitePlan, answers: Sequence[Answer]) -> list[str]:
    """Return one sentence if answers used the room of their reasoning to exceed the suite's own limit."""
    limits = {prompt.id: plan.sampling(prompt).max_tokens * len(prompt.turns) for prompt in plan.prompts}
    longer = sum((answer.visible_tokens or 0) > limits[answer.prompt_id] for answer in answers)
    return [f"{longer} answers are longer than the benchmark allows, in tokens reserved for reasoning"] * (longer > 0)


def _trust(
    plan: SuitePlan, answers: Sequence[Answer], judgments: Sequence[Judgment], combined: Combined | None
) -> Judging:
    suite = plan.suite
    rules = rules_of(suite.name, suite.headline, judgments)
    metric = suite.headline
    if plan.audit is not None:
        metric = audited_headline(metric, [rule.metric for rule in rules])
    return judging(
        judgments,
        combined,
        repeats=plan.repeats,
        rule=rules[0],
        categories={prompt.id: prompt.category for prompt in plan.prompts},
        headline=lambda rows: suite.score(plan.prompts, answers, rows).scores[metric],
    )


def _anchor_checks(plan: SuitePlan, rows: Sequence[Judgment]) -> dict[str, AnchorCheck]:
    """Return judge -> check of this plan's anchors. Rows of other anchors in this folder are ignored."""
    if plan.anchors is None:
        return {}
    return {name: check_anchors(plan.anchors, identity, rows) for name, identity in plan.identities.items()}


def _settings(plan: SuitePlan) -> dict[str, JsonValue]:
    """Return the answer settings in use: one entry if all prompts share them, else one per category."""
    by_category = {prompt.category: plan.sampling(prompt).model_dump(mode="json") for prompt in plan.prompts}
    distinct = {digest(settings) for settings in by_category.values()}
    return next(iter(by_category.values())) if len(distinct) == 1 else dict(by_category)


def count(prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, JsonValue]:
    """Return the numbers of prompts, answers, truncations, judgments, and failures by reason.

    A failure is counted, never scored. `judgments` are those of every member of a jury and every repeat.
    """
    unanswered = Counter(answer.error.reason for answer in answers if answer.error is not None)
    unjudged = Counter(row.error.reason for row in judgments if row.error is not None)
    flags = Counter(flag for row in judgments for flag in row.flags)
    return {
        "prompts": len(prompts),
        "answers": sum(answer.error is None for answer in answers),
        "truncated": sum(answer.truncated for answer in answers),
        "empty": sum(answer.is_blank for answer in answers),
        **_reasoning_counts(answers),
        "unanswered": dict(sorted(unanswered.items())),
        "judgments": sum(row.verdict is not None for row in judgments),
        "unjudged": dict(sorted(unjudged.items())),
        "flags": dict(sorted(flags.items())),
    }


def _reasoning_counts(answers: Sequence[Answer]) -> dict[str, JsonValue]:
    """Return the answers with reasoning and those cut in it, if there are any."""
    reasoned = sum(any(answer.reasoning) for answer in answers)
    cut = sum(answer.is_cut_in_reasoning for answer in answers)
    counts: dict[str, JsonValue] = {"with_reasoning": reasoned, "cut_in_reasoning": cut}
    return {name: number for name, number in counts.items() if number}


def _usage(store: RunStore, answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, JsonValue]:
    """Return tokens and dollars of the rows, and seconds and tokens per second of the sessions that ended normally.

    `judgment_cost` is what these verdicts cost when they were first requested. `judgment_paid` and `judgment_calls` are
    what this run spent: rows that were retried count too, replies from the cache do not.
    """
    costs = [row.cost for row in judgments if row.cost is not None]
    spending = store.spending()
    sessions = store.sessions()
    total: Counter[str] = Counter()
    for session in sessions:
        total.update({key: value for key, value in session.items() if isinstance(value, int | float)})
    seconds = total["answer_seconds"]  # without the start of the server, which would make short runs look slow
    return {
        "answer_prompt_tokens": sum(sum(answer.prompt_tokens) for answer in answers),
        "answer_completion_tokens": sum(sum(answer.completion_tokens) for answer in answers),
        **_reasoning_tokens(answers),
        **member_usage(answers),
        "judgment_prompt_tokens": sum(row.prompt_tokens for row in judgments),
        "judgment_completion_tokens": sum(row.completion_tokens for row in judgments),
        "judgment_cost": round(sum(costs), 6) if costs else None,
        "judgment_paid": round(sum(spending.paid), 6) if spending.paid else None,
        "judgment_calls": spending.calls,
        "sessions": len(sessions),
        "ended": next((str(session["ended"]) for session in reversed(sessions) if "ended" in session), None),
        "seconds": round(total["seconds"], 3),
        "start_seconds": round(total["start_seconds"], 3),
        "answer_seconds": round(seconds, 3),
        "judgment_seconds": round(total["judgment_seconds"], 3),
        "tokens_per_second": round(total["answer_completion_tokens"] / seconds, 1) if seconds else None,
    }


def member_usage(answers: Iterable[Answer]) -> dict[str, JsonValue]:
    """Return what each member of an ensemble did for these answers, or nothing if one model answered.

    Dollars and parameter tokens are left out where they are unknown.
    """
    totals: dict[str, Counter[str]] = {}
    for work in (work for answer in answers for work in answer.work):
        facts = work.model_dump(exclude={"member"})
        totals.setdefault(work.member, Counter()).update(facts)
    members: dict[str, JsonValue] = {
        name: {key: round(value, 6) for key, value in total.items()} for name, total in totals.items()
    }
    return {"members": members} if members else {}


def _reasoning_tokens(answers: Sequence[Answer]) -> dict[str, JsonValue]:
    """Return the part of the answers' tokens spent on reasoning, if any, or None if no count can tell the two apart."""
    if any(any(answer.reasoning) and answer.visible_tokens is None for answer in answers):
        return {"answer_reasoning_tokens": None}
    tokens = sum(sum(answer.reasoning_tokens) for answer in answers)
    return {"answer_reasoning_tokens": tokens} if tokens else {}
