"""Agreement of a judge with people, with the judge it replaces, and with itself. Pure: items and verdicts in, scores
out.

Every interval resamples whole questions, since a question's turns, model pairs and votes are correlated.
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
from .items import Item, ItemVerdict, RecordedComparison, RecordedRating, side

ItemVerdicts = Mapping[str, ItemVerdict]
Vote = tuple[str, str, str]
"""The judge's side, the reference's side, the question."""


def score_of(measure: Measure, *, unscored: int = 0, scale: float = 1.0) -> Score:
    """Return a measure as the `Score` that cards use."""
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


def with_people(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Return agreement and kappa with people, one row per vote.

    `_decided` leaves out rows with a tie on either side (setup S2 of the MT-Bench paper); the others are setup S1.
    FastChat's compute_agreement counts the same rows; the tests reproduce every number of its table.
    """
    rows, lost = _people_rows(comparisons, verdicts)
    return _pair_scores("people", rows, lost)


def _people_rows(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> tuple[list[Vote], int]:
    rows, lost = [], 0
    for item in comparisons:
        value = verdicts[item.id].value if item.id in verdicts else None
        if value is None:
            lost += len(item.people)
            continue
        rows += [(side(value), side(vote), item.question) for vote in item.people]
    return rows, lost


def with_retired(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Return agreement with the retired judge, one row per comparison that it decided too."""
    rows, lost = [], 0
    for item in comparisons:
        value = verdicts[item.id].value if item.id in verdicts else None
        if item.recorded is None:
            continue
        if value is None:
            lost += 1
            continue
        rows.append((side(value), side(item.recorded), item.question))
    return _pair_scores("retired", rows, lost)


def _pair_scores(name: str, rows: Sequence[Vote], lost: int) -> dict[str, Score]:
    decided = [row for row in rows if "tie" not in row[:2]]
    scores = {}
    for ending, votes in (("", rows), ("_decided", decided)):
        both = agreement([row[0] for row in votes], [row[1] for row in votes], [row[2] for row in votes])
        scores[f"agreement_{name}{ending}"] = score_of(both.raw, unscored=lost if not ending else 0)
        scores[f"kappa_{name}{ending}"] = score_of(both.kappa)
    return scores


def people_among_themselves(comparisons: Sequence[RecordedComparison]) -> dict[str, Score]:
    """Return the agreement of every pair of votes on one comparison: the ceiling for a judge's agreement with
    people."""
    rows = [
        (side(first_vote), side(second_vote), item.question)
        for item in comparisons
        for first_vote, second_vote in combinations(item.people, 2)
    ]
    scores = {
        name.replace("_others", "_among_people"): score
        for name, score in _pair_scores("others", rows, 0).items()
        if name.startswith("agreement")
    }
    alpha = krippendorff_alpha([[side(vote) for vote in item.people] for item in comparisons])
    scores["alpha_among_people"] = Score(value=alpha, n=sum(len(item.people) > 1 for item in comparisons))
    return scores


def with_itself(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Return position consistency and the share of points of the answer shown first (0.5: no position bias)."""
    known = [
        (item, verdicts[item.id])
        for item in comparisons
        if item.id in verdicts and verdicts[item.id].consistent is not None
    ]
    same = np.array([float(bool(verdict.consistent)) for _, verdict in known])
    scores = {"position_consistency": score_of(share_measure(same, [item.question for item, _ in known]))}
    games = [(item.question, verdict.games) for item, verdict in known if verdict.games is not None]
    if games:
        table = np.array([pair for _, pair in games])
        shown = position_consistency(table[:, 0], table[:, 1], [question for question, _ in games]).first_shown
        scores["points_of_first_shown"] = score_of(shown)
    return scores


def rating_scores(ratings: Sequence[RecordedRating], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Compare ratings (1..10) with the retired judge's: mean and mean absolute difference, share equal, alpha."""
    rows = []
    lost = 0
    for item in ratings:
        value = verdicts[item.id].value if item.id in verdicts else None
        if item.recorded is not None and value is None:
            lost += 1
        elif item.recorded is not None and value is not None:
            rows.append((value, item.recorded, item.question))
    judge_ratings, retired_ratings = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    questions = [row[2] for row in rows]
    alpha = krippendorff_alpha([[rating, retired_rating] for rating, retired_rating, _ in rows], interval_metric=True)
    return {
        "rating_difference": score_of(mean_measure(judge_ratings - retired_ratings, questions), unscored=lost),
        "rating_distance": score_of(mean_measure(np.abs(judge_ratings - retired_ratings), questions)),
        "ratings_equal": score_of(share_measure((judge_ratings == retired_ratings).astype(np.float64), questions)),
        "rating_alpha": Score(value=alpha, n=len(rows)),
    }


def people_by_ratings(
    comparisons: Sequence[RecordedComparison], ratings: Sequence[RecordedRating], verdicts: ItemVerdicts
) -> dict[str, Score]:
    """Return agreement with people of the pairs derived from two single ratings: the higher wins, equal ratings tie."""
    by_answer = {
        (item.model, item.prompt.id, item.turn): verdicts[item.id].value for item in ratings if item.id in verdicts
    }
    derived = {}
    for item in comparisons:
        turn_key = item.prompt.id, item.turn or 1
        candidate_rating, baseline_rating = (
            by_answer.get((item.candidate, *turn_key)),
            by_answer.get((item.baseline, *turn_key)),
        )
        if candidate_rating is not None and baseline_rating is not None:
            derived[item.id] = ItemVerdict(float(np.sign(candidate_rating - baseline_rating) / 2 + 0.5))
    rated = [item for item in comparisons if item.id in derived and item.people]
    scores = with_people(rated, derived)
    return {name.replace("_people", "_people_by_ratings"): score for name, score in scores.items()}


def repeat_flips(items: Sequence[Item], judgments: Sequence[Judgment]) -> dict[str, Score]:
    """Return the probability that two repeats of one judgment (same judge, same order) differ.

    Comparisons differ by side, ratings by number.
    """
    questions = {item.id: item.question for item in items}
    outcomes: dict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for row in judgments:
        if row.verdict is not None and row.prompt_id in questions:
            value = row.verdict.value
            outcomes[row.prompt_id, row.judge, row.order].append(f"{value:g}" if row.order is None else side(value))
    flips = flip_rate(list(outcomes.values()), [questions[item] for item, _, _ in outcomes])
    return {"flips_between_repeats": score_of(flips)} if flips.n else {}
