"""All measures of one judge, suite by suite, and what a user should know of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..judging.calibrated import SuiteCalibration, shown
from ..records import Score
from .bias import excess_by_model, length_scores, self_preference
from .board import board_scores, shift, win_rates
from .items import CalibrationSet, Comparison, Item, Rated
from .measures import (
    SaidOf,
    people_among_themselves,
    people_by_ratings,
    rating_scores,
    with_itself,
    with_people,
    with_retired,
)

COIN = 0.5
"""Position consistency of a judge that throws a coin and never says tie."""
PLACE_MATTERS = 0.05
"""Points (of 0..1) by which the answer shown first may gain before it is said."""
FAILED_SHARE = 0.01
"""Share of items without a verdict before it is said."""


def suite_calibration(
    one: CalibrationSet, items: Sequence[Item], said: SaidOf, *, judge_model: str, is_retired: bool
) -> SuiteCalibration:
    """One suite's part. `is_retired`: the judge is the retired one, so that its agreement with itself is left out."""
    comparisons = [item for item in items if isinstance(item, Comparison)]
    ratings = [item for item in items if isinstance(item, Rated)]
    voted = [item for item in comparisons if item.people]
    other = "people" if voted else "retired"
    scores = _comparison_scores(comparisons, said, judge_model, None if is_retired and not voted else other)
    if not is_retired:
        scores |= _beside_retired(comparisons, ratings, said)
    if ratings:
        scores |= people_by_ratings(comparisons, one.ratings, said)
    if not (is_retired and ratings):  # the board is made of those very ratings
        scores |= board_scores(ratings or comparisons, said, one.board)
    scores = {name: score for name, score in scores.items() if score.n or score.unscored}
    failures = Counter(reason for item in items for reason in said[item.id].failures)
    found = SuiteCalibration(
        retired=one.retired,
        items={
            "comparisons": len(comparisons),
            "votes": sum(len(item.people) for item in comparisons),
            "ratings": len(ratings),
        },
        scores=scores,
        by_turn=_grouped(comparisons, said, "turn", is_retired=is_retired),
        by_category=_grouped(comparisons, said, "category", is_retired=is_retired),
        excess_by_model=excess_by_model(comparisons, said, other) if voted or not is_retired else {},
        win_rates=win_rates(comparisons, said) if voted else {},
        board=one.board_name,
        failures=dict(sorted(failures.items())),
    )
    unscored = sum(said[item.id].value is None for item in items) / max(1, len(items))
    return found.model_copy(update={"findings": tuple(findings(found, other, unscored))})


def _comparison_scores(
    comparisons: Sequence[Comparison], said: SaidOf, judge_model: str, other: str | None
) -> dict[str, Score]:
    if not comparisons:
        return {}
    found = with_people(comparisons, said) | people_among_themselves(comparisons) if other == "people" else {}
    found |= with_itself(comparisons, said)
    found |= length_scores(comparisons, said, other or "retired")
    if other is None:
        return {name: score for name, score in found.items() if not name.endswith("_retired")}
    return found | self_preference(comparisons, said, judge_model, other)


def _beside_retired(comparisons: Sequence[Comparison], ratings: Sequence[Rated], said: SaidOf) -> dict[str, Score]:
    found: dict[str, Score] = {}
    if comparisons:
        found |= with_retired(comparisons, said)
        found["win_rate_shift"] = shift(comparisons, said, scale=100.0)
    return found | rating_scores(ratings, said) if ratings else found


def _grouped(
    comparisons: Sequence[Comparison], said: SaidOf, by: str, *, is_retired: bool
) -> dict[str, dict[str, Score]]:
    """Agreement within each turn, or each category, where there is more than one."""
    groups: dict[str, list[Comparison]] = {}
    for item in comparisons:
        name = f"turn {item.turn}" if by == "turn" else item.prompt.category
        groups.setdefault(name, []).append(item)
    if len(groups) < 2:
        return {}
    found = {}
    for name, some in sorted(groups.items()):
        scores = with_people(some, said) | people_among_themselves(some) if any(item.people for item in some) else {}
        found[name] = scores if is_retired else scores | with_retired(some, said)
    return found


# -------------------------------------------------------------------------------------------------------- findings


def findings(part: SuiteCalibration, other: str, unscored: float) -> list[str]:
    """Sentences on what the intervals show; nothing where they leave it open."""
    found = []
    scores = part.scores
    kappa = scores.get(f"kappa_{other}")
    if kappa is not None and kappa.ci_low is not None and kappa.ci_low <= 0:
        found.append(f"agreement with {_named(other, part)} is not shown to be above chance: kappa {shown(kappa)}")
    same = scores.get("position_consistency")
    if same is not None and same.value is not None and (same.ci_low is None or same.ci_low <= COIN):
        said = "the order decides" if same.value <= COIN else "too few comparisons to tell it from a coin"
        found.append(f"{said}: both orders give the same verdict in {shown(same)} of them")
    place = scores.get("points_of_first_shown")
    if (
        place is not None
        and place.value is not None
        and _beyond(place, COIN)
        and abs(place.value - COIN) > PLACE_MATTERS
    ):
        which = "first" if place.value > COIN else "second"
        found.append(f"the answer shown {which} is favoured: the first gets {shown(place)} of the points")
    bias = scores.get(f"length_bias_{other}")
    if bias is not None and bias.value is not None and _beyond(bias, 0.0):
        kind = "longer" if bias.value > 0 else "shorter"
        found.append(
            f"prefers {kind} answers more than {_named(other, part)}: log-odds of the longer {shown(bias)} apart"
        )
    own = scores.get(f"self_preference_{other}")
    if own is not None and own.value is not None and own.value > 0 and _beyond(own, 0.0):
        found.append(
            f"gives its own family's answers {shown(own)} points more than {_named(other, part)}; any consistent judge "
            "favours strong models so: see the excess of the other models"
        )
    if unscored > FAILED_SHARE:
        found.append(f"{100 * unscored:.1f} % of the items have no verdict: {part.failures}")
    return found


def _beyond(score: Score, point: float) -> bool:
    """Whether the interval leaves the point out."""
    if score.ci_low is None or score.ci_high is None:
        return False
    return score.ci_low > point or score.ci_high < point


def _named(other: str, part: SuiteCalibration) -> str:
    return "people" if other == "people" else part.retired
