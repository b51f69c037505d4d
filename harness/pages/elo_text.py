"""Models on the scale of people's votes, as tables and sentences. Pure."""

from __future__ import annotations

from ..analysis.human_elo import OTHER_VOTES, VERDICT, HumanElo, VotePrediction
from ..judging.calibrated import shown
from ..stats.human_scale import COIN, PEOPLE, STRENGTHS
from .judge_text import CalibrationGrid

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
    grids = [_models(result)]
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


def _models(result: HumanElo) -> CalibrationGrid:
    head = ("model", "Elo [95 %]", "from", "n", "by the judge alone")
    rows = []
    for model in result.models:
        source = f"{model.source}, extrapolated" if model.extrapolated else model.source
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
