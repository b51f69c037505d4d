"""Show how far judges can be trusted: on a card, in a calibration, and on the scale of people's votes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..analysis.human_elo import OTHER_VOTES, VERDICT, HumanElo, VotePrediction
from ..judging.calibrated import Calibration, SuiteCalibration, shown
from ..judging.cost import dollars
from ..records import AnchorCheck, Judging, Score, ScoreCard
from ..stats.human_scale import COIN, PEOPLE, STRENGTHS
from .text import FittedTable, escape_markdown, interval, markdown_table, rich_table

Line = tuple[str, str, str, str]
"""Measure, judge, value, n."""
MEANING = {
    "agreement_people": "agrees with people (all votes)",
    "kappa_people": "Cohen's kappa with people",
    "agreement_people_decided": "agrees with people (no ties)",
    "kappa_people_decided": "Cohen's kappa with people (no ties)",
    "agreement_among_people": "people agree with each other",
    "agreement_among_people_decided": "people agree with each other (no ties)",
    "alpha_among_people": "Krippendorff's alpha of people",
    "agreement_people_by_ratings": "single ratings agree with people",
    "kappa_people_by_ratings": "Cohen's kappa of ratings with people",
    "agreement_people_by_ratings_decided": "single ratings agree with people (no ties)",
    "kappa_people_by_ratings_decided": "Cohen's kappa of ratings with people (no ties)",
    "agreement_retired": "agrees with the retired judge",
    "kappa_retired": "Cohen's kappa with the retired judge",
    "agreement_retired_decided": "agrees with the retired judge (no ties)",
    "kappa_retired_decided": "Cohen's kappa with the retired judge (no ties)",
    "position_consistency": "same verdict in both orders",
    "points_of_first_shown": "points given to the answer shown first",
    "flips_between_repeats": "two repeats of one question differ",
    "length_log_odds": "log-odds that it prefers the longer",
    "length_log_odds_people": "log-odds that people prefer the longer",
    "length_log_odds_retired": "log-odds that the retired judge does",
    "length_bias_people": "length bias beyond people",
    "length_bias_retired": "length bias beyond the retired judge",
    "self_preference_people": "own family's points beyond people",
    "self_preference_retired": "own family's points beyond the retired judge",
    "win_rate_shift": "candidates' win rate minus the retired judge's (points)",
    "rating_difference": "rating minus the retired judge's",
    "rating_distance": "mean absolute difference of ratings",
    "ratings_equal": "ratings equal",
    "rating_alpha": "Krippendorff's alpha of ratings (interval)",
    "spearman_board": "Spearman with the board",
    "kendall_board": "Kendall's tau-b with the board",
}
"""Metric -> its label, in the order of the tables."""
WIN_RATES = ("judge", "people", "prediction_powered", "judge_decided", "rogan_gladen")


def judging_table(cards: list[ScoreCard]) -> FittedTable | None:
    """Return what is known about the judges of these cards, or None."""
    rows = []
    for card in cards:
        rows += [("" if position else card.suite, *line) for position, line in enumerate(judging_lines(card))]
    head = ("suite", "measure", "judge", "value", "n")
    return rich_table("Judging (95 % intervals)", head, rows, ("suite", "measure", "judge")) if rows else None


def judging_lines(card: ScoreCard) -> list[Line]:
    """Return one line per measure of the card's judging."""
    judging = card.judging
    if judging is None:
        return []
    parts = (_audit(judging), _jury(card, judging), _flips(judging), _variance(judging), _anchors(judging))
    return [line for part in parts for line in part]


def _line(measure: str, judge: str, score: Score | None) -> Iterator[Line]:
    if score is not None and score.value is not None:
        yield (measure, judge, interval(score), str(score.n))


