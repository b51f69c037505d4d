"""The scores of an audited run, whose expensive judge saw some questions: they are on its scale.

The estimate is `harness.stats.audited`'s. Only metrics that are sums over questions have one; what is fitted to all
verdicts, such as a length-controlled rate, stays the cheap judge's and is listed as such, apart from the scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..records import Audit, AuditGain, JudgeSpending, Score, SuiteScores
from ..records.facts import facts_of
from ..records.protocols import Suite
from ..store import RunStore
from ..suites.scoring import MIN_SCORED, AuditedSums, QuestionSums, audited_sums
from .plan import AuditPlan

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
    kept = {name: score for name, score in cheap.scores.items() if facts.metric(name).unit in NOT_VERDICTS}
    headline = audited_headline(suite.headline, list(scores))
    audit = Audit(
        judge=plan.name,
        drawn=len(plan.prompt_ids),
        judged=len(set().union(*(set(first.ids) & set(second.ids) for first, second in sums))),
        of=len(set().union(*(first.ids for first, _ in sums))),
        gains={metric: _gain(estimate) for metric, estimate in estimates.items() if estimate is not None},
        cheap={name: score for name, score in cheap.scores.items() if name not in kept},
        spending={},
    )
    whole = audit.judged >= MIN_SCORED * audit.drawn and scores[headline].value is not None
    results = SuiteScores(scores=scores | kept, notes=(*cheap.notes, *_notes(audit, suite.headline, headline)))
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
        name: JudgeSpending(calls=part.calls, paid=round(sum(part.paid), 6) if part.paid else None)
        for name, part in spent.items()
    }
