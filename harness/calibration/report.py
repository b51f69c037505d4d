"""Compute all measures of one judge, suite by suite, with sentences on what a user should know. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..judging.calibrated import SuiteCalibration, shown
from ..records import Score
from .bias import excess_by_model, length_scores, self_preference
from .board import board_scores, shift, win_rates
from .items import CalibrationSet, Item, RecordedComparison, RecordedRating
from .measures import (
    ItemVerdicts,
    people_among_themselves,
    people_by_ratings,
    rating_scores,
    with_itself,
    with_people,
    with_retired,
)

COIN = 0.5
"""Position consistency of a judge that tosses a coin and never says tie."""
PLACE_MATTERS = 0.05
"""Points (of 0..1) that the answer shown first may gain before a finding reports it."""
FAILED_SHARE = 0.01
"""Share of items without a verdict above which a finding reports it."""


def suite_calibration(
    calibration_set: CalibrationSet,
    items: Sequence[Item],
    verdicts: ItemVerdicts,
    *,
    judge_model: str,
    is_retired: bool,
) -> SuiteCalibration:
    """Return one suite's part. `is_retired`: the judge is the retired one, so its agreement with itself is left out."""
    comparisons = [item for item in items if isinstance(item, RecordedComparison)]
    ratings = [item for item in items if isinstance(item, RecordedRating)]
    voted = [item for item in comparisons if item.people]
    reference = "people" if voted else "retired"
    scores = _comparison_scores(comparisons, verdicts, judge_model, None if is_retired and not voted else reference)
    if not is_retired:
        scores |= _beside_retired(comparisons, ratings, verdicts)
    if ratings:
        scores |= people_by_ratings(comparisons, calibration_set.ratings, verdicts)
    if not (is_retired and ratings):  # the board is computed from the same ratings
        scores |= board_scores(ratings or comparisons, verdicts, calibration_set.board)
    scores = {name: score for name, score in scores.items() if score.n or score.unscored}
    failures = Counter(reason for item in items for reason in verdicts[item.id].failures)
    part = SuiteCalibration(
        retired=calibration_set.retired,
        items={
            "comparisons": len(comparisons),
            "votes": sum(len(item.people) for item in comparisons),
            "ratings": len(ratings),
        },
        scores=scores,
        by_turn=_grouped(comparisons, verdicts, "turn", is_retired=is_retired),
        by_category=_grouped(comparisons, verdicts, "category", is_retired=is_retired),
        excess_by_model=excess_by_model(comparisons, verdicts, reference) if voted or not is_retired else {},
        win_rates=win_rates(comparisons, verdicts) if voted else {},
        board=calibration_set.board_name,
        failures=dict(sorted(failures.items())),
    )
    unscored = sum(verdicts[item.id].value is None for item in items) / max(1, len(items))
    return part.model_copy(update={"findings": tuple(findings(part, reference, unscored))})


def _comparison_scores(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, judge_model: str, reference: str | None
) -> dict[str, Score]:
    if not comparisons:
        return {}
    scores = with_people(comparisons, verdicts) | people_among_themselves(comparisons) if reference == "people" else {}
    scores |= with_itself(comparisons, verdicts)
    scores |= length_scores(comparisons, verdicts, reference or "retired")
    if reference is None:
        return {name: score for name, score in scores.items() if not name.endswith("_retired")}
    return scores | self_preference(comparisons, verdicts, judge_model, reference)


def _beside_retired(
    comparisons: Sequence[RecordedComparison], ratings: Sequence[RecordedRating], verdicts: ItemVerdicts
) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    if comparisons:
        scores |= with_retired(comparisons, verdicts)
        scores["win_rate_shift"] = shift(comparisons, verdicts, scale=100.0)
    return scores | rating_scores(ratings, verdicts) if ratings else scores


def _grouped(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, by: str, *, is_retired: bool
) -> dict[str, dict[str, Score]]:
    """Return agreement per turn, or per category, if there is more than one."""
    groups: dict[str, list[RecordedComparison]] = {}
    for item in comparisons:
        name = f"turn {item.turn}" if by == "turn" else item.prompt.category
        groups.setdefault(name, []).append(item)
    if len(groups) < 2:
        return {}
    scores_by_group = {}
    for name, group in sorted(groups.items()):
        group_scores = (
            with_people(group, verdicts) | people_among_themselves(group) if any(item.people for item in group) else {}
        )
        scores_by_group[name] = group_scores if is_retired else group_scores | with_retired(group, verdicts)
    return scores_by_group


# -------------------------------------------------------------------------------------------------------- findings


def findings(part: SuiteCalibration, reference: str, unscored: float) -> list[str]:
    """Return sentences on what the intervals show; nothing if they leave it open."""
    sentences = []
    scores = part.scores
    kappa = scores.get(f"kappa_{reference}")
    if kappa is not None and kappa.ci_low is not None and kappa.ci_low <= 0:
        sentences.append(
            f"agreement with {_named(reference, part)} is not shown to be above chance: kappa {shown(kappa)}"
        )
    same = scores.get("position_consistency")
    if same is not None and same.value is not None and (same.ci_low is None or same.ci_low <= COIN):
        cause = "the order decides" if same.value <= COIN else "too few comparisons to tell it from a coin"
        sentences.append(f"{cause}: both orders give the same verdict in {shown(same)} of them")
    first_shown = scores.get("points_of_first_shown")
    if (
        first_shown is not None
        and first_shown.value is not None
        and _beyond(first_shown, COIN)
        and abs(first_shown.value - COIN) > PLACE_MATTERS
    ):
        position = "first" if first_shown.value > COIN else "second"
        sentences.append(f"the answer shown {position} is favoured: the first gets {shown(first_shown)} of the points")
    bias = scores.get(f"length_bias_{reference}")
    if bias is not None and bias.value is not None and _beyond(bias, 0.0):
        kind = "longer" if bias.value > 0 else "shorter"
        sentences.append(
            f"prefers {kind} answers more than {_named(reference, part)}: log-odds of the longer {shown(bias)} apart"
        )
    self_excess = scores.get(f"self_preference_{reference}")
    if (
        self_excess is not None
        and self_excess.value is not None
        and self_excess.value > 0
        and _beyond(self_excess, 0.0)
    ):
        sentences.append(
            f"gives its own family's answers {shown(self_excess)} points more than {_named(reference, part)}; any "
            "consistent judge "
            "favours strong models so: see the excess of the other models"
        )
    if unscored > FAILED_SHARE:
        sentences.append(f"{100 * unscored:.1f} % of the items have no verdict: {part.failures}")
    return sentences


def _beyond(score: Score, point: float) -> bool:
    """Return whether the interval excludes the point."""
    if score.ci_low is None or score.ci_high is None:
        return False
    return score.ci_low > point or score.ci_high < point


def _named(reference: str, part: SuiteCalibration) -> str:
    return "people" if reference == "people" else part.retired