def _audit(judging: Judging) -> Iterator[Line]:
    audit = judging.audit
    if audit is None:
        return
    # the cheap judge may be a jury, whose members are paid separately
    cheap = "+".join(name for name in audit.spending if name != audit.judge)
    yield ("questions judged", audit.judge, f"{audit.judged} of {audit.of}", str(audit.drawn))
    for metric, gain in audit.gains.items():
        gained = f"{gain.effective:.0f} questions judged by it alone (correlation {gain.correlation:.2f})"
        yield (f"{metric} is as precise as", audit.judge, gained, str(audit.judged))
    for metric, score in audit.cheap.items():
        yield from _line(f"{metric}, not audited", cheap, score)
    for name, part in audit.spending.items():
        paid = "unknown" if part.paid is None else dollars(part.paid)
        yield ("paid", name, paid, f"{part.calls} calls")


def _jury(card: ScoreCard, judging: Judging) -> Iterator[Line]:
    for name, score in judging.members.items():
        yield from _line(f"{card.headline} by one judge", name, score)
    if judging.jury is not None:
        counts = judging.jury
        verdicts = f"all {counts.full}, some {counts.part}, too few {counts.short}"
        if judging.rule == "cyclic":
            verdicts = f"one in turn {counts.full}, none {counts.short}"
        yield (f"jury ({judging.rule}): questions judged by", card.judge, verdicts, str(counts.questions))
        if judging.rule == "majority":
            yield ("no majority", card.judge, str(counts.undecided), str(counts.questions))
    for pair in judging.agreement:
        both = f"{pair.one}, {pair.other}"
        yield from _line("agreement, %", both, pair.agreement)
        yield from _line("kappa", both, pair.kappa)
    yield from _line("questions on which judges differ, %", card.judge, judging.differing)


def _flips(judging: Judging) -> Iterator[Line]:
    for name, score in judging.order_flips.items():
        yield from _line("verdicts that flip with the order, %", name, score)
    for name, score in judging.first_shown.items():
        yield from _line("points to the answer shown first, %", name, score)
    for name, score in judging.repeat_flips.items():
        yield from _line("verdicts that flip when repeated, %", name, score)


def _variance(judging: Judging) -> Iterator[Line]:
    parts = judging.variance
    if parts is None:
        return
    levels = {"question": parts.question, "draw": parts.generation, "judge": parts.judge, "repeat": parts.repeat}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in levels.items() if value is not None)
    yield (f"variance of a verdict ({parts.unit} squared)", "", shown, str(parts.questions))
    yield ("judge noise share of the squared error, %", "", f"{parts.judge_share:.1f}", str(parts.questions))


def _anchors(judging: Judging) -> Iterator[Line]:
    for name, check in judging.anchors.items():
        yield (f"shift on anchors, {check.unit}", name, _shift(check), str(check.n))


def _shift(check: AnchorCheck) -> str:
    verdict = {True: "drifted", False: "no drift seen", None: f"unknown: {check.reason}"}[check.drifted]
    if check.shift.value is None:
        return verdict
    return f"{interval(check.shift)}, {verdict}"


@dataclass(frozen=True)
class CalibrationGrid:
    """A table: title, columns (texts first, then numbers) and rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(calibration: Calibration) -> list[CalibrationGrid]:
    """Return every table of a calibration, suite by suite."""
    tables = []
    for suite, part in calibration.suites.items():
        counts = ", ".join(f"{n} {kind}" for kind, n in part.items.items() if n)
        title = f"{suite}: judge {calibration.judge['name']}, {counts}; retired judge {part.retired}"
        rows = [(MEANING.get(name, name), *_cells(part.scores[name])) for name in _ordered(part.scores)]
        rows += [(f"calls without a verdict: {reason}", str(n), "", "") for reason, n in part.failures.items()]
        tables += [
            CalibrationGrid(title, ("measure", "value [95 %]", "n", "unscored"), tuple(rows)),
            *_groups(suite, part),
        ]
        tables += _models(suite, part)
    return tables


COMPARED = {
    "agreement_people": "people",
    "agreement_retired": "retired judge",
    "position_consistency": "both orders",
    "length_log_odds": "longer",
}
"""Measure -> its column beside other judges', short enough that all of them fit 100 columns."""
SEVERAL = (
    "people, retired judge: agreement with all their votes and verdicts; both orders: the same verdict in both; "
    "longer: log-odds that it prefers the longer answer, 0 for no preference; $/1,000: list price of 1,000 verdicts "
    "over all suites; failed: calls without a verdict. Intervals are at 95 %. One --judge alone shows the rest."
)


