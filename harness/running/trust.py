"""Measure how far verdicts can be trusted between judges, orders and repeats, and their part of a score's error. Pure.

Outcomes are compared: win, draw or loss of a preference, the value of a rating (`jury.outcome_of`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from ..judging.jury import Combined, by_question, outcome_of
from ..records import AnchorCheck, Judging, Judgment, PairAgreement, Rating, Score, VarianceParts, Verdict
from ..records.facts import QuestionRule
from ..stats.agreement import Measure, agreement, flip_rate, krippendorff_alpha, mean_measure, position_consistency
from ..stats.intervals import FloatArray
from ..stats.variance import IntArray, Split, centred, variance_split
from ..suites.scoring import score_of, verdict_weight

Level = str
LEVELS = ("question", "generation", "judge", "repeat")


def judging(
    judgments: Sequence[Judgment],
    combined: Combined | None,
    *,
    repeats: int,
    rule: QuestionRule,
    categories: Mapping[str, str],
    headline: Callable[[Sequence[Judgment]], Score],
) -> Judging:
    """Return the consistency of these judgments, which are the members' own, failures included.

    `combined`: the jury's verdicts; None for a single judge. `rule` (the headline's) and `categories` (prompt id ->
    category) are for the variance; `headline` maps judgments to the suite's headline score.
    """
    by_judge: dict[str, list[Judgment]] = defaultdict(list)
    for row in judgments:
        by_judge[row.judge].append(row)
    decided = [row for row in judgments if row.verdict is not None]
    summary = Judging(
        repeats=repeats,
        order_flips=_each(by_judge, lambda rows: order_flips(rows)[0]),
        first_shown=_each(by_judge, lambda rows: order_flips(rows)[1]),
        repeat_flips=_each(by_judge, repeat_flips),
        variance=variance_parts(
            [row for row in decided if rule.category in (None, categories.get(row.prompt_id))], rule
        ),
    )
    if combined is None:
        return summary
    jury = combined.jury
    return summary.model_copy(
        update={
            "rule": jury.rule,
            "jury": combined.counts,
            "members": {name: headline(by_judge.get(name, [])) for name in jury.members},
            "agreement": tuple(pair_agreement(by_judge, *pair) for pair in combinations(jury.members, 2)),
            "differing": differing(decided),
            "alpha": krippendorff_alpha(
                [_values(rows) for rows in by_question(decided).values()], interval_metric=True
            ),
        }
    )


def trust_notes(summary: Judging) -> list[str]:
    """Return notes for the card: missing verdicts of a jury, majorities it did not reach, judges that moved."""
    notes = []
    if summary.jury is not None:
        counts, members = summary.jury, len(summary.members)
        if counts.part:
            notes.append(f"{counts.part} of {counts.questions} questions are judged by fewer than all {members} judges")
        if counts.short:
            lacking = "no verdict of their judge" if summary.rule == "cyclic" else "verdicts of half the jury or less"
            notes.append(f"{counts.short} of {counts.questions} questions have {lacking}: unscored")
        if counts.undecided:
            notes.append(
                f"{counts.undecided} of {counts.questions} questions have no majority: a draw, or the median rating"
            )
    for name, check in summary.anchors.items():
        if check.drifted:
            notes.append(f"judge {name} drifted: its verdicts on the anchors are not those recorded ({_moved(check)})")
        elif check.drifted is None:
            notes.append(f"judge {name}: drift is unknown: {check.reason}")
    return notes


def _moved(check: AnchorCheck) -> str:
    shift, unit = check.shift, "points" if check.unit == "points" else "percent points"
    if shift.value is None or shift.ci_low is None or shift.ci_high is None or check.p is None:
        return "shift unknown"
    return f"shift {shift.value:+.2f} [{shift.ci_low:+.2f}, {shift.ci_high:+.2f}] {unit}, p {check.p:.2g}"


def _each(
    by_judge: Mapping[str, list[Judgment]], measure: Callable[[list[Judgment]], Score | None]
) -> dict[str, Score]:
    scores = {name: measure(rows) for name, rows in sorted(by_judge.items())}
    return {name: score for name, score in scores.items() if score is not None}


def _values(rows: Iterable[Judgment]) -> list[float]:
    return [row.verdict.value for row in rows if row.verdict is not None]


def percent(measure: Measure, *, flipped: bool = False) -> Score:
    """Return a share (0..1) as a score in percent, its interval cut to 0..100, or that of the opposite if `flipped`."""
    score = score_of(measure, scale=100.0)
    if score.value is None:
        return score
    low, high = score.ci_low, score.ci_high
    if flipped:
        low, high = (None if high is None else 100 - high), (None if low is None else 100 - low)
    cut = {"ci_low": None if low is None else max(0.0, low), "ci_high": None if high is None else min(100.0, high)}
    return score.model_copy(update={"value": 100 - score.value if flipped else score.value, **cut})


def order_flips(rows: Sequence[Judgment]) -> tuple[Score | None, Score | None]:
    """Return the percent of answers whose outcome changes with the order, and of points for the answer shown first.

    None if nothing was judged in both orders. `n` counts pairs of games.
    """
    games: dict[tuple[str, int, int | None, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.order is not None and row.verdict is not None and not isinstance(row.verdict, Rating):
            games[row.prompt_id, row.index, row.turn, row.repeat][row.order] = row.verdict.value
    both = {key: pair for key, pair in games.items() if len(pair) == 2}
    if not both:
        return None, None
    # "ab" shows the baseline first, so there the candidate is second
    second, first = (np.array([pair[order] for pair in both.values()]) for order in ("ab", "ba"))
    consistency = position_consistency(second, first, [key[0] for key in both])
    return percent(consistency.consistent, flipped=True), percent(consistency.first_shown)


def repeat_flips(rows: Sequence[Judgment]) -> Score | None:
    """Return the chance in percent that two repeats of one question differ, or None without repeats.

    `n` counts the repeated questions.
    """
    groups: dict[tuple[str, int, int | None, str | None], list[float]] = defaultdict(list)
    for row in rows:
        if row.verdict is not None:
            groups[row.prompt_id, row.index, row.turn, row.order].append(outcome_of(row.verdict))
    rate = flip_rate(list(groups.values()), [key[0] for key in groups])
    return percent(rate) if rate.n else None


def pair_agreement(by_judge: Mapping[str, Sequence[Judgment]], judge: str, peer: str) -> PairAgreement:
    """Return the agreement of two judges on the questions on which both gave a verdict."""
    outcomes, peer_outcomes = (
        {_key(row): outcome_of(row.verdict) for row in by_judge.get(name, ()) if row.verdict is not None}
        for name in (judge, peer)
    )
    shared = [key for key in outcomes if key in peer_outcomes]
    labels = [[side[key] for key in shared] for side in (outcomes, peer_outcomes)]
    measures = agreement(labels[0], labels[1], [key[0] for key in shared])
    return PairAgreement(one=judge, other=peer, agreement=percent(measures.raw), kappa=score_of(measures.kappa))


def _key(row: Judgment) -> tuple[str, str]:
    return row.prompt_id, "|".join(map(str, (row.index, row.turn, row.order, row.repeat)))


def differing(decided: Sequence[Judgment]) -> Score:
    """Return the percent of the questions with two or more verdicts whose outcomes are not all the same."""
    groups = {key: {outcome_of(row.verdict) for row in rows if row.verdict} for key, rows in _several(decided).items()}
    shares = np.array([float(len(outcomes) > 1) for outcomes in groups.values()])
    return percent(mean_measure(shares, [key[0] for key in groups]))


def _several(decided: Sequence[Judgment]) -> dict[tuple[str, object], list[Judgment]]:
    return {(key[0], key): rows for key, rows in by_question(decided).items() if len(rows) > 1}


def variance_parts(decided: Sequence[Judgment], rule: QuestionRule) -> VarianceParts | None:
    """Return the headline's error by its source, or None if only the questions differ.

    A verdict's value is linearised for the headline's ratio, u = r + w (v - r) / mean(w), so that Arena-Hard's strong
    verdicts keep their weight. The turns of one answer count as one value, after subtracting each turn's mean.
    """
    decided = [row for row in decided if rule.turn is None or row.turn == rule.turn]
    if not decided:
        return None
    values = linearised([row.verdict for row in decided if row.verdict is not None], rule.scale)
    # second turns are harder: without this, that would look like noise between verdicts on one answer
    values = centred(values, _labels([row.turn or 0 for row in decided]))
    facets = [(row.judge, row.order if rule.ordered else None) for row in decided]
    keys = [(row.prompt_id, row.index, facet, row.repeat) for row, facet in zip(decided, facets, strict=True)]
    cells = _labels(keys)
    means = np.bincount(cells, weights=values) / np.bincount(cells)
    split, names = _split(list(dict.fromkeys(keys)), means)
    if split is None:
        return None
    return _variance_parts(split, names, "points" if rule.scale == 1.0 else "percent")


def linearised(verdicts: Sequence[Verdict], scale: float) -> FloatArray:
    """Return each verdict's share in the weighted mean, in the headline's unit, shape (verdicts,)."""
    weights = np.array([verdict_weight(verdict) for verdict in verdicts])
    values = np.array([verdict.value for verdict in verdicts])
    ratio = weights @ values / weights.sum()
    shares: FloatArray = scale * (ratio + weights * (values - ratio) / weights.mean())
    return shares


def _split(keys: Sequence[tuple[object, ...]], values: FloatArray) -> tuple[Split | None, tuple[Level, ...]]:
    nested = [_labels([key[0] for key in keys])]
    for depth in range(1, len(LEVELS)):
        nested.append(_labels(zip(nested[-1].tolist(), [key[depth] for key in keys], strict=True)))
    levels, names = [nested[0]], [LEVELS[0]]
    for name, labels in zip(LEVELS[1:], nested[1:], strict=True):
        # a level with one member per cell of the level above (one draw, one judge) has no variance of its own
        if labels.max() > levels[-1].max():
            levels.append(labels)
            names.append(name)
    removed = [0] * len(levels)
    if "judge" in names:
        # judges and orders are the same for all questions: their mean differences move every score alike, so they are
        # taken out and cost their degrees of freedom
        facets = _labels([key[2] for key in keys])
        values = centred(values, facets)
        removed[names.index("judge")] = int(facets.max())
    return (variance_split(values, levels, removed=removed) if len(levels) > 1 else None), tuple(names)


def _labels(keys: Iterable[object]) -> IntArray:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _variance_parts(split: Split, names: Sequence[Level], unit: str) -> VarianceParts:
    variances = dict(zip(names, split.parts, strict=True))
    total = sum(variances.values())
    judges = variances.get("judge", 0.0) + variances.get("repeat", 0.0)
    return VarianceParts.model_validate(
        {
            "unit": unit,
            "questions": split.questions,
            **dict(zip(names, split.components, strict=True)),
            "truncated": tuple(names[level] for level in split.truncated),
            "se": total**0.5,
            "judge_share": 100 * judges / total if total else 0.0,
        }
    )
