"""Runs of two or more models on one suite -> differences on the same questions. Pure: rows in, records out.

The first model is what the others are compared with: every difference is "other minus first", on the questions that
both have a verdict for. Only runs of one protocol are comparable; `differing` says what keeps two apart.
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
from .shifts import Flip, Orders, Shift, flips, order_doubts, shifts


class Comparison(Record):
    """One model beside the first, on one suite."""

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
    """Questions with a verdict for one of the two alone; no difference counts them."""
    flips: tuple[Flip, ...] = ()
    shifts: tuple[Shift, ...] = ()
    orders: Orders | None = None
    forced: tuple[str, ...] = ()
    """What differs between the protocols, where they were compared all the same."""
    notes: tuple[str, ...] = ()

    def difference(self, metric: str, category: str | None = None) -> Difference | None:
        return next((one for one in self.differences if (one.metric, one.category) == (metric, category)), None)


def differing(first: ScoreCard, other: ScoreCard) -> list[str]:
    """Sentences on what makes two cards incomparable; none: they are comparable."""
    found = []
    for name in ("suite", "suite_version"):
        mine, theirs = getattr(first, name), getattr(other, name)
        if mine != theirs:
            found.append(f"{name}: {mine!r} and {theirs!r}")
    return found + differing_protocols(first.protocol, other.protocol)


def differing_protocols(first: Mapping[str, JsonValue], other: Mapping[str, JsonValue]) -> list[str]:
    """Sentences on the fields in which two protocols differ, suite and version apart."""
    return [
        f"{key}: {_short(first.get(key))} and {_short(other.get(key))}"
        for key in sorted({*first, *other} - {"suite", "suite_version"})
        if first.get(key) != other.get(key)
    ]


def _short(value: JsonValue) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def compare(
    first: RunRows, other: RunRows, *, prompts: Sequence[Prompt] | None = None, suite: object = None, seed: int = 0
) -> Comparison:
    """All differences of two runs of one suite. `prompts`: those asked, for categories; None: not known here."""
    categories = None if prompts is None else {prompt.id: prompt.category for prompt in prompts}
    pairs = _paired_sums(first, other, categories)
    fits = suite.paired_refits(prompts, first, other) if isinstance(suite, RefitsPairs) and prompts else None
    rows = [paired(mine, theirs, None, seed) for mine, theirs in pairs]
    found = [refitted(fits)] if fits is not None else []
    found += [one for one in rows if one is not None]
    main = pairs[0] if pairs else None
    if main is not None and categories is not None:
        found += _by_category(main, categories, seed)
    judged = {one.metric for one in found}
    found += [one for one in unpaired(first.card, other.card) if one.metric not in judged]
    headline = first.card.headline
    found.sort(key=lambda one: one.metric != headline or one.category is not None)  # stable: the headline comes first
    alone = _alone(first, other, categories)
    doubts = order_doubts(first.answers, first.judgments, other.answers, other.judgments, main)
    return Comparison(
        suite=first.card.suite,
        suite_version=first.card.suite_version,
        first=first.name,
        other=other.name,
        judge=first.card.judge,
        headline=headline,
        differences=tuple(found),
        only_first=alone[0],
        only_other=alone[1],
        flips=() if main is None else flips(*main, categories or {}, doubts),
        shifts=shifts(first.answers, other.answers),
        orders=doubts,
        forced=tuple(differing(first.card, other.card)),
        notes=_notes(first, other, categories, fits),
    )


def _paired_sums(
    first: RunRows, other: RunRows, categories: Mapping[str, str] | None
) -> list[tuple[QuestionSums, QuestionSums]]:
    """The suite's ratio metrics on common questions; those without two common questions are left out."""
    found = []
    for rule in rules_of(first.card.suite, first.card.headline, first.judgments):
        if rule.category is not None and categories is None:
            continue
        mine, theirs = (
            question_sums(rule, one.answers, one.judgments, categories=categories) for one in (first, other)
        )
        shared = common([mine, theirs])
        if len(shared[0].ids) >= 2:
            found.append((shared[0], shared[1]))
    return found


def _alone(first: RunRows, other: RunRows, categories: Mapping[str, str] | None) -> tuple[int, int]:
    rules = rules_of(first.card.suite, first.card.headline, first.judgments)
    mine, theirs = (
        set(question_sums(rules[0], one.answers, one.judgments, categories=categories).ids) for one in (first, other)
    )
    return len(mine - theirs), len(theirs - mine)


def _by_category(main: tuple[QuestionSums, QuestionSums], categories: Mapping[str, str], seed: int) -> list[Difference]:
    names = dict.fromkeys(categories[one] for one in main[0].ids)
    found = []
    for name in names if len(names) > 1 else ():
        ids = [one for one in main[0].ids if categories[one] == name]
        found.append(paired(main[0].of(ids), main[1].of(ids), name, seed))
    return [one for one in found if one is not None]


def _notes(
    first: RunRows, other: RunRows, categories: Mapping[str, str] | None, fits: Refits | None
) -> tuple[str, ...]:
    notes = []
    if not first.judgments or not other.judgments:
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
    """Holm over the models that were compared with the first, for each suite, metric and category."""
    groups: dict[tuple[str, str, str, str | None], list[float]] = {}
    for one in comparisons:
        for row in one.differences:
            groups.setdefault((one.suite, one.suite_version, row.metric, row.category), []).append(row.p)
    corrected = {key: iter(holm(values)) for key, values in groups.items()}
    if all(len(values) < 2 for values in groups.values()):
        return list(comparisons)
    return [
        one.model_copy(
            update={
                "differences": tuple(
                    row.model_copy(
                        update={"p_adjusted": next(corrected[one.suite, one.suite_version, row.metric, row.category])}
                    )
                    for row in one.differences
                )
            }
        )
        for one in comparisons
    ]


def unscored_share(score: Score) -> float:
    asked = score.n + score.unscored
    return score.unscored / asked if asked else 1.0


def judge_failures(card: ScoreCard) -> float | None:
    """Share of judgments without a verdict; None where the card does not count them."""
    unjudged, judged = card.counts.get("unjudged"), card.counts.get("judgments")
    if not isinstance(unjudged, dict) or not isinstance(judged, int):
        return None
    failed = sum(Counter({key: value for key, value in unjudged.items() if isinstance(value, int)}).values())
    return failed / (failed + judged) if failed + judged else None
