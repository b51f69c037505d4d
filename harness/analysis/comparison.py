"""The difference of two models on the same questions, by sums, by refitting, or by two cards' errors. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import JsonValue

from ..records import Answer, Judgment, Prompt, Record, Score, ScoreCard
from ..records.protocols import Refits, RefitsPairs, RunRows
from ..stats.intervals import FloatArray, percentile_interval
from ..stats.paired import (
    ClusteredEstimate,
    correlation,
    detectable,
    holm,
    paired_difference,
    required_n,
    swap_test,
    two_sided_p,
)
from ..suites.scoring import QuestionSums, common, disagreements, latest_answers, question_sums, rules_of

ALPHA = 0.05
Method = Literal["paired", "refitted", "unpaired"]


class Difference(Record):
    """Other minus first, for one metric over one category or all questions, in the metric's unit."""

    metric: str
    category: str | None
    """None: all questions."""
    first: float
    other: float
    """Both on the common questions only."""
    value: float
    ci_low: float
    ci_high: float
    """95 %: t over questions (paired), bootstrap percentiles (refitted), normal (unpaired)."""
    se: float
    df: int
    """Degrees of freedom of `se`; 0: normal."""
    p: float
    """Two-sided: exact permutation (paired), normal (refitted, unpaired)."""
    p_adjusted: float | None = None
    """Holm-adjusted over the models compared with the first; None if there is only one."""
    detectable: float
    """The smallest true difference that such a comparison detects with 80 % power at 5 %, two-sided."""
    needed: int | None
    """Questions needed to detect a true difference of this size; None if the difference is 0."""
    n: int
    """Common questions."""
    correlation: float | None = None
    """Correlation of the two models' question scores: what pairing gains."""
    method: Method

    def estimate(self) -> ClusteredEstimate:
        return ClusteredEstimate(self.value, self.se, self.df, self.n)


def paired(first: QuestionSums, second: QuestionSums, category: str | None, seed: int) -> Difference | None:
    """Return the paired difference over the same questions in the same order; None if there is no error estimate."""
    first_terms, second_terms = (first.above, first.below), (second.above, second.below)
    estimate = paired_difference(second_terms, first_terms, scale=first.scale)
    if estimate is None or first.value is None or second.value is None:
        return None
    low, high = estimate.interval()
    return Difference(
        metric=first.metric,
        category=category,
        first=first.value,
        other=second.value,
        value=estimate.value,
        ci_low=low,
        ci_high=high,
        se=estimate.se,
        df=int(estimate.df),  # an integer for all but crossed means
        p=swap_test(second_terms, first_terms, seed=seed),
        detectable=detectable(estimate.se, alpha=ALPHA / 2),
        needed=required_n(estimate.n, estimate.se, estimate.value, alpha=ALPHA / 2),
        n=estimate.n,
        correlation=correlation(first.scores(), second.scores()),
        method="paired",
    )


def refitted(refits: Refits) -> Difference:
    """Return the difference of two fitted values by bootstrap replicates that share their questions."""
    value = refits.values[1] - refits.values[0]
    apart = refits.replicates[1] - refits.replicates[0]
    interval = percentile_interval(apart)
    assert interval is not None, "a fit is refitted at least twice"
    return Difference(
        metric=refits.metric,
        category=None,
        first=refits.values[0],
        other=refits.values[1],
        value=value,
        ci_low=interval.low,
        ci_high=interval.high,
        se=interval.se,
        df=0,
        p=two_sided_p(apart, value),
        detectable=detectable(interval.se, alpha=ALPHA / 2),
        needed=required_n(refits.n, interval.se, value, alpha=ALPHA / 2),
        n=refits.n,
        correlation=correlation(*refits.replicates),
        method="refitted",
    )


def unpaired(first: ScoreCard, second: ScoreCard) -> list[Difference]:
    """Return the difference of two headlines by the cards' own errors, as if the questions were independent.

    Used if there are no rows to pair.
    """
    first_score, second_score = first.scores[first.headline], second.scores.get(first.headline)
    if (
        second_score is None
        or first_score.value is None
        or second_score.value is None
        or first_score.se is None
        or second_score.se is None
    ):
        return []
    value, se = second_score.value - first_score.value, float((first_score.se**2 + second_score.se**2) ** 0.5)
    estimate = ClusteredEstimate(value, se, 0, min(first_score.n, second_score.n))
    low, high = estimate.interval()
    return [
        Difference(
            metric=first.headline,
            category=None,
            first=first_score.value,
            other=second_score.value,
            value=value,
            ci_low=low,
            ci_high=high,
            se=se,
            df=0,
            p=estimate.p_two_sided(),
            detectable=detectable(se, alpha=ALPHA / 2),
            needed=required_n(estimate.n, se, value, alpha=ALPHA / 2),
            n=estimate.n,
            method="unpaired",
        )
    ]


# ----------------------------------------------------------------------------------------------------
# What changed between two runs besides the score: flipped questions, lengths, truncation, doubtful verdicts. Pure.


