"""The score card of what is in a run's store now: the suite's scores, counts of what failed, provenance, usage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import JsonValue

from ..judging.anchors import check, members_of
from ..judging.calibrated import Citation, cite
from ..judging.injection import count_injections
from ..judging.jury import Combined, combine, judge_differences, judge_label, judge_protocol, jury_of
from ..records import AnchorCheck, Answer, Judging, Judgment, Prompt, ScoreCard, digest
from ..records.errors import ConfigError
from ..records.protocols import Suite
from ..store import RunStore
from ..suites.scoring import is_complete, rules_of
from .pipeline import SuiteRun, current_judgments
from .plan import Plan, protocol
from .trust import judging, trust_notes

HOW = {"results", "mirror", "cache", "max_cost", "transport", "anchors"}
"""Settings that say where and how, not what: no number depends on them."""


def score_card(made: Plan, run: SuiteRun, facts: dict[str, JsonValue]) -> ScoreCard:
    """The card of what is in the store now."""
    suite, spec = run.suite, made.spec
    asked = {prompt.id for prompt in run.prompts}
    answers = [answer for answer in run.store.answers.all() if answer.prompt_id in asked]
    rows = current_judgments(answers, run.store.judgments.all())
    judgments = sorted(rows, key=lambda row: row.key)  # the order of arrival must not move the last digit of a figure
    jury = jury_of(protocol(made, suite))
    combined = None if jury is None else combine(judgments, jury)
    found = suite.score(run.prompts, answers, judgments if combined is None else combined.judgments)
    if suite.headline not in found.scores:
        raise ConfigError(f"suite {suite.name!r} gave no score named {suite.headline!r}, its own headline")
    head = found.scores[suite.headline]
    complete = is_complete(head)
    anchors = sorted(run.store.anchors.all(), key=lambda row: row.key)
    trust = _trust(made, run, answers, judgments, combined)
    trust = trust.model_copy(update={"anchors": _checks(made, run, anchors)})
    its = made.judges[suite.name]
    said = dict.fromkeys(judge.spec.note for judge in its if judge.spec.note)
    notes = [*judge_differences(suite, its), *found.notes, *said, *injection_notes(answers), *trust_notes(trust)]
    cited = cite(spec.results, suite.name, judge_protocol(its, spec.jury)) if spec.edition == "official" else None
    notes += [] if cited is None else [cited.note]
    notes += [] if complete else [f"incomplete: {head.n} of {head.n + head.unscored} scored; never ranked"]
    return ScoreCard(
        suite=suite.name,
        suite_version=suite.version,
        model=spec.model.label,
        judge=judge_label(spec.judges[suite.name]),
        headline=suite.headline,
        complete=complete,
        protocol=protocol(made, suite),
        sampling=_settings(run),
        scores=found.scores,
        by_category=found.by_category,
        counts=count(run.prompts, answers, judgments),
        notes=tuple(notes),
        judging=trust,
        provenance=_provenance(made, run, facts, cited),
        usage=_usage(run.store, answers, [*judgments, *anchors]),
    )


def _provenance(made: Plan, run: SuiteRun, facts: dict[str, JsonValue], cited: Citation | None) -> dict[str, JsonValue]:
    spec = made.spec
    return {
        **facts,
        "model": made.identity,
        "run_id": run.store.folder.name,
        "config": digest(spec.model_dump(mode="json", exclude=HOW))[:12],
        "seed": spec.seed,
        **_anchors_used(made, run.suite),
        **({} if cited is None else {"calibration": cited.provenance}),
        **({} if made.fusion is None else {"fusion": made.fusion.model_dump(mode="json")}),
    }


def injection_notes(answers: Sequence[Answer]) -> list[str]:
    """One sentence where answers speak to the judge, else nothing."""
    found = count_injections(answers)
    if not found.suspect:
        return []
    what = f"{found.suspect} of {found.answers} answers hold words that could lead a judge (injection)"
    return [f"{what}: harness judge injections shows which"]


def _trust(
    made: Plan, run: SuiteRun, answers: list[Answer], judgments: list[Judgment], combined: Combined | None
) -> Judging:
    suite = run.suite
    return judging(
        judgments,
        jury_of(protocol(made, suite)),
        None if combined is None else combined.counts,
        repeats=run.repeats,
        rule=rules_of(suite.name, suite.headline, judgments)[0],
        categories={prompt.id: prompt.category for prompt in run.prompts},
        headline=lambda rows: suite.score(run.prompts, answers, rows).scores[suite.headline],
    )


def _checks(made: Plan, run: SuiteRun, rows: Sequence[Judgment]) -> dict[str, AnchorCheck]:
    """By judge; of the anchors of this plan, whatever others this folder has seen."""
    anchors = made.anchors.get(run.suite.name)
    if anchors is None:
        return {}
    judges = members_of(protocol(made, run.suite))
    return {name: check(anchors, judge, rows) for name, judge in judges.items()}


def _anchors_used(made: Plan, suite: Suite) -> dict[str, JsonValue]:
    """Not of the protocol: an anchor check changes no score."""
    anchors = made.anchors.get(suite.name)
    return {} if anchors is None else {"anchors": anchors.sha}


def _settings(run: SuiteRun) -> dict[str, JsonValue]:
    """Answer settings in use: one entry where all prompts share them, else by category."""
    by_category = {prompt.category: run.sampling(prompt).model_dump(mode="json") for prompt in run.prompts}
    different = {digest(settings) for settings in by_category.values()}
    return next(iter(by_category.values())) if len(different) == 1 else dict(by_category)


def count(prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, JsonValue]:
    """Asked, answered, truncated, and what failed by reason; a failure is counted, never scored. Judgments are those of
    every member of a jury and every repeat."""
    unanswered = Counter(answer.error.reason for answer in answers if answer.error is not None)
    unjudged = Counter(row.error.reason for row in judgments if row.error is not None)
    flags = Counter(flag for row in judgments for flag in row.flags)
    return {
        "prompts": len(prompts),
        "answers": sum(answer.error is None for answer in answers),
        "truncated": sum(answer.truncated for answer in answers),
        "empty": sum(answer.error is None and not all(text.strip() for text in answer.turns) for answer in answers),
        "unanswered": dict(sorted(unanswered.items())),
        "judgments": sum(row.verdict is not None for row in judgments),
        "unjudged": dict(sorted(unjudged.items())),
        "flags": dict(sorted(flags.items())),
    }


def _usage(store: RunStore, answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, JsonValue]:
    """Tokens and dollars of the rows; seconds, and tokens per second, of the sessions that ended by themselves.

    `judgment_cost` is what these verdicts cost when they were first asked for; `judgment_paid` and `judgment_calls` are
    what this run spent, on rows that were asked again too, and without what came from the reply cache.
    """
    costs = [row.cost for row in judgments if row.cost is not None]
    asked = list(store.every_judgment())
    paid = [row.paid for row in asked if row.paid is not None]
    sessions = store.sessions()
    total: Counter[str] = Counter()
    for session in sessions:
        total.update({key: value for key, value in session.items() if isinstance(value, int | float)})
    seconds = total["answer_seconds"]
    return {
        "answer_prompt_tokens": sum(sum(answer.prompt_tokens) for answer in answers),
        "answer_completion_tokens": sum(sum(answer.completion_tokens) for answer in answers),
        "judgment_prompt_tokens": sum(row.prompt_tokens for row in judgments),
        "judgment_completion_tokens": sum(row.completion_tokens for row in judgments),
        "judgment_cost": round(sum(costs), 6) if costs else None,
        "judgment_paid": round(sum(paid), 6) if paid else None,
        "judgment_calls": sum(row.calls for row in asked),
        "sessions": len(sessions),
        "ended": next((str(session["ended"]) for session in reversed(sessions) if "ended" in session), None),
        "seconds": round(total["seconds"], 3),
        "start_seconds": round(total["start_seconds"], 3),
        "answer_seconds": round(seconds, 3),
        "judgment_seconds": round(total["judgment_seconds"], 3),
        "tokens_per_second": round(total["answer_completion_tokens"] / seconds, 1) if seconds else None,
    }
