"""Turn judgments into scores: what the suites' scorers share. Nothing here reads a file.

>>> units = [Unit("1", value=1.0), Unit("2", value=0.5), Unit("3", value=0.0, weight=3.0)]  # the third lost clearly
>>> score = mean_score(units, expected=4, scale=100.0, bounds=PREFERENCES)
>>> score.value, score.n, score.unscored
(30.0, 3, 1)

A score is a ratio of sums over questions (for a mean, the sum over the count), so that one interval over questions
serves all suites. A slot without a verdict counts as unscored and adds nothing to either sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..records import Answer, Judgment, Order, Preference, Prompt, QuestionScores, Rating, Score, ScoreCard, Verdict
from ..records.facts import QuestionRule, facts_of
from ..records.judging import MIN_AUDITED
from ..records.protocols import RunRows
from ..stats.agreement import Measure
from ..stats.combined import AuditedRatio, audited_ratio
from ..stats.intervals import FloatArray
from ..stats.paired import Bounds, ClusteredEstimate, least_errors, least_se, paired_difference, ratio_interval

PREFERENCES: Bounds = (0.0, 1.0)
RATINGS: Bounds = (1.0, 10.0)
"""Bounds of a rating that states no others."""
RIGHT_OR_WRONG: Bounds = (0.0, 1.0)
MIN_SCORED = 0.9
"""A card with a smaller scored share has complete=False and is never ranked. The original tools rank any share."""


def is_complete(headline: Score) -> bool:
    """Return whether enough was scored to rank a card by this score."""
    return headline.value is not None and headline.n > 0 and headline.n >= MIN_SCORED * (headline.n + headline.unscored)


def is_complete_card(suite: str, headline: str, scores: Mapping[str, Score]) -> bool:
    """Return whether enough was scored for a card.

    A headline that is derived from a rate (the length-controlled one is fitted) may be missing, as with few questions:
    such a card is complete without being ranked, because running it again would not help.
    """
    rules = facts_of(suite).rules_of(headline)
    if scores[headline].value is None and rules and rules[0].metric in scores:
        return is_complete(scores[rules[0].metric])
    return is_complete(scores[headline])


def incomplete_notes(suite: str, headline: str, scores: Mapping[str, Score]) -> tuple[str, ...]:
    """Return one sentence for an incomplete card."""
    if is_complete_card(suite, headline, scores):
        return ()
    head = scores[headline]
    if head.value is not None and not head.n:
        return ("incomplete: it is unknown how many questions were scored; never ranked",)
    return (f"incomplete: {head.n} of {head.n + head.unscored} scored; never ranked",)


@dataclass(frozen=True)
class Slot:
    """The unit of judging: a turn, a game or an instruction of one answer."""

    prompt_id: str
    index: int = 0
    turn: int | None = None
    order: Order | None = None


@dataclass(frozen=True)
class Unit:
    """One scored slot: its terms of numerator and denominator."""

    prompt_id: str
    value: float
    weight: float = 1.0


Verdicts = Mapping[Slot, Sequence[Verdict]]

STRONG_WEIGHT = 3  # arena-hard-auto show_result.py WEIGHT
"""Battles that a preference of strength 2 (Arena-Hard's ">>") counts as, in scores, comparisons, gate and variance.

No protocol contains it: who changes it raises the `version` of both Arena-Hard suites (`load_v01`, `load_v2`) and of
scored files (`_card` in arena_hard/files.py), or old and new cards rank together.
"""


def latest_answers(answers: Iterable[Answer]) -> dict[tuple[str, int], Answer]:
    """Return (prompt id, index) -> answer; the last answer wins."""
    return {(answer.prompt_id, answer.index): answer for answer in answers}


def verdicts_by_slot(judgments: Sequence[Judgment], answers: Iterable[Answer], *, ordered: bool = True) -> Verdicts:
    """Return the verdicts of each slot, one per repeat; of several judgments with one key the last wins.

    A judgment of a text other than the current answer's is left out. `ordered` False: a slot's two orders are one.
    """
    named = any(judgment.answer_sha is not None for judgment in judgments)  # else no digest is needed
    current = {key: answer.sha for key, answer in latest_answers(answers).items()} if named else {}
    last = {judgment.key: judgment for judgment in judgments}
    verdicts: dict[tuple[str, int, int | None, Order | None], list[Verdict]] = defaultdict(list)
    for _, judgment in sorted(last.items()):  # the order of arrival must not move the last digit of a mean
        stale = judgment.answer_sha not in (None, current.get((judgment.prompt_id, judgment.index)))
        if judgment.verdict is not None and not stale:
            order = judgment.order if ordered else None
            verdicts[judgment.prompt_id, judgment.index, judgment.turn, order].append(judgment.verdict)
    return {Slot(*fields): slot_verdicts for fields, slot_verdicts in verdicts.items()}


def verdict_weight(verdict: Verdict) -> float:
    return float(STRONG_WEIGHT) if isinstance(verdict, Preference) and verdict.strength == 2 else 1.0


def slot_unit(prompt_id: str, verdicts: Sequence[Verdict], *, weighted: bool = True) -> Unit:
    """Return a scored slot as weighted value and weight; repeats of a judgment count as their mean."""
    weights = [verdict_weight(verdict) if weighted else 1.0 for verdict in verdicts]
    values = [weight * verdict.value for weight, verdict in zip(weights, verdicts, strict=True)]
    return Unit(prompt_id, value=sum(values) / len(values), weight=sum(weights) / len(weights))


def draws(answers: Iterable[Answer]) -> int:
    """Return the answers per prompt, which are one more than the highest index, or 1 without any answer."""
    return 1 + max((answer.index for answer in answers), default=0)


def mean_score(
    units: Sequence[Unit],
    expected: int,
    *,
    scale: float = 1.0,
    bounds: Bounds | None = None,
    intervals: bool = True,
) -> Score:
    """Return scale * sum(values) / sum(weights) with its 95 % interval over questions.

    `bounds`: the lowest and highest value of a unit of weight 1, before scaling; without them, few or equal values get
    an interval that is too narrow, or none. The value is None if nothing is scored.
    """
    unscored = max(0, expected - len(units))
    below = sum(unit.weight for unit in units)
    if not below:
        return Score(value=None, n=0, unscored=expected)
    score = Score(value=scale * sum(unit.value for unit in units) / below, n=len(units), unscored=unscored)
    if not intervals:
        return score
    # the interval is over questions: both games or turns of one question are not independent
    sums = np.array(list(_sums(units).values()))
    return score.with_interval(ratio_interval(sums[:, 0], sums[:, 1], bounds), scale)


def score_of(measure: Measure, *, unscored: int = 0, scale: float = 1.0) -> Score:
    """Return a measure as the `Score` that cards use."""
    value = None if measure.value is None else scale * measure.value
    return Score(value=value, n=measure.n, unscored=unscored).with_interval(measure.interval, scale)


def _sums(units: Iterable[Unit]) -> dict[str, list[float]]:
    """Return prompt id -> [sum of values, sum of weights], in order of first appearance."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for unit in units:
        sums[unit.prompt_id][0] += unit.value
        sums[unit.prompt_id][1] += unit.weight
    return sums


def categories(prompts: Iterable[Prompt]) -> dict[str, list[str]]:
    """Return category -> ids of its prompts in the prompts' order."""
    ids_by_category: dict[str, list[str]] = {}
    for prompt in prompts:
        ids_by_category.setdefault(prompt.category, []).append(prompt.id)
    return ids_by_category


def score_notes(score: Score, unit: str, *, intervals: bool = True) -> tuple[str, ...]:
    """Return a sentence for the card if something is unscored, and one if a mean has no interval.

    `intervals` False: none was wanted.
    """
    notes = []
    if score.unscored:
        notes.append(f"{score.unscored} of {score.n + score.unscored} {unit} are unscored")
    if intervals and score.value is not None and score.ci_low is None:
        notes.append(
            f"no interval: {score.n} {unit} of one question, or all alike and without known bounds, show no spread"
        )
    return tuple(notes)


@dataclass(frozen=True)
class QuestionSums:
    """The terms of `scale * sum(above) / sum(below)`; arrays of shape (questions,), below > 0.

    Every judged headline except the length-controlled one is such a ratio. Comparison, gate, viewer and leaderboard use
    these terms, so their numbers equal the score card's.
    """

    metric: str
    scale: float
    ids: tuple[str, ...]
    above: FloatArray
    below: FloatArray
    bounds: Bounds | None = None
    """Of above / below, before scaling; None: unknown."""
    audited: int = 0
    """If the terms are on the scale of an audit's judge: the questions that it saw, or more if the other judge predicts
    its scores, for the least error. 0: no audit."""
    audited_bounds: Bounds | None = None
    """`bounds` of that judge's scores; the terms themselves may be outside."""

    @property
    def value(self) -> float | None:
        """Return the metric, or None if nothing is scored."""
        total = float(self.below.sum())
        return self.scale * float(self.above.sum()) / total if total else None

    def of(self, ids: Iterable[str]) -> QuestionSums:
        """Return these questions' terms in the order of `ids`, without questions that have no verdict."""
        positions = {prompt_id: position for position, prompt_id in enumerate(self.ids)}
        present = [prompt_id for prompt_id in ids if prompt_id in positions]
        indices = np.array([positions[prompt_id] for prompt_id in present], dtype=np.int64)
        return replace(self, ids=tuple(present), above=self.above[indices], below=self.below[indices])

    def by_cluster(self, clusters: Mapping[str, str]) -> QuestionSums:
        """Return the same metric with the questions of one cluster as one. `clusters`: question id -> cluster."""
        if not clusters:
            return self
        groups: dict[str, list[int]] = defaultdict(list)
        for position, prompt_id in enumerate(self.ids):
            groups[clusters.get(prompt_id, prompt_id)].append(position)
        above, below = ([float(terms[rows].sum()) for rows in groups.values()] for terms in (self.above, self.below))
        return replace(self, ids=tuple(groups), above=np.array(above), below=np.array(below))

    def scores(self) -> FloatArray:
        """Return each question's own score in the metric's unit, shape (questions,)."""
        values: FloatArray = self.scale * self.above / self.below
        return values


def rules_of(suite: str, headline: str, judgments: Iterable[Judgment]) -> tuple[QuestionRule, ...]:
    """Return the suite's metrics that are ratios over questions, the main one first.

    For a suite whose facts state none: the headline, as a mean of ratings or a rate of preferences.
    """
    if rules := facts_of(suite).rules_of(headline):
        return rules
    verdict = next((row.verdict for row in judgments if row.verdict is not None), None)
    return (QuestionRule(headline, 1.0 if isinstance(verdict, Rating) else 100.0),)


def question_sums(
    rule: QuestionRule,
    answers: Sequence[Answer],
    judgments: Sequence[Judgment],
    *,
    categories: Mapping[str, str] | None = None,
) -> QuestionSums:
    """Return the metric's terms, with questions in natural order of their ids.

    `categories`: question id -> category of the run's questions; others are left out. Without it all questions count,
    and a rule for one category cannot be applied, so the caller compares `value` with the card's.
    """
    verdicts = verdicts_by_slot(judgments, answers, ordered=rule.ordered)
    bounds = rule.bounds or verdict_bounds(judgments)
    if categories is None:
        return sums_of_units(rule.metric, rule.scale, units(rule, verdicts), bounds)
    prompt_ids = {name for name, category in categories.items() if rule.category in (None, category)}
    return sums_of_units(rule.metric, rule.scale, units(rule, verdicts, prompt_ids), bounds)


def verdict_bounds(judgments: Iterable[Judgment]) -> Bounds | None:
    """Return the lowest and highest value that these verdicts can have, or None without a verdict."""
    ends = {
        (row.verdict.low, row.verdict.high) if isinstance(row.verdict, Rating) else PREFERENCES
        for row in judgments
        if row.verdict is not None
    }
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def sums_difference(first: QuestionSums, second: QuestionSums) -> ClusteredEstimate | None:
    """Return the value of `first` minus that of `second`, over the same questions in the same order.

    None with fewer than two questions.
    """
    terms = (first.above, first.below), (second.above, second.below)
    estimate = paired_difference(*terms, scale=first.scale, bounds=shared_bounds(first, second))
    least = _least_audited([first, second])
    if estimate is None or least is None:
        return estimate
    return replace(estimate, se=max(estimate.se, float(least[0, 1])))


def shared_bounds(first: QuestionSums, second: QuestionSums) -> Bounds | None:
    """Return the lowest and highest value that a question's score can have in either, or None if unknown for one."""
    if first.bounds is None or second.bounds is None:
        return None
    return min(first.bounds[0], second.bounds[0]), max(first.bounds[1], second.bounds[1])


def least_errors_of(sums: Sequence[QuestionSums]) -> FloatArray | None:
    """Return the least error of each difference, shape (models, models), or None if one has scores without bounds."""
    # questions that are all alike have an error of 0, although more of them could differ: bounds limit by how much
    known_bounds = [row.bounds for row in sums if row.bounds is not None]
    if len(known_bounds) < len(sums):
        return _least_audited(sums)
    bounds = min(low for low, _ in known_bounds), max(high for _, high in known_bounds)
    return sums[0].scale * least_errors([(row.above, row.below) for row in sums], bounds)


def _least_audited(sums: Sequence[QuestionSums]) -> FloatArray | None:
    """Return the same of audited scores, by the number of audited questions, or None if one is not audited.

    Fifty questions of models that win nearly all say too little of how often one of them loses.
    """
    known_bounds = [row.audited_bounds for row in sums if row.audited and row.audited_bounds is not None]
    if len(known_bounds) < len(sums):
        return None
    bounds = min(low for low, _ in known_bounds), max(high for _, high in known_bounds)
    values, audited = np.array([(row.value or 0.0) / row.scale for row in sums]), min(row.audited for row in sums)
    apart = (values[:, None] - values).tolist()
    return sums[0].scale * np.array([[least_se(audited, difference, bounds) for difference in row] for row in apart])


@dataclass(frozen=True)
class AuditedSums:
    """A metric on the scale of an audit's judge."""

    sums: QuestionSums
    """One term per question, so that paired comparisons work as for any run; single terms say nothing."""
    ratio: AuditedRatio
    judged: int
    """Audited questions with a verdict of both judges."""


def audited_sums(cheap: QuestionSums, expensive: QuestionSums) -> AuditedSums | None:
    """Return the metric on the expensive judge's scale.

    None if under 90 % of the fewest questions that an audit may have were judged by both, as in a small category.
    """
    positions = {prompt_id: position for position, prompt_id in enumerate(cheap.ids)}
    ids = [prompt_id for prompt_id in expensive.ids if prompt_id in positions]
    if len(ids) < MIN_SCORED * MIN_AUDITED:
        return None
    audit = expensive.of(ids)
    indices = np.array([positions[prompt_id] for prompt_id in ids], dtype=np.int64)
    ratio = audited_ratio((cheap.above, cheap.below), (audit.above, audit.below), indices)
    if ratio is None:
        return None
    # no bounds: a term is a verdict plus a correction, which may lie outside the verdicts' range
    weights, unexplained = np.ones(len(cheap.ids)), max(0.0, 1 - ratio.correlation**2) ** 0.5
    # the least error falls with the number of questions, and with the root of what the cheap judge leaves unexplained
    worth = min(len(cheap.ids), round(len(ids) / max(unexplained, len(ids) / len(cheap.ids))))
    sums = QuestionSums(
        cheap.metric, cheap.scale, cheap.ids, ratio.terms, weights, audited=worth, audited_bounds=expensive.bounds
    )
    return AuditedSums(sums, ratio, len(ids))


def run_sums(rule: QuestionRule, run: RunRows, *, categories: Mapping[str, str] | None = None) -> QuestionSums:
    """Return a run's terms of a metric on the scale of its card; without questions if its audit is too small for it."""
    sums = question_sums(rule, run.answers, run.judgments, categories=categories)
    if run.audit is None:
        return sums
    audited = audited_sums(sums, question_sums(rule, run.answers, run.audit, categories=categories))
    return sums.of(()) if audited is None else audited.sums


def units(rule: QuestionRule, verdicts: Verdicts, prompt_ids: Collection[str] | None = None) -> list[Unit]:
    """Return one unit per scored slot; repeats of a judgment count as their mean."""
    whole = _whole(verdicts) if rule.whole_pairs else None
    return [
        slot_unit(slot.prompt_id, slot_verdicts, weighted=rule.weighted)
        for slot, slot_verdicts in verdicts.items()
        if slot_verdicts
        and (prompt_ids is None or slot.prompt_id in prompt_ids)
        and (rule.turn is None or slot.turn == rule.turn)
        and (whole is None or (slot.prompt_id, slot.index) in whole)
    ]


def _whole(verdicts: Verdicts) -> set[tuple[str, int]]:
    """Return the answers with a verdict in both orders."""
    orders: dict[tuple[str, int], set[str | None]] = defaultdict(set)
    for slot in (slot for slot, slot_verdicts in verdicts.items() if slot_verdicts):
        orders[slot.prompt_id, slot.index].add(slot.order)
    return {answer for answer, seen in orders.items() if {"ab", "ba"} <= seen}


def sums_of_units(metric: str, scale: float, scored: Iterable[Unit], bounds: Bounds | None = None) -> QuestionSums:
    sums = _sums(scored)
    ids = tuple(sorted(sums, key=natural))
    table = np.array([sums[prompt_id] for prompt_id in ids], dtype=np.float64).reshape(-1, 2)
    return QuestionSums(metric, scale, ids, table[:, 0], table[:, 1], bounds)


def own_question_sums(
    card: ScoreCard, questions: Sequence[QuestionScores], category: str | None = None
) -> dict[str, QuestionSums]:
    """Return metric -> terms per question of a benchmark that scored by itself, for metrics that are means over them.

    Another kind of metric (a perplexity, a corpus-level BLEU) does not equal the mean of its questions' values, so it
    is left out. Of a metric whose questions are all 0 or 1, these are the bounds; of others they are unknown.
    `category`: only its questions.
    """
    scores = card.scores if category is None else card.by_category.get(category, {})
    values: dict[str, list[Unit]] = defaultdict(list)
    for row in questions:
        if category is None or row.category == category:
            for metric, value in row.scores.items():
                values[metric].append(Unit(row.question, value))
    sums = {
        metric: sums_of_units(metric, 1.0, scored, RIGHT_OR_WRONG if _is_right_or_wrong(scored) else None)
        for metric, scored in values.items()
    }
    return {metric: metric_sums for metric, metric_sums in sums.items() if _is_mean(metric_sums, scores.get(metric))}


def _is_right_or_wrong(scored: Iterable[Unit]) -> bool:
    return all(unit.value in RIGHT_OR_WRONG for unit in scored)


def _is_mean(sums: QuestionSums, score: Score | None) -> bool:
    if score is None or score.value is None or sums.value is None:
        return False
    return abs(sums.value - score.value) <= 1e-6 * max(1.0, abs(score.value))


def natural(prompt_id: str) -> tuple[int, int, str]:
    """Return a sort key that puts numbers by value before words."""
    return (0, int(prompt_id), "") if prompt_id.isdecimal() and prompt_id.isascii() else (1, 0, prompt_id)


def common(parts: Sequence[QuestionSums]) -> list[QuestionSums]:
    """Return each part reduced to the questions that all have, in one order."""
    if all(part.ids == parts[0].ids for part in parts[1:]):
        return list(parts)
    shared = set(parts[0].ids).intersection(*(part.ids for part in parts[1:]))
    ids = [prompt_id for prompt_id in parts[0].ids if prompt_id in shared]
    return [part.of(ids) for part in parts]


def disagreements(answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, float]:
    """Return question id -> largest difference between the preferences of its two orders, 0..1 (0: consistent).

    Only answers judged in both orders count.
    """
    verdicts = verdicts_by_slot(judgments, answers)
    spread: dict[str, float] = {}
    for slot, slot_verdicts in verdicts.items():
        reversed_verdicts = verdicts.get(Slot(slot.prompt_id, slot.index, slot.turn, "ba"), ())
        if slot.order == "ab" and slot_verdicts and reversed_verdicts:
            means = [sum(verdict.value for verdict in part) / len(part) for part in (slot_verdicts, reversed_verdicts)]
            spread[slot.prompt_id] = max(spread.get(slot.prompt_id, 0.0), abs(means[0] - means[1]))
    return spread