RATING_FLIP = 2.0
"""A question flips if its rating moves by this many points: twice the step that most judges use."""
CONTRADICTION = 0.5
"""Two orders contradict each other if their preferences differ by more: a win in one, a loss in the other."""


class Flip(Record):
    """A question that one model wins and the other loses; with ratings, one that moved by two points or more."""

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


def flips(
    first: QuestionSums, second: QuestionSums, categories: Mapping[str, str], doubts: Orders | None
) -> tuple[Flip, ...]:
    """Return the flipped questions, the largest changes first."""
    rating = first.scale == 1.0
    doubted = set(doubts.either) if doubts is not None else set()
    flipped = []
    for prompt_id, first_score, second_score in zip(first.ids, first.scores(), second.scores(), strict=True):
        crossed = (
            abs(second_score - first_score) >= RATING_FLIP if rating else (first_score - 50) * (second_score - 50) < 0
        )
        if crossed:
            flipped.append(
                Flip(
                    prompt_id=prompt_id,
                    category=categories.get(prompt_id),
                    first=float(first_score),
                    other=float(second_score),
                    kind="gained" if second_score > first_score else "lost",
                    doubtful=prompt_id in doubted,
                )
            )
    return tuple(sorted(flipped, key=lambda flip: -abs(flip.other - flip.first)))