def side_by_side(calibrations: Sequence[Calibration]) -> list[CalibrationGrid]:
    """Return one table per suite: a row per judge, in the order given."""
    head = ("judge", *COMPARED.values(), "$/1,000", "failed")
    tables = []
    for suite in dict.fromkeys(suite for calibration in calibrations for suite in calibration.suites):
        rows = []
        for calibration in calibrations:
            part = calibration.suites.get(suite)
            if part is None:
                continue
            shown_scores = [shown(part.scores[name]) if name in part.scores else "-" for name in COMPARED]
            shown_scores[-1] = shown_scores[-1].partition(" [")[0]  # its interval would push another column out
            failed = str(sum(part.failures.values()))
            rows.append((str(calibration.judge["name"]), *shown_scores, _per_thousand(calibration), failed))
        tables.append(CalibrationGrid(f"{suite}: judges compared", head, tuple(rows)))
    return tables


def _per_thousand(calibration: Calibration) -> str:
    cost, judgments = calibration.usage.get("cost"), calibration.usage.get("judgments")
    if not isinstance(cost, int | float) or not isinstance(judgments, int) or not judgments:
        return "-"
    return f"{1000 * cost / judgments:.2f}"


def _groups(suite: str, part: SuiteCalibration) -> list[CalibrationGrid]:
    tables = []
    for kind, groups in (("turn", part.by_turn), ("category", part.by_category)):
        names = [name for name in MEANING if any(name in scores for scores in groups.values()) and "agreement" in name]
        if names:
            rows = tuple((group, *(_with_n(scores.get(name)) for name in names)) for group, scores in groups.items())
            tables.append(CalibrationGrid(f"{suite}: by {kind}", (kind, *(MEANING[name] for name in names)), rows))
    return tables


def _models(suite: str, part: SuiteCalibration) -> list[CalibrationGrid]:
    tables = []
    if part.win_rates:
        rates = tuple((model, *(shown(rate[name], 1) for name in WIN_RATES)) for model, rate in part.win_rates.items())
        tables.append(CalibrationGrid(f"{suite}: win rates of models, percent", ("model", *WIN_RATES), rates))
    if part.excess_by_model:
        excess = tuple((model, *_cells(score)[:2]) for model, score in part.excess_by_model.items())
        versus = "people" if part.items["votes"] else part.retired
        title = f"{suite}: points a model gets beyond those of {versus}"
        tables.append(CalibrationGrid(title, ("model", "points", "n"), excess))
    return tables


def _with_n(score: Score | None) -> str:
    return "-" if score is None or score.value is None else f"{shown(score)} (n {score.n})"


def _ordered(scores: Iterable[str]) -> list[str]:
    names = set(scores)
    # a measure of a newer version has no label yet, but is shown
    return [name for name in MEANING if name in names] + sorted(names - MEANING.keys())


def _cells(score: Score) -> tuple[str, str, str]:
    return shown(score), str(score.n), str(score.unscored)


def remarks(calibration: Calibration) -> list[str]:
    """Return the findings of each suite, then usage and cost."""
    sentences = [f"{suite}: {finding}" for suite, part in calibration.suites.items() for finding in part.findings]
    usage = calibration.usage
    cost = "" if usage.get("cost") is None else f", ${usage['cost']:g} at list price, ${usage['paid']:g} paid"
    tokens = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
    usage_text = f"{usage['judgments']} judgments, {usage['failed']} without a verdict, {tokens}{cost}"
    return [*sentences, f"calibration {calibration.sha}" + (f": {usage_text}" if usage["judgments"] else "")]


