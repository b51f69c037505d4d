"""Agreement of a judge with people, with the judge it replaces, and with itself. Pure: items and words in, scores out.

Every interval takes a question as the unit: its turns, its pairs of models and its votes move together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from ..records import Judgment, Score
from ..stats.agreement import (
    Measure,
    agreement,
    flip_rate,
    krippendorff_alpha,
    mean_measure,
    position_consistency,
    share_measure,
)
from .items import Comparison, Item, Rated, Said, side

SaidOf = Mapping[str, Said]
Vote = tuple[str, str, str]
"""The judge's side, the other's side, the question."""


def score_of(measure: Measure, *, unscored: int = 0, scale: float = 1.0) -> Score:
    """A measure as cards have it."""
    if measure.value is None:
        return Score(value=None, n=measure.n, unscored=unscored)
    interval = measure.interval
    if interval is None:
        return Score(value=scale * measure.value, n=measure.n, unscored=unscored)
    return Score(
        value=scale * measure.value,
        ci_low=scale * interval.low,
        ci_high=scale * interval.high,
        se=scale * interval.se,
        n=measure.n,
        unscored=unscored,
    )


def with_people(comparisons: Sequence[Comparison], said: SaidOf) -> dict[str, Score]:
    """One row a vote. `_decided`: neither side says tie (the paper's setup S2), else all (S1).

    FastChat compute_agreement counts the same rows; tests hold every figure of its table.
    """
    rows, lost = _people_rows(comparisons, said)
    return _pair_scores("people", rows, lost)


def _people_rows(comparisons: Sequence[Comparison], said: SaidOf) -> tuple[list[Vote], int]:
    rows, lost = [], 0
    for item in comparisons:
        value = said[item.id].value if item.id in said else None
        if value is None:
            lost += len(item.people)
            continue
        rows += [(side(value), side(vote), item.question) for vote in item.people]
    return rows, lost


def with_retired(comparisons: Sequence[Comparison], said: SaidOf) -> dict[str, Score]:
    """One row a comparison that the retired judge decided as well."""
    rows, lost = [], 0
    for item in comparisons:
        value = said[item.id].value if item.id in said else None
        if item.recorded is None:
            continue
        if value is None:
            lost += 1
            continue
        rows.append((side(value), side(item.recorded), item.question))
    return _pair_scores("retired", rows, lost)


def _pair_scores(name: str, rows: Sequence[Vote], lost: int) -> dict[str, Score]:
    decided = [row for row in rows if "tie" not in row[:2]]
    found = {}
    for ending, some in (("", rows), ("_decided", decided)):
        both = agreement([row[0] for row in some], [row[1] for row in some], [row[2] for row in some])
        found[f"agreement_{name}{ending}"] = score_of(both.raw, unscored=lost if not ending else 0)
        found[f"kappa_{name}{ending}"] = score_of(both.kappa)
    return found


def people_among_themselves(comparisons: Sequence[Comparison]) -> dict[str, Score]:
    """Every pair of votes on one comparison: what a judge's agreement with people is to be compared with."""
    rows = [
        (side(one), side(other), item.question) for item in comparisons for one, other in combinations(item.people, 2)
    ]
    found = {
        name.replace("_others", "_among_people"): score
        for name, score in _pair_scores("others", rows, 0).items()
        if name.startswith("agreement")
    }
    alpha = krippendorff_alpha([[side(vote) for vote in item.people] for item in comparisons])
    found["alpha_among_people"] = Score(value=alpha, n=sum(len(item.people) > 1 for item in comparisons))
    return found


def with_itself(comparisons: Sequence[Comparison], said: SaidOf) -> dict[str, Score]:
    """Position consistency, and what share of the points goes to the answer shown first (0.5: no preference)."""
    known = [(item, said[item.id]) for item in comparisons if item.id in said and said[item.id].consistent is not None]
    same = np.array([float(bool(one.consistent)) for _, one in known])
    found = {"position_consistency": score_of(share_measure(same, [item.question for item, _ in known]))}
    games = [(item.question, one.games) for item, one in known if one.games is not None]
    if games:
        table = np.array([pair for _, pair in games])
        shown = position_consistency(table[:, 0], table[:, 1], [question for question, _ in games]).first_shown
        found["points_of_first_shown"] = score_of(shown)
    return found


def rating_scores(ratings: Sequence[Rated], said: SaidOf) -> dict[str, Score]:
    """Ratings (1..10) beside the retired judge's: mean difference, mean absolute difference, share equal, alpha."""
    rows = []
    lost = 0
    for item in ratings:
        value = said[item.id].value if item.id in said else None
        if item.recorded is not None and value is None:
            lost += 1
        elif item.recorded is not None and value is not None:
            rows.append((value, item.recorded, item.question))
    ours, theirs = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    questions = [row[2] for row in rows]
    alpha = krippendorff_alpha([[one, other] for one, other, _ in rows], interval_metric=True)
    return {
        "rating_difference": score_of(mean_measure(ours - theirs, questions), unscored=lost),
        "rating_distance": score_of(mean_measure(np.abs(ours - theirs), questions)),
        "ratings_equal": score_of(share_measure((ours == theirs).astype(np.float64), questions)),
        "rating_alpha": Score(value=alpha, n=len(rows)),
    }


def people_by_ratings(comparisons: Sequence[Comparison], ratings: Sequence[Rated], said: SaidOf) -> dict[str, Score]:
    """Agreement with people of the pairs that two single ratings make: the higher wins, equal ones tie."""
    by_answer = {(item.model, item.prompt.id, item.turn): said[item.id].value for item in ratings if item.id in said}
    made = {}
    for item in comparisons:
        place = item.prompt.id, item.turn or 1
        one, other = by_answer.get((item.candidate, *place)), by_answer.get((item.baseline, *place))
        if one is not None and other is not None:
            made[item.id] = Said(float(np.sign(one - other) / 2 + 0.5))
    rated = [item for item in comparisons if item.id in made and item.people]
    found = with_people(rated, made)
    return {name.replace("_people", "_people_by_ratings"): score for name, score in found.items()}


def repeat_flips(items: Sequence[Item], judgments: Sequence[Judgment]) -> dict[str, Score]:
    """Chance that two repeats of one question (same judge, same order) end otherwise: of comparisons another side,
    of ratings another number."""
    questions = {item.id: item.question for item in items}
    said: dict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for row in judgments:
        if row.verdict is not None and row.prompt_id in questions:
            value = row.verdict.value
            said[row.prompt_id, row.judge, row.order].append(f"{value:g}" if row.order is None else side(value))
    flips = flip_rate(list(said.values()), [questions[item] for item, _, _ in said])
    return {"flips_between_repeats": score_of(flips)} if flips.n else {}