def order_doubts(
    first_answers: Sequence[Answer],
    first_judgments: Sequence[Judgment],
    other_answers: Sequence[Answer],
    other_judgments: Sequence[Judgment],
    main: tuple[QuestionSums, QuestionSums] | None,
) -> Orders | None:
    """Return doubts about order, or None if no question was judged in both orders for both models."""
    first_gaps = disagreements(first_answers, first_judgments)
    second_gaps = disagreements(other_answers, other_judgments)
    both = [prompt_id for prompt_id in first_gaps if prompt_id in second_gaps]
    if not both or main is None:
        return None
    doubted = [prompt_id for prompt_id in both if max(first_gaps[prompt_id], second_gaps[prompt_id]) > CONTRADICTION]
    kept = [prompt_id for prompt_id in main[0].ids if prompt_id not in set(doubted)]
    values = [part.of(kept).value for part in main]
    return Orders(
        judged_twice=len(both),
        first=sum(first_gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        other=sum(second_gaps[prompt_id] > CONTRADICTION for prompt_id in both),
        either=tuple(doubted),
        without=None if values[0] is None or values[1] is None else values[1] - values[0],
    )


def shifts(first: Sequence[Answer], second: Sequence[Answer]) -> tuple[AnswerShift, ...]:
    """Return shifts of characters, tokens (if both runs count them) and truncation, over the answers that both gave."""
    first_answers, second_answers = latest_answers(first), latest_answers(second)
    keys = [
        key
        for key in first_answers
        if key in second_answers and first_answers[key].error is None and second_answers[key].error is None
    ]
    measures: dict[str, Callable[[Answer], float]] = {
        "characters": lambda answer: sum(map(len, answer.turns)),
        "tokens": lambda answer: sum(answer.completion_tokens),
        "truncated, percent": lambda answer: 100.0 * answer.truncated,
    }
    measured = []
    for name, measure in measures.items():
        pair = [
            np.array([measure(part[key]) for key in keys], dtype=np.float64) for part in (first_answers, second_answers)
        ]
        known = name != "tokens" or all(
            first_answers[key].completion_tokens and second_answers[key].completion_tokens for key in keys
        )
        if len(keys) >= 2 and known:
            measured.append(_shift(name, pair[0], pair[1], [key[0] for key in keys]))
    return tuple(measured)


def _shift(name: str, first: FloatArray, second: FloatArray, clusters: Sequence[str]) -> AnswerShift:
    weights = np.ones(len(first))
    estimate = paired_difference((second, weights), (first, weights), clusters=clusters)
    low, high = estimate.interval() if estimate is not None else (None, None)
    return AnswerShift(
        name=name,
        first=float(first.mean()),
        other=float(second.mean()),
        value=float(second.mean() - first.mean()),
        ci_low=low,
        ci_high=high,
        n=len(first),
    )


# ----------------------------------------------------------------------------------------------------
# Compare runs of two or more models on one suite, question by question. Pure: rows in, records out. The first model
# is the reference: every difference is "other minus first", on the questions with a verdict for both. Only runs of
# one protocol are comparable; `differing` lists what makes two incomparable.


class Comparison(Record):
    """One model compared with the first, on one suite."""

    suite: str
    suite_version: str
    first: str
    other: str
    judge: str
    headline: str
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

    def difference(self, metric: str, category: str | None = None) -> Difference | None:
        return next((row for row in self.differences if (row.metric, row.category) == (metric, category)), None)


def differing(first: ScoreCard, second: ScoreCard) -> list[str]:
    """Return sentences on what makes two cards incomparable; empty if they are comparable."""
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


def compare(
    first: RunRows, second: RunRows, *, prompts: Sequence[Prompt] | None = None, suite: object = None, seed: int = 0
) -> Comparison:
    """Return all differences of two runs of one suite.

    `prompts` are the prompts of the runs, for categories; None if they are unknown.
    """
    categories = None if prompts is None else {prompt.id: prompt.category for prompt in prompts}
    pairs = _paired_sums(first, second, categories)
    fits = suite.paired_refits(prompts, first, second) if isinstance(suite, RefitsPairs) and prompts else None
    rows = [paired(first_sums, second_sums, None, seed) for first_sums, second_sums in pairs]
    differences = [refitted(fits)] if fits is not None else []
    differences += [row for row in rows if row is not None]
    main = pairs[0] if pairs else None
    if main is not None and categories is not None:
        differences += _by_category(main, categories, seed)
    judged = {row.metric for row in differences}
    differences += [row for row in unpaired(first.card, second.card) if row.metric not in judged]
    headline = first.card.headline
    differences.sort(
        key=lambda row: row.metric != headline or row.category is not None
    )  # stable: the headline comes first
    alone = _alone(first, second, categories)
    doubts = order_doubts(first.answers, first.judgments, second.answers, second.judgments, main)
    return Comparison(
        suite=first.card.suite,
        suite_version=first.card.suite_version,
        first=first.name,
        other=second.name,
        judge=first.card.judge,
        headline=headline,
        differences=tuple(differences),
        only_first=alone[0],
        only_other=alone[1],
        flips=() if main is None else flips(*main, categories or {}, doubts),
        shifts=shifts(first.answers, second.answers),
        orders=doubts,
        forced=tuple(differing(first.card, second.card)),
        notes=_notes(first, second, categories, fits),
    )


def _paired_sums(
    first: RunRows, second: RunRows, categories: Mapping[str, str] | None
) -> list[tuple[QuestionSums, QuestionSums]]:
    """Return both runs' sums over common questions per ratio metric, for metrics with at least two common questions."""
    pairs = []
    for rule in rules_of(first.card.suite, first.card.headline, first.judgments):
        if rule.category is not None and categories is None:
            continue
        first_sums, second_sums = (
            question_sums(rule, run.answers, run.judgments, categories=categories) for run in (first, second)
        )
        shared = common([first_sums, second_sums])
        if len(shared[0].ids) >= 2:
            pairs.append((shared[0], shared[1]))
    return pairs


def _alone(first: RunRows, second: RunRows, categories: Mapping[str, str] | None) -> tuple[int, int]:
    rules = rules_of(first.card.suite, first.card.headline, first.judgments)
    first_ids, second_ids = (
        set(question_sums(rules[0], run.answers, run.judgments, categories=categories).ids) for run in (first, second)
    )
    return len(first_ids - second_ids), len(second_ids - first_ids)


def _by_category(main: tuple[QuestionSums, QuestionSums], categories: Mapping[str, str], seed: int) -> list[Difference]:
    names = dict.fromkeys(categories[prompt_id] for prompt_id in main[0].ids)
    differences = []
    for name in names if len(names) > 1 else ():
        ids = [prompt_id for prompt_id in main[0].ids if categories[prompt_id] == name]
        differences.append(paired(main[0].of(ids), main[1].of(ids), name, seed))
    return [row for row in differences if row is not None]


def _notes(
    first: RunRows, second: RunRows, categories: Mapping[str, str] | None, fits: Refits | None
) -> tuple[str, ...]:
    notes = []
    if not first.judgments or not second.judgments:
        notes.append("no judgments of one run: nothing is paired, so the intervals are wide")
    elif categories is None:
        notes.append("the suite's data are not here: no categories")
    if first.judgments and fits is None and first.card.headline == "lc_win_rate":
        notes.append("the length-controlled win rate could not be refitted for both")
    unknown = sorted(key for key, value in first.card.protocol.items() if "unknown" in repr(value))
    if unknown:
        notes.append(f"not known of these runs, so equality is not certain: {', '.join(unknown)}")
    return tuple(notes)


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Apply Holm's correction over the models compared with the first, per suite, metric and category."""
    groups: dict[tuple[str, str, str, str | None], list[float]] = {}
    for comparison in comparisons:
        for row in comparison.differences:
            groups.setdefault((comparison.suite, comparison.suite_version, row.metric, row.category), []).append(row.p)
    corrected = {key: iter(holm(values)) for key, values in groups.items()}
    if all(len(values) < 2 for values in groups.values()):
        return list(comparisons)
    return [
        comparison.model_copy(
            update={
                "differences": tuple(
                    row.model_copy(
                        update={
                            "p_adjusted": next(
                                corrected[comparison.suite, comparison.suite_version, row.metric, row.category]
                            )
                        }
                    )
                    for row in comparison.differences
                )
            }
        )
        for comparison in comparisons
    ]


def unscored_share(score: Score) -> float:
    total = score.n + score.unscored
    return score.unscored / total if total else 1.0


def judge_failures(card: ScoreCard) -> float | None:
    """Return the share of judgments without a verdict; None if the card does not count them."""
    unjudged, judged = card.counts.get("unjudged"), card.counts.get("judgments")
    if not isinstance(unjudged, dict) or not isinstance(judged, int):
        return None
    failed = sum(Counter({key: value for key, value in unjudged.items() if isinstance(value, int)}).values())
    return failed / (failed + judged) if failed + judged else None