def rich_grid(grid: CalibrationGrid) -> FittedTable:
    return rich_table(grid.title, grid.columns, grid.rows, grid.columns[:1])


def markdown_grid(grid: CalibrationGrid) -> str:
    """Return the table in GitHub's Markdown under its title in bold."""
    table = markdown_table(grid.columns, grid.rows, grid.columns[:1])
    return "\n".join([f"**{escape_markdown(grid.title)}**", "", *table]) + "\n"


# ------------------------------------------------------------------------------------------ the scale of people's votes

PREDICTORS = {
    COIN: "a coin",
    PEOPLE: "people's Elo, by other questions",
    STRENGTHS: "the judge's Elo of both models",
    VERDICT: "the judge's verdict on the same answers",
    OTHER_VOTES: "other people's votes on the same answers",
}
"""Predictor -> its label, in the order of the tables."""


def elo_grids(result: HumanElo) -> list[CalibrationGrid]:
    """Return the table of models, and those of held-out votes."""
    grids = [_elo_models(result)]
    for title, part in (
        ("Held-out votes, predicted", result.held_out),
        ("Held-out votes on answers that others voted on too", result.held_out_shared),
    ):
        if part:
            head = ("predictor", "accuracy, no ties [95 %]", "log loss [95 %]", "calibration slope", "error", "votes")
            rows = tuple(_prediction(label, part[name]) for name, label in PREDICTORS.items() if name in part)
            grids.append(CalibrationGrid(title, head, rows))
    if STRENGTHS in result.held_out:
        grids.append(_bins(result.held_out[STRENGTHS]))
    return grids


def _elo_models(result: HumanElo) -> CalibrationGrid:
    head = ("model", "Elo [95 %]", "from", "n", "by the judge alone")
    rows = []
    for model in result.models:
        source = f"{model.source}, extrapolated" if model.extrapolated else model.source
        # Elo is written in whole points: its intervals are tens of points wide
        alone = "" if model.by_judge is None else shown(model.by_judge, 0)
        rows.append((model.model, shown(model.elo, 0), source, str(model.elo.n), alone))
    columns = head if any(row[-1] for row in rows) else head[:-1]
    title = f"Elo on the scale of people's votes; {result.anchor}"
    return CalibrationGrid(title, columns, tuple(row[: len(columns)] for row in rows))


def _prediction(label: str, part: VotePrediction) -> tuple[str, ...]:
    numbers = ("-" if value is None else f"{value:.2f}" for value in (part.slope, part.calibration_error))
    return (label, shown(part.accuracy), shown(part.log_loss, 3), *numbers, str(part.log_loss.n))


def _bins(part: VotePrediction) -> CalibrationGrid:
    rows = tuple(
        (f"{each.low:.1f} to {each.high:.1f}", f"{each.predicted:.2f}", f"{each.observed:.2f}", str(each.n))
        for each in part.bins
    )
    return CalibrationGrid(
        "The favourite by the judge's Elo", ("predicted", "mean predicted", "mean observed", "votes"), rows
    )


def elo_remarks(result: HumanElo) -> list[str]:
    """Return the temperature in words, and what is missing."""
    remarks = [f"{result.votes} votes ({result.ties} ties) on {result.questions} questions"]
    if result.judge is not None:
        remarks[0] += f"; {result.verdicts} verdicts of {result.judge}"
    if result.slope is not None:
        remarks.append(
            f"temperature: people's log-odds are {shown(result.slope)} of the judge's; it misplaces a model by "
            f"{result.misplaced:.0f} Elo (standard deviation beyond sampling), which the intervals of models by the "
            "judge include"
        )
    if any(model.by_judge is not None for model in result.models):
        remarks.append("by the judge alone: the Elo that a voted model would get if nobody had voted on it")
    return [*remarks, *result.notes]
