"""Compare two runs of one suite, question by question, and find what changed. Pure: rows in, records out.

>>> differing_protocols({"judge": "gpt-4", "seed": 1}, {"judge": "gpt-4.1", "seed": 1})
["judge: 'gpt-4' and 'gpt-4.1'"]

>>> from harness.records import Answer
>>> def answers(text): return [Answer(prompt_id=name, model="m", turns=(text,), finish=("stop",)) for name in "ab"]
>>> shift = shifts(answers("four"), answers("fourteen"))[0]
>>> shift.name, shift.value
('characters', 4.0)

The first run is the reference: every difference is "other minus first", on the questions that have a verdict for both,
and "gained" is what the other wins and the first does not. What changed comes first: questions won and lost, doubts
about the order of answers, the answers themselves. Then the comparison puts it beside the differences.

A difference is *paired* if it is a sum over questions, *refitted* if it is a model fitted to all verdicts, *direct* if
the two answers were judged against each other (`games.py`), and *unpaired* if only the two cards exist. If one run has
only some of the other's questions, or both have a limit, a sum over them is also *adjusted* for the questions that were
not judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue

from ..records import Answer, Prompt, Record, Score, ScoreCard
from ..records.facts import facts_of, higher_is_better
from ..records.protocols import Refits, RefitsPairs, RunRows
from ..stats.intervals import FloatArray
from ..stats.paired import holm, paired_difference
from ..suites.scoring import (
    QuestionSums,
    common,
    disagreements,
    latest_answers,
    own_question_sums,
    question_sums,
    rules_of,
    run_sums,
)
from .differences import (
    FEW,
    Adjustment,
    Difference,
    adjustment,
    adjustment_of_parts,
    paired,
    paired_rows,
    refitted,
    unpaired,
)

# --------------------------------------------------------------------------------------------------------- what changed


RATING_FLIP = 2.0
"""A question flips if its rating moves by this many points: twice the step that most judges use."""
CONTRADICTION = 0.5
"""Two orders contradict each other if their preferences differ by more: a win in one, a loss in the other."""


class Flip(Record):
    """A question that one model wins and the other loses, or whose rating moved by two points or more."""

    prompt_id: str
    category: str | None
    first: float
    other: float
    """The question's scores in the metric's unit."""
    kind: Literal["gained", "lost"]
    """From the other model's point of view."""
    doubtful: bool = False
    """The judge contradicted itself between the two orders, for at least one of the two models."""


class AnswerShift(Record):
    """A quantity of the answers that both gave: other minus first, with its 95 % interval."""

    name: str
    first: float
    other: float
    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int


class Orders(Record):
    """How much the verdicts depend on which answer was shown first."""

    judged_twice: int
    """Questions judged in both orders for both models."""
    first: int
    other: int
    """Of these, contradictory for this model."""
    either: tuple[str, ...]
    """Ids of those contradictory for at least one of the two."""
    without: float | None
    """The headline difference without these questions."""


def has_flipped(score: float, other_score: float, *, middle: float | None) -> bool:
    """Return whether a question flips. `middle` is the score of a draw, or None for ratings."""
    if middle is None:
        return abs(other_score - score) >= RATING_FLIP
    return (score - middle) * (other_score - middle) < 0


def flips(
    first: QuestionSums,
    second: QuestionSums,
    categories: Mapping[str, str],
    doubts: Orders | None,
    *,
    middle: float | None,
    less_is_better: bool = False,
) -> tuple[Flip, ...]:
    """Return the flipped questions, the largest changes first. `middle` is the score of a draw, or None for ratings."""
    contradicted = set(doubts.either) if doubts is not None else set()
    flipped = []
    for prompt_id, score, other_score in zip(first.ids, first.scores(), second.scores(), strict=True):
        if has_flipped(score, other_score, middle=middle):
            flipped.append(
                Flip(
                    prompt_id=prompt_id,
                    category=categories.get(prompt_id),
                    first=float(score),
                    other=float(other_score),
                    kind="gained" if (other_score > score) != less_is_better else "lost",
                    doubtful=prompt_id in contradicted,
                )
            )
    return tuple(sorted(flipped, key=lambda flip: -abs(flip.other - flip.first)))


