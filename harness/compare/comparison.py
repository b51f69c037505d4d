"""Compare runs of two or more models on one suite, question by question. Pure: rows in, records out.

The first model is the reference: every difference is "other minus first", on the questions with a verdict for both.
Only runs of one protocol are comparable; `differing` lists what makes two incomparable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from ..differences import Difference, paired, refitted, unpaired
from ..protocols import Refits, RefitsPairs, RunRows
from ..questions import QuestionSums, common, question_sums, rules_of
from ..records import Prompt, Record, Score, ScoreCard
from ..stats.significance import holm
from .shifts import AnswerShift, Flip, Orders, flips, order_doubts, shifts


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
