"""Measure a judge: agreement with people and the retired judge, biases, model order, estimated human win rates.

Pure: recorded items and verdicts in, scores out. Every interval resamples whole questions, since a question's turns,
model pairs and votes are correlated.

>>> family("meta-llama/Llama-3.1-8B-Instruct")
'meta'
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..judging.calibrated import SuiteCalibration, shown
from ..records import Judgment, Score
from ..records.results import listed_reasons
from ..stats.agreement import (
    FEWEST_LABELS,
    Corrected,
    JudgedSample,
    Measure,
    agreement,
    flip_rate,
    krippendorff_alpha,
    mean_measure,
    position_consistency,
    prediction_powered,
    rank_correlation,
    rogan_gladen,
    share_measure,
)
from ..stats.intervals import FloatArray
from ..stats.paired import clustered_interval
from ..suites.recorded import CalibrationSet, Item, ItemVerdict, RecordedComparison, RecordedRating, side
from ..suites.scoring import PREFERENCES, score_of

ItemVerdicts = Mapping[str, ItemVerdict]
Vote = tuple[str, str, str]
"""The judge's side, the reference's side, the question."""
COIN_TOSS = 0.5
"""Position consistency of a judge that tosses a coin and never says tie."""
POSITION_BIAS = 0.05
"""Points (of 0..1) that the answer shown first may gain before a finding reports it."""
FAILED_SHARE = 0.01
"""Share of items without a verdict above which a finding reports it."""
FAMILIES = {
    "openai": r"gpt|chatgpt|o[1-9](-|$)|text_davinci",
    "anthropic": r"claude",
    "google": r"gemini|gemma|palm|bard",
    "meta": r"(meta-)?llama",
    "mistral": r"mistral|mixtral",
    "alibaba": r"qwen|qwq",
    "deepseek": r"deepseek",
    "microsoft": r"phi-|wizardlm",
}
"""Maker -> pattern for the start of its models' names (after an organisation's name)."""
MIN_ROWS = 10
"""With fewer rows a model gets no line of its own: its interval would be too wide to mean anything."""


def suite_calibration(
    calibration_set: CalibrationSet,
    items: Sequence[Item],
    verdicts: ItemVerdicts,
    *,
    judge_model: str,
    is_retired: bool,
) -> SuiteCalibration:
    """Return one suite's part. `is_retired`: the judge is the retired one, so its agreement with itself is left out."""
    # people's votes are the better reference, so the retired judge's verdicts are one only without votes
    comparisons = [item for item in items if isinstance(item, RecordedComparison)]
    ratings = [item for item in items if isinstance(item, RecordedRating)]
    voted = [item for item in comparisons if item.people]
    reference = "people" if voted else "retired"
    scores = _comparison_scores(comparisons, verdicts, judge_model, None if is_retired and not voted else reference)
    if not is_retired:
        scores |= _against_retired(comparisons, ratings, verdicts)
    if ratings:
        scores |= people_by_ratings(comparisons, calibration_set.ratings, verdicts)
    if not (is_retired and ratings):  # the board is computed from the same ratings
        scores |= board_scores(ratings or comparisons, verdicts, calibration_set.board)
    # a measure without a single row says nothing: leave it out rather than print a dash
    scores = {name: score for name, score in scores.items() if score.n or score.unscored}
    failures = Counter(reason for item in items for reason in verdicts[item.id].failures)
    calibration = SuiteCalibration(
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
    return calibration.model_copy(update={"findings": tuple(findings(calibration, reference, unscored))})


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


def _against_retired(
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


def with_people(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Return agreement and kappa with people, one row per vote.

    `_decided` leaves out rows with a tie on either side (setup S2 of the MT-Bench paper); the others are setup S1.
    FastChat's compute_agreement counts the same rows; the tests reproduce every number of its table.
    """
    votes, lost = _votes([(item, item.people) for item in comparisons], verdicts)
    return _pair_scores("people", votes, lost)


def with_retired(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Return agreement with the retired judge, one row per comparison that it decided too."""
    votes, lost = _votes([(item, (item.recorded,)) for item in comparisons if item.recorded is not None], verdicts)
    return _pair_scores("retired", votes, lost)


def _votes(
    references: Sequence[tuple[RecordedComparison, Sequence[float | None]]], verdicts: ItemVerdicts
) -> tuple[list[Vote], int]:
    """Return one row per reference preference, and how many the judge has no verdict for."""
    votes: list[Vote] = []
    lost = 0
    for item, preferences in references:
        value = _value(item, verdicts)
        if value is None:
            lost += len(preferences)
        else:
            votes += [
                (side(value), side(preference), item.question) for preference in preferences if preference is not None
            ]
    return votes, lost


def _value(item: Item, verdicts: ItemVerdicts) -> float | None:
    return verdicts[item.id].value if item.id in verdicts else None


def _pair_scores(name: str, rows: Sequence[Vote], lost: int) -> dict[str, Score]:
    decided = [row for row in rows if "tie" not in row[:2]]
    scores = {}
    for ending, votes in (("", rows), ("_decided", decided)):
        both = agreement([row[0] for row in votes], [row[1] for row in votes], [row[2] for row in votes])
        scores[f"agreement_{name}{ending}"] = score_of(both.raw, unscored=lost if not ending else 0)
        scores[f"kappa_{name}{ending}"] = score_of(both.kappa)
    return scores


def people_among_themselves(comparisons: Sequence[RecordedComparison]) -> dict[str, Score]:
    """Return the agreement of all pairs of votes on one comparison: the ceiling for a judge's agreement with people."""
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
    # alpha also counts comparisons with three or more votes, which pairs would count several times
    alpha = krippendorff_alpha([[side(vote) for vote in item.people] for item in comparisons])
    scores["alpha_among_people"] = Score(value=alpha, n=sum(len(item.people) > 1 for item in comparisons))
    return scores


def with_itself(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Return position consistency and the share of points of the answer shown first (0.5: no position bias)."""
    consistencies = [
        (item, verdicts[item.id])
        for item in comparisons
        if item.id in verdicts and verdicts[item.id].consistent is not None
    ]
    same = np.array([float(bool(verdict.consistent)) for _, verdict in consistencies])
    scores = {"position_consistency": score_of(share_measure(same, [item.question for item, _ in consistencies]))}
    games = [(item.question, verdict.games) for item, verdict in consistencies if verdict.games is not None]
    if games:
        table = np.array([pair for _, pair in games])
        first_shown = position_consistency(table[:, 0], table[:, 1], [question for question, _ in games]).first_shown
        scores["points_of_first_shown"] = score_of(first_shown)
    return scores


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


def rating_scores(ratings: Sequence[RecordedRating], verdicts: ItemVerdicts) -> dict[str, Score]:
    """Compare ratings (1..10) with the retired judge's: mean and mean absolute difference, share equal, alpha."""
    recorded = [(_value(item, verdicts), item) for item in ratings if item.recorded is not None]
    rows = [(value, item.recorded or 0.0, item.question) for value, item in recorded if value is not None]
    values, retired_values = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    questions = [row[2] for row in rows]
    alpha = krippendorff_alpha([[value, retired] for value, retired, _ in rows], interval_metric=True)
    lost = len(recorded) - len(rows)
    return {
        "rating_difference": score_of(mean_measure(values - retired_values, questions), unscored=lost),
        "rating_distance": score_of(mean_measure(np.abs(values - retired_values), questions)),
        "ratings_equal": score_of(share_measure((values == retired_values).astype(np.float64), questions)),
        "rating_alpha": Score(value=alpha, n=len(rows)),
    }


def people_by_ratings(
    comparisons: Sequence[RecordedComparison], ratings: Sequence[RecordedRating], verdicts: ItemVerdicts
) -> dict[str, Score]:
    """Return agreement with people of the pairs derived from two single ratings: the higher wins, equal ratings tie."""
    by_answer = {(item.model, item.prompt.id, item.turn): _value(item, verdicts) for item in ratings}
    derived = {}
    for item in comparisons:
        turn_key = item.prompt.id, item.turn or 1
        candidate, baseline = by_answer.get((item.candidate, *turn_key)), by_answer.get((item.baseline, *turn_key))
        if candidate is not None and baseline is not None:
            derived[item.id] = ItemVerdict(float(np.sign(candidate - baseline) / 2 + 0.5))
    rated = [item for item in comparisons if item.id in derived and item.people]
    scores = with_people(rated, derived)
    return {name.replace("_people", "_people_by_ratings"): score for name, score in scores.items()}


@dataclass(frozen=True)
class ReferenceRow:
    """One comparison as judged by the judge and by a reference (people or the retired judge).

    Preferences are the candidate's."""

    item: RecordedComparison
    judge: float
    reference: float


def _rows(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, reference: str) -> list[ReferenceRow]:
    """Return one row per vote if the reference is "people", else one row per verdict of the retired judge."""
    rows = []
    for item in comparisons:
        value = _value(item, verdicts)
        if value is not None:
            references = item.people if reference == "people" else () if item.recorded is None else (item.recorded,)
            rows += [ReferenceRow(item, value, preference) for preference in references]
    return rows


def length_scores(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, reference: str
) -> dict[str, Score]:
    """Return the log-odds that the longer answer is preferred (0: length makes no difference).

    For the judge, for the reference ("people" or "retired") on the same rows, and their difference, `length_bias`.
    Ties and answers of equal length are left out.
    """
    judge_wins, reference_wins, questions = [], [], []
    for row in _rows(comparisons, verdicts, reference):
        lengths = row.item.lengths
        if lengths is not None and lengths[0] != lengths[1] and 0.5 not in (row.judge, row.reference):
            candidate_longer = lengths[0] > lengths[1]
            judge_wins.append(float((row.judge > 0.5) == candidate_longer))
            reference_wins.append(float((row.reference > 0.5) == candidate_longer))
            questions.append(row.item.question)
    if not questions:
        return {}
    judge, judge_influence = _log_odds(np.array(judge_wins))
    versus, versus_influence = _log_odds(np.array(reference_wins))
    return {
        "length_log_odds": _score(judge, judge_influence, questions),
        f"length_log_odds_{reference}": _score(versus, versus_influence, questions),
        f"length_bias_{reference}": _score(judge - versus, judge_influence - versus_influence, questions),
    }


def _log_odds(wins: FloatArray) -> tuple[float, FloatArray]:
    """Return ln((k + 1/2) / (n - k + 1/2)) and each row's influence.

    The 1/2 keeps it finite if all or none win (Haldane 1956, Anscombe 1956)."""
    n = len(wins)
    share = (wins.sum() + 0.5) / (n + 1)
    return float(np.log(share / (1 - share))), (wins - wins.mean()) / (n * share * (1 - share))


def _score(value: float, influence: FloatArray, questions: Sequence[str]) -> Score:
    return score_of(Measure(value, clustered_interval(value, influence, questions), len(influence)))


def self_preference(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, judge_model: str, reference: str
) -> dict[str, Score]:
    """Return the points (0..1) that the judge gives its own family's answer beyond what the reference gives.

    Only comparisons with another family count. A strong family gains from any consistent judge, because votes scatter
    towards 0.5; read it beside `excess_by_model`.
    """
    judge_family = family(judge_model)
    values, questions = [], []
    for row in _rows(comparisons, verdicts, reference):
        candidate, baseline = family(row.item.candidate) == judge_family, family(row.item.baseline) == judge_family
        # two answers of the judge's own family cancel, and so do two of others
        if judge_family is not None and candidate != baseline:
            excess = row.judge - row.reference
            values.append(excess if candidate else -excess)
            questions.append(row.item.question)
    if not values:
        return {}
    return {f"self_preference_{reference}": score_of(mean_measure(np.array(values), questions))}


def family(model: str) -> str | None:
    """Return the family of a model by its name, or None if the name does not show it."""
    name = model.rsplit("/", 1)[-1].lower()
    return next((maker for maker, pattern in FAMILIES.items() if re.match(pattern, name)), None)


def excess_by_model(
    comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts, reference: str
) -> dict[str, Score]:
    """Return model -> points (0..1) that the judge gives it beyond what the reference gives, on the same rows."""
    values: dict[str, tuple[list[float], list[str]]] = {}
    for row in _rows(comparisons, verdicts, reference):
        excess = row.judge - row.reference
        for model, points in ((row.item.candidate, excess), (row.item.baseline, -excess)):
            model_points, questions = values.setdefault(model, ([], []))
            model_points.append(points)
            questions.append(row.item.question)
    return {
        model: score_of(mean_measure(np.array(model_points), questions))
        for model, (model_points, questions) in sorted(values.items())
        if len(model_points) >= MIN_ROWS
    }


def shift(items: Sequence[Item], verdicts: ItemVerdicts, *, scale: float) -> Score:
    """Return the mean difference between the judge's and the retired judge's numbers on the same items."""
    rows = [
        (value - item.recorded, item.question)
        for item in items
        if (value := _value(item, verdicts)) is not None and item.recorded is not None
    ]
    return score_of(mean_measure(np.array([row[0] for row in rows]), [row[1] for row in rows]), scale=scale)


def board_scores(items: Sequence[Item], verdicts: ItemVerdicts, board: Mapping[str, float]) -> dict[str, Score]:
    """Return Spearman and Kendall correlations of the candidates' mean numbers with the published board.

    Empty if fewer than three models are on both.
    """
    rows = [
        (_candidate(item), item.question, value)
        for item in items
        if (value := _value(item, verdicts)) is not None and _candidate(item) in board
    ]
    models = sorted({model for model, _, _ in rows})
    questions = {question: index for index, question in enumerate(dict.fromkeys(row[1] for row in rows))}
    if len(models) < 3:
        return {}
    sums, counts = np.zeros((len(questions), len(models))), np.zeros((len(questions), len(models)))
    for model, question, value in rows:
        cell = questions[question], models.index(model)
        sums[cell] += value
        counts[cell] += 1
    correlations = rank_correlation(sums, counts, np.array([board[model] for model in models]))
    return {"spearman_board": score_of(correlations.spearman), "kendall_board": score_of(correlations.kendall)}


def _candidate(item: Item) -> str:
    return item.candidate if isinstance(item, RecordedComparison) else item.model


def win_rates(comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> dict[str, dict[str, Score]]:
    """Return, per model, its win rate in percent over all comparisons it takes part in.

    `judge` and `people` count a tie as half a win (people: only comparisons with votes). `judge_decided` and
    `rogan_gladen` leave ties out. `prediction_powered` estimates people's rate from both, with ties as half.
    """
    rates = {}
    for model in sorted({name for item in comparisons for name in item.pair}):
        rows = _rows_of(model, comparisons, verdicts)
        if len(rows.judge) >= MIN_ROWS and int((~np.isnan(rows.people)).sum()) >= MIN_ROWS:
            rates[model] = _win_rates(rows)
    return rates


def _rows_of(model: str, comparisons: Sequence[RecordedComparison], verdicts: ItemVerdicts) -> JudgedSample:
    """Return one row per comparison, from the model's side. People's number is the mean of their votes."""
    judge, people, questions = [], [], []
    for item in comparisons:
        value = _value(item, verdicts)
        if value is None or model not in item.pair:
            continue
        votes = float(np.mean(item.people)) if item.people else float("nan")
        is_candidate = item.candidate == model
        judge.append(value if is_candidate else 1 - value)
        people.append(votes if is_candidate else 1 - votes)
        questions.append(item.question)
    return JudgedSample(np.array(judge), np.array(people), questions)


def _win_rates(rows: JudgedSample) -> dict[str, Score]:
    # people voted on a part of the comparisons only; the corrections carry over to the rest
    seen = ~np.isnan(rows.people)
    decided = rows.judge != 0.5
    return {
        "judge": _share(rows.judge, rows.clusters),
        "people": _share(rows.people[seen], _selected(rows.clusters, seen.tolist())),
        "prediction_powered": _corrected(prediction_powered(rows, tuned=True, bounds=PREFERENCES), int(seen.sum())),
        "judge_decided": _share(rows.judge[decided], _selected(rows.clusters, decided.tolist())),
        "rogan_gladen": _corrected(rogan_gladen(rows), int((seen & decided & (rows.people != 0.5)).sum())),
    }


def _selected(values: Sequence[Hashable], mask: Sequence[bool]) -> list[Hashable]:
    return [value for value, keep in zip(values, mask, strict=True) if keep]


def _share(values: FloatArray, clusters: Sequence[Hashable]) -> Score:
    return score_of(share_measure(values, clusters), scale=100.0)


def _corrected(corrected: Corrected, n: int) -> Score:
    """Return a corrected rate in percent, without a value if `n`, the comparisons that people voted on, are too few."""
    return score_of(Measure(corrected.value, corrected.interval, n), scale=100.0)


def findings(calibration: SuiteCalibration, reference: str, unscored: float) -> list[str]:
    """Return sentences on what the intervals show, or nothing if they leave it open: one rule per function."""
    scores, versus = calibration.scores, "people" if reference == "people" else calibration.retired
    sentences = [
        _uncorrected_rates(calibration),
        _chance_agreement(scores.get(f"kappa_{reference}"), versus),
        _order_decides(scores.get("position_consistency")),
        _favoured_position(scores.get("points_of_first_shown")),
        _favoured_length(scores.get(f"length_bias_{reference}"), versus),
        _favoured_family(scores.get(f"self_preference_{reference}"), versus),
        f"{100 * unscored:.1f} % of the items have no verdict ({listed_reasons(calibration.failures)})"
        if unscored > FAILED_SHARE
        else None,
    ]
    return [sentence for sentence in sentences if sentence is not None]


def _uncorrected_rates(calibration: SuiteCalibration) -> str | None:
    few = [model for model, rates in calibration.win_rates.items() if rates["prediction_powered"].value is None]
    if not few:
        return None
    return (
        f"no win rate corrected by people's votes of {', '.join(few)}: under {FEWEST_LABELS} comparisons of each "
        "have votes, too few to tell how the judge errs"
    )


def _chance_agreement(kappa: Score | None, versus: str) -> str | None:
    lowest = None if kappa is None else kappa.value if kappa.ci_low is None else kappa.ci_low
    if kappa is None or lowest is None or lowest > 0:
        return None
    return f"agreement with {versus} is not shown to be above chance: kappa {shown(kappa)}"


def _order_decides(same: Score | None) -> str | None:
    if same is None or same.value is None or (same.ci_low is not None and same.ci_low > COIN_TOSS):
        return None
    # unlike the other findings, this one warns of what is not shown: a judge must be steadier than a coin
    decides = same.value <= COIN_TOSS and (same.ci_high is None or same.ci_high <= COIN_TOSS)
    cause = "the order decides" if decides else "not shown to be steadier than a coin"
    return f"{cause}: both orders give the same verdict in {shown(same)} of them"


def _favoured_position(points_of_first: Score | None) -> str | None:
    bias = _beyond(points_of_first, COIN_TOSS)
    if bias is None or abs(bias[1] - COIN_TOSS) <= POSITION_BIAS:
        return None
    position = "first" if bias[1] > COIN_TOSS else "second"
    return f"the answer shown {position} is favoured: the first gets {shown(bias[0])} of the points"


def _favoured_length(length_bias: Score | None, versus: str) -> str | None:
    bias = _beyond(length_bias, 0.0)
    if bias is None:
        return None
    kind = "longer" if bias[1] > 0 else "shorter"
    return f"prefers {kind} answers more than {versus}: log-odds of the longer {shown(bias[0])} apart"


def _favoured_family(self_preference: Score | None, versus: str) -> str | None:
    excess = _beyond(self_preference, 0.0)
    if excess is None or excess[1] <= 0:
        return None
    return (
        f"gives its own family's answers {shown(excess[0])} points more than {versus}; any consistent judge also "
        "favours strong models, so compare with the excess of the other models"
    )


def _beyond(score: Score | None, point: float) -> tuple[Score, float] | None:
    """Return the score and its value if its interval excludes the point."""
    if score is None or score.value is None or score.ci_low is None or score.ci_high is None:
        return None
    return (score, score.value) if score.ci_low > point or score.ci_high < point else None