def order_doubts(first: RunRows, second: RunRows, main: tuple[QuestionSums, QuestionSums] | None) -> Orders | None:
    """Return doubts about order, or None if no question was judged in both orders for both models."""
    gaps, other_gaps = (disagreements(run.answers, run.judgments) for run in (first, second))
    both = [prompt_id for prompt_id in gaps if prompt_id in other_gaps]
    if not both or main is None:
        return None
    # a question counts as doubtful even if only one model's verdict depends on the order
    doubted = [prompt_id for prompt_id in both if max(gaps[prompt_id], other_gaps[prompt_id]) > CONTRADICTION]
    undoubted = [prompt_id for prompt_id in main[0].ids if prompt_id not in set(doubted)]
    value, other_value = (sums.of(undoubted).value for sums in main)
    return Orders(
        judged_twice=len(both),
        first=sum(gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        other=sum(other_gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        either=tuple(doubted),
        without=None if value is None or other_value is None else other_value - value,
    )


def shifts(first: Sequence[Answer], second: Sequence[Answer]) -> tuple[AnswerShift, ...]:
    """Return shifts of characters, tokens (if both runs count them) and truncation, over the answers that both gave."""
    first_answers, second_answers = latest_answers(first), latest_answers(second)
    keys = [
        key
        for key, answer in first_answers.items()
        if answer.error is None and key in second_answers and second_answers[key].error is None
    ]
    measures: dict[str, Callable[[Answer], float]] = {
        "characters": lambda answer: sum(map(len, answer.turns)),
        "tokens": lambda answer: answer.visible_tokens or 0,
        "truncated, percent": lambda answer: 100.0 * answer.truncated,
    }
    # imported runs often count no tokens; a zero would look like a shift
    if any(answers[key].visible_tokens is None for key in keys for answers in (first_answers, second_answers)):
        del measures["tokens"]
    if len(keys) < 2:
        return ()
    rows = []
    for name, measure in measures.items():
        values = [
            np.array([measure(answers[key]) for key in keys], float) for answers in (first_answers, second_answers)
        ]
        rows.append(_shift(name, values[0], values[1], [key[0] for key in keys]))
    return tuple(rows)


def _shift(name: str, first: FloatArray, second: FloatArray, clusters: Sequence[str]) -> AnswerShift:
    weights = np.ones(len(first))
    estimate = paired_difference((second, weights), (first, weights), clusters=clusters)
    low, high = estimate.interval() if estimate is not None and estimate.varies else (None, None)
    return AnswerShift(
        name=name,
        first=float(first.mean()),
        other=float(second.mean()),
        value=float(second.mean() - first.mean()),
        ci_low=low,
        ci_high=high,
        n=len(first),
    )


# ------------------------------------------------------------------------------------------------------- the comparison


Population = Literal["all", "these"]
"""Of which questions an interval is: of all of the kind, or of the very ones that were asked."""


class Comparison(Record):
    """One model compared with the first, on one suite."""

    suite: str
    suite_version: str
    first: str
    other: str
    judge: str
    headline: str
    population: Population = Field(default="all", exclude_if=lambda population: population == "all")
    differences: tuple[Difference, ...]
    """The headline first, then other metrics, then categories."""
    only_first: int = 0
    only_other: int = 0
    """Questions with a verdict for only one of the two; no difference counts them."""
    flips: tuple[Flip, ...] = ()
    shifts: tuple[AnswerShift, ...] = ()
    orders: Orders | None = None
    forced: tuple[str, ...] = ()
    """Differences between the protocols, if the runs were compared anyway (--force)."""
    notes: tuple[str, ...] = ()
    adjusted: tuple[Adjustment, ...] = Field(default=(), exclude_if=lambda rows: not rows)
    """For sums over all questions, if one run has only some of the other's questions, or both have a limit."""

    def difference(self, metric: str, category: str | None = None) -> Difference | None:
        return next((row for row in self.differences if (row.metric, row.category) == (metric, category)), None)

    def adjustment(self, metric: str) -> Adjustment | None:
        return next((row for row in self.adjusted if row.difference.metric == metric), None)

    def deciding(self, metric: str, category: str | None = None) -> Difference | None:
        """Return the sharpest difference: the adjusted one if there is one."""
        adjustment = self.adjustment(metric) if category is None else None
        return self.difference(metric, category) if adjustment is None else adjustment.difference


def compare(
    first: RunRows,
    second: RunRows,
    *,
    prompts: Sequence[Prompt] | None = None,
    suite: object = None,
    covariates: Sequence[RunRows] = (),
    seed: int = 0,
) -> Comparison:
    """Return all differences of two runs of one suite.

    `prompts` are the prompts of the runs, for categories; None if they are unknown. `suite` refits fitted metrics.
    `covariates` are complete runs of the protocol, which predict the questions that one of the two lacks.
    """
    categories = None if prompts is None else {prompt.id: prompt.category for prompt in prompts}
    pairs = _paired_sums(first, second, categories)
    own_pairs = {} if pairs else _own_sums(first, second)
    main = pairs[0] if pairs else own_pairs.get((first.card.headline, None))
    fits = _fits(first, second, prompts, suite)
    rows = [] if fits is None else [refitted(fits)]
    rows += _by_metric(pairs, getattr(suite, "clusters", {}), seed)
    if pairs and categories is not None and not _is_audited(first, second):  # too few audited questions per category
        rows += _by_category(pairs[0], categories, seed)
    rows += [row for key, sums in own_pairs.items() if (row := paired(*sums, key[1], seed)) is not None]
    rows += _by_cards(first, second, from_rows={(row.metric, row.category) for row in rows})
    rows = [_directed(row, first.card) for row in rows]
    rows.sort(key=lambda row: row.metric != first.card.headline or row.category is not None)  # stable: headline first
    own = bool(facts_of(first.card.suite).pairing)
    only_first, only_other = _unmatched(first, second, categories)
    if _is_audited(first, second):
        # terms of an audited score say nothing about single questions, so these are the cheap judge's
        cheap = _paired_sums(replace(first, audit=None), replace(second, audit=None), categories)
        main = cheap[0] if cheap else None
    doubts = order_doubts(first, second, main)
    adjustments = _adjustments(first, second, covariates, seed)
    notes = _notes(first, second, categories, fits) if not own else _own_notes(first, second, main)
    return Comparison(
        suite=first.card.suite,
        suite_version=first.card.suite_version,
        first=first.name,
        other=second.name,
        judge=first.card.judge,
        headline=first.card.headline,
        differences=tuple(rows),
        only_first=only_first,
        only_other=only_other,
        flips=_flips(first, main, categories, doubts),
        shifts=shifts(first.answers, second.answers),
        orders=doubts,
        forced=tuple(differing(first.card, second.card)),
        notes=(*notes, *_plain_notes(first, second, adjustments)),
        adjusted=adjustments,
    )


SumsOf = Callable[..., QuestionSums]
"""`run_sums`, or the same with a memory."""


def headline_difference(
    first: RunRows, second: RunRows, *, prompts: Sequence[Prompt] | None = None, suite: object = None
) -> Difference | None:
    """Return the difference of the headline as `compare` does, and nothing else."""
    return headline_differences([(first, second)], prompts=prompts, suite=suite)[0]


def headline_differences(
    pairs: Sequence[tuple[RunRows, RunRows]],
    *,
    prompts: Sequence[Prompt] | None = None,
    suite: object = None,
    sums_of: SumsOf = run_sums,
) -> list[Difference | None]:
    """Return `headline_difference` of each pair of one suite's runs. What pairs have in common is computed once."""
    rows: list[Difference | None] = []
    sums: dict[int, tuple[QuestionSums, QuestionSums]] = {}
    for number, (first, second) in enumerate(pairs):
        fits = _fits(first, second, prompts, suite)
        rows.append(refitted(fits) if fits is not None and fits.metric == first.card.headline else None)
        if rows[number] is None and (shared := _headline_sums(first, second, sums_of)) is not None:
            sums[number] = shared
    for number, row in zip(sums, paired_rows(list(sums.values())), strict=True):
        rows[number] = row
    for number, (first, second) in enumerate(pairs):
        row = rows[number] or unpaired(first.card, second.card, first.card.headline)
        rows[number] = None if row is None else _directed(row, first.card)
    return rows


def _headline_sums(first: RunRows, second: RunRows, sums_of: SumsOf) -> tuple[QuestionSums, QuestionSums] | None:
    """Return both runs' sums of the headline over two or more common questions, or None if it is not a sum."""
    headline = first.card.headline
    if pairs := _paired_sums(first, second, None, sums_of, metric=headline):
        return pairs[0]
    own_sums = _own_sums(first, second).get((headline, None))
    return None if own_sums is None or _paired_sums(first, second, None, sums_of) else own_sums


def main_sums(
    runs: Sequence[RunRows], *, categories: Mapping[str, str] | None = None, sums_of: SumsOf = run_sums
) -> list[QuestionSums]:
    """Return the runs' terms over their common questions: of the headline, or of the suite's main sum over questions.

    Empty if a run has no rows, or if its headline is not a mean over the questions that it scored by itself.
    """
    card = runs[0].card
    sums: list[QuestionSums | None] = []
    if all(run.questions for run in runs):
        sums = [own_question_sums(run.card, run.questions).get(card.headline) for run in runs]
    elif all(run.judgments for run in runs):
        rules = rules_of(card.suite, card.headline, runs[0].judgments)
        rule = next((rule for rule in rules if rule.metric == card.headline), rules[0])
        sums = [sums_of(rule, run, categories=categories) for run in runs]
    complete = [run_terms for run_terms in sums if run_terms is not None]
    return common(complete) if len(complete) == len(runs) else []


def _fits(first: RunRows, second: RunRows, prompts: Sequence[Prompt] | None, suite: object) -> Refits | None:
    if not isinstance(suite, RefitsPairs) or not prompts or _is_audited(first, second):
        return None
    return suite.paired_refits(prompts, first, second)


def is_part(first: RunRows, second: RunRows) -> bool:
    """Return whether one run has only some of the other's questions: a limit, or far fewer. Never of audited runs.

    The other run may lack a few of them: published runs often miss one or two answers.
    """
    if _is_audited(first, second):
        return False  # an audited score is an adjusted one already
    few, many = sorted(({answer.prompt_id for answer in run.answers} for run in (first, second)), key=len)
    if not few or len(few) >= len(many) or len(few & many) < FEW * len(few):
        return False
    return _limit(first) != _limit(second) or len(few) <= FEW * len(many)


def are_parts(first: RunRows, second: RunRows) -> bool:
    """Return whether both runs have a limit, and neither has all of the other's questions and more."""
    return _limit(first) is not None and _limit(second) is not None and not is_part(first, second)


def _is_audited(first: RunRows, second: RunRows) -> bool:
    return first.audit is not None or second.audit is not None


def _limit(run: RunRows) -> JsonValue:
    return run.card.protocol.get("limit")


def _adjustments(first: RunRows, second: RunRows, covariates: Sequence[RunRows], seed: int) -> tuple[Adjustment, ...]:
    # an audit is itself an estimate of the questions that the expensive judge did not see
    if _is_audited(first, second):
        return ()
    if not is_part(first, second) and not are_parts(first, second):
        return ()
    adjust = adjustment if is_part(first, second) else adjustment_of_parts
    rows = []
    for rule in rules_of(first.card.suite, first.card.headline, first.judgments):
        if rule.category is None:  # the categories of the missing questions may be unknown
            sums = [question_sums(rule, run.answers, run.judgments) for run in (first, second, *covariates)]
            rows.append(adjust(sums, [run.name for run in covariates], seed=seed))
    return tuple(
        row.model_copy(update={"difference": _directed(row.difference, first.card)}) for row in rows if row is not None
    )


def _plain_notes(first: RunRows, second: RunRows, adjustments: Sequence[Adjustment]) -> list[str]:
    """Return a sentence if the headline is not adjusted although questions are missing, and other metrics may be."""
    headline = first.card.headline
    if _is_audited(first, second) and are_parts(first, second):
        return [
            "audited scores are not adjusted for questions beyond the limit: an audit corrects the cheap judge's "
            "score as a whole, so it has no score of a single question to predict others from"
        ]
    if not adjustments or any(row.difference.metric == headline for row in adjustments):
        return []
    title = facts_of(first.card.suite).metric(headline).title
    return [
        f"the {title} is of the questions that both have, not adjusted for the others: it is fitted to all "
        "verdicts at once, so it has no score of a single question to predict others from"
    ]


def _directed(row: Difference, card: ScoreCard) -> Difference:
    return row.model_copy(update={"higher_is_better": higher_is_better(card, row.metric)})


def _own_sums(first: RunRows, second: RunRows) -> dict[tuple[str, str | None], tuple[QuestionSums, QuestionSums]]:
    """Return (metric, category) -> both runs' values on common questions, of a benchmark that scored by itself."""
    pairs = {}
    for category in (None, *first.card.by_category) if first.questions and second.questions else ():
        first_sums, second_sums = (own_question_sums(run.card, run.questions, category) for run in (first, second))
        for metric in first_sums:
            shared = common([first_sums[metric], second_sums[metric]]) if metric in second_sums else []
            if shared and len(shared[0].ids) >= 2:
                pairs[metric, category] = (shared[0], shared[1])
    return pairs


def _stated_metrics(run: RunRows) -> list[tuple[str, str | None]]:
    """Return the (metric, category) that are compared by the cards' own errors if they have no rows.

    The headline; and of a benchmark that scored by itself, whose metrics no facts describe, all.
    """
    card = run.card
    headline: list[tuple[str, str | None]] = [(card.headline, None)]
    if run.judgments or facts_of(card.suite).metrics:
        return headline
    overall: list[tuple[str, str | None]] = [(metric, None) for metric in card.scores if metric != card.headline]
    return headline + overall + [(metric, name) for name, scores in card.by_category.items() for metric in scores]


def _unmatched(first: RunRows, second: RunRows, categories: Mapping[str, str] | None) -> tuple[int, int]:
    if first.questions and second.questions:
        asked, asked_second = ({row.question for row in run.questions} for run in (first, second))
        return len(asked - asked_second), len(asked_second - asked)
    rule = rules_of(first.card.suite, first.card.headline, first.judgments)[0]
    first_ids, second_ids = (
        set(question_sums(rule, run.answers, run.judgments, categories=categories).ids) for run in (first, second)
    )
    return len(first_ids - second_ids), len(second_ids - first_ids)


def _paired_sums(
    first: RunRows,
    second: RunRows,
    categories: Mapping[str, str] | None,
    sums_of: SumsOf = run_sums,
    *,
    metric: str | None = None,
) -> list[tuple[QuestionSums, QuestionSums]]:
    """Return both runs' sums over common questions per ratio metric, for metrics with at least two common questions.

    `metric`: only this one.
    """
    pairs = []
    for rule in rules_of(first.card.suite, first.card.headline, first.judgments):
        if metric not in (None, rule.metric):
            continue
        # a rule for one category cannot select its questions without the suite's data
        if rule.category is not None and categories is None:
            continue
        first_sums, second_sums = (sums_of(rule, run, categories=categories) for run in (first, second))
        shared = common([first_sums, second_sums])
        # one question has no spread, so no error could be estimated
        if len(shared[0].ids) >= 2:
            pairs.append((shared[0], shared[1]))
    return pairs


def _by_metric(
    pairs: Sequence[tuple[QuestionSums, QuestionSums]], clusters: Mapping[str, str], seed: int
) -> list[Difference]:
    """Return the paired difference of each metric, over all questions. Questions of one cluster count as one."""
    rows = [paired(first.by_cluster(clusters), second.by_cluster(clusters), None, seed) for first, second in pairs]
    return [row for row in rows if row is not None]


def _by_cards(first: RunRows, second: RunRows, *, from_rows: Container[tuple[str, str | None]]) -> list[Difference]:
    """Return the differences by the cards' own errors, of the stated metrics that rows do not give (`from_rows`)."""
    rows = [
        unpaired(first.card, second.card, metric, category)
        for metric, category in _stated_metrics(first)
        if (metric, category) not in from_rows
    ]
    return [row for row in rows if row is not None]


def _by_category(main: tuple[QuestionSums, QuestionSums], categories: Mapping[str, str], seed: int) -> list[Difference]:
    ids_by_category: dict[str, list[str]] = {}
    for prompt_id in main[0].ids:
        ids_by_category.setdefault(categories[prompt_id], []).append(prompt_id)
    if len(ids_by_category) < 2:
        return []
    rows = [paired(main[0].of(ids), main[1].of(ids), name, seed) for name, ids in ids_by_category.items()]
    return [row for row in rows if row is not None]


def _notes(
    first: RunRows, second: RunRows, categories: Mapping[str, str] | None, fits: Refits | None
) -> tuple[str, ...]:
    notes = []
    if first.audit is not None and second.audit is not None:
        notes.append("differences are on the scale of the audit's judge; flips and orders are the cheap judge's")
    if not first.judgments or not second.judgments:
        notes.append("one run has no judgments, so nothing is paired and the intervals are wide")
    elif categories is None:
        notes.append("the suite's data are missing, so there are no categories")
    facts, headline = facts_of(first.card.suite), first.card.headline
    rules = facts.rules_of(headline)
    if first.judgments and fits is None and rules and all(rule.metric != headline for rule in rules):
        notes.append(f"the {facts.metric(headline).title} could not be refitted for both")
    return (*notes, *_unknown_fields(first.card))


def _own_notes(first: RunRows, second: RunRows, main: tuple[QuestionSums, QuestionSums] | None) -> tuple[str, ...]:
    """Return the notes on a benchmark that scored by itself: why its headline is not paired, and unknown fields."""
    notes = []
    bare = [run.name for run in (first, second) if not run.questions]
    if bare:
        advice = facts_of(first.card.suite).pairing
        whose = " and ".join(bare)
        notes.append(
            f"no scores of single questions of {whose}, so nothing is paired and the intervals are wide: {advice}"
        )
    elif main is None:
        notes.append(
            f"{first.card.headline} is not paired, so its interval is wide: the runs share too few questions, or it is "
            "no mean over them"
        )
    return (*notes, *_unknown_fields(first.card))


def _unknown_fields(card: ScoreCard) -> list[str]:
    unknown = sorted(key for key, value in card.protocol.items() if "unknown" in repr(value))
    if not unknown:
        return []
    return [f"these protocol fields are unknown, so the runs may differ in them: {', '.join(unknown)}"]


def _categories(run: RunRows, categories: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return question id -> category: of the suite's data, or of a benchmark that scored by itself, the rows' own."""
    if categories is not None:
        return categories
    return {row.question: row.category for row in run.questions if row.category is not None}


def _flips(
    run: RunRows,
    main: tuple[QuestionSums, QuestionSums] | None,
    categories: Mapping[str, str] | None,
    doubts: Orders | None,
) -> tuple[Flip, ...]:
    better = main is not None and higher_is_better(run.card, main[0].metric)
    if main is None or better is None:
        return ()
    middle = _middle(run, main)
    return flips(*main, _categories(run, categories), doubts, middle=middle, less_is_better=not better)


def _middle(run: RunRows, main: tuple[QuestionSums, QuestionSums]) -> float | None:
    """Return the score of a question that nobody wins, or None if questions have ratings."""
    if not run.questions:
        return None if main[0].scale == 1.0 else 50.0
    values = np.concatenate([sums.scores() for sums in main])
    return 0.5 if values.min() >= 0 and values.max() <= 1 else None


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Apply Holm's correction per suite and metric.

    For all questions it is over the models, for the categories over models and categories: of two equal models, some
    category of MT-Bench has p <= 0.05 in a fifth of cases.
    """
    families: defaultdict[tuple[str, str, str, bool], list[float]] = defaultdict(list)
    for comparison in comparisons:
        for row in comparison.differences:
            families[_family(comparison, row)].append(row.p)
    # rows of one family come in this order again, so an iterator deals them back
    corrected = {key: iter(holm(p_values)) for key, p_values in families.items() if len(p_values) > 1}
    results = []
    for comparison in comparisons:
        rows = []
        for row in comparison.differences:
            key = _family(comparison, row)
            update = {"p_adjusted": next(corrected[key]), "tests": len(families[key])} if key in corrected else {}
            rows.append(row.model_copy(update=update))
        results.append(comparison.model_copy(update={"differences": tuple(rows)}))
    return results


def _family(comparison: Comparison, row: Difference) -> tuple[str, str, str, bool]:
    return comparison.suite, comparison.suite_version, row.metric, row.category is not None


def differing(first: ScoreCard, second: ScoreCard) -> list[str]:
    """Return sentences on what makes two cards incomparable, or none if they are comparable."""
    differences = []
    for name in ("suite", "suite_version"):
        first_value, second_value = getattr(first, name), getattr(second, name)
        if first_value != second_value:
            differences.append(f"{name}: {first_value!r} and {second_value!r}")
    return differences + differing_protocols(first.protocol, second.protocol)


def differing_protocols(first: Mapping[str, JsonValue], second: Mapping[str, JsonValue]) -> list[str]:
    """Return sentences on the fields in which two protocols differ, except suite and version."""
    return [
        f"{key}: {_short(first.get(key))} and {_short(second.get(key))}"
        for key in sorted({*first, *second} - {"suite", "suite_version"})
        if first.get(key) != second.get(key)
    ]


def _short(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def unscored_share(score: Score) -> float | None:
    """Return the share of questions without a score, 0..1, or None if a value has no number of questions."""
    total = score.n + score.unscored
    if not total:
        return None if score.value is not None else 1.0
    return score.unscored / total


def judge_failures(card: ScoreCard) -> float | None:
    """Return the share of judgments without a verdict, or None if the card does not count them."""
    unjudged, judged = card.counts.get("unjudged"), card.counts.get("judgments")
    if not isinstance(unjudged, dict) or not isinstance(judged, int):
        return None
    failed = sum(value for value in unjudged.values() if isinstance(value, int))
    return failed / (failed + judged) if failed + judged else None
