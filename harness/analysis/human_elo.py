"""Put models on the scale of people's votes (`harness elo`): votes and a judge's verdicts in, one record out.

    human_elo(read_votes([Path("votes.jsonl")]), read_verdicts(["verdicts.jsonl"], Path("results")))

Nothing is stated without its support: a model, a temperature or a prediction with too few votes is left out, and a
sentence says so (`notes`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..records import Record, Score
from ..records.errors import ConfigError, DataError, did_you_mean
from ..stats import human_scale as scale
from ..stats.human_scale import (
    FEWEST_MODELS,
    FEWEST_ROWS,
    BoolArray,
    Contests,
    HumanScale,
    Prediction,
    enough,
    rateable,
)
from ..stats.intervals import FloatArray
from ..suites.scoring import score_of
from .battles import Battle, BattleSource

FEWEST_PREDICTED = 100
"""Votes below which nothing is said about predicting them: an accuracy is then known to about +-0.1."""
VERDICT, OTHER_VOTES = "judge_verdict", "other_people"
"""Predictors by the same two answers: the judge's verdict, and the other people's votes."""


class ModelElo(Record):
    """One model on the scale of people's votes."""

    model: str
    source: Literal["votes", "judge"]
    """What `elo` is made from."""
    elo: Score
    """n: votes, or the judge's verdicts."""
    by_judge: Score | None = None
    """Of a voted model: the Elo that the judge would give it if nobody had voted on it."""
    extrapolated: bool = False
    """The judge sees it above, or below, every model that people voted on."""


class PredictionBin(Record):
    """Held-out votes whose favourite was predicted to get `low` to `high` of a point."""

    low: float
    high: float
    predicted: float
    observed: float
    n: int


class VotePrediction(Record):
    """How well one predictor does on votes of questions that it was not fitted to."""

    accuracy: Score
    """Share of the votes other than ties whose side is predicted, 0..1."""
    log_loss: Score
    """Nats per vote; ln 2 = 0.693 for a coin. A tie is half a vote for each side."""
    slope: float | None
    """1: predicted probabilities are right on average; below 1: too sure."""
    calibration_error: float | None
    """Mean distance of predicted and observed share over the bins."""
    bins: tuple[PredictionBin, ...] = ()


class HumanElo(Record):
    """Models on the scale of people's votes, the judge's temperature, and how well it predicts people."""

    schema_version: Literal[1] = 1
    votes: int
    ties: int
    questions: int
    judge: str | None
    verdicts: int
    anchor: str
    """What fixes the scale."""
    models: tuple[ModelElo, ...]
    """By Elo, highest first."""
    slope: Score | None = None
    """People's log-odds per log-odds of the judge: below 1, the judge decides more sharply than people."""
    misplaced: float | None = None
    """Standard deviation, in Elo, by which the judge misplaces a model, beyond the noise of sampling."""
    held_out: dict[str, VotePrediction] = {}
    """Predictor -> its prediction of all votes that it says something about."""
    held_out_shared: dict[str, VotePrediction] = {}
    """The same on the votes that all predictors say something about."""
    notes: tuple[str, ...] = ()


def human_elo(
    votes: BattleSource, verdicts: BattleSource, *, anchor: tuple[str, float] | None = None, seed: int = 0
) -> HumanElo:
    """Return the scale. Raise DataError if no two models have enough votes, ConfigError for an unknown anchor."""
    people, judge = _contests(votes.battles, verdicts.battles)
    voted = rateable(people)
    if not voted.any():
        counts = people.games()
        most = int(counts.max(initial=0))
        raise DataError(
            f"too few votes: {len(people)} on {int((counts > 0).sum())} models, {most} at most on one. Two models need "
            f"{FEWEST_ROWS} each, against models that have as many, with some won and some lost"
        )
    if anchor is not None and anchor[0] not in _names(people, voted):
        known = _names(people, voted)
        raise ConfigError(
            f"--anchor {anchor[0]!r} is not a model with {FEWEST_ROWS} votes{did_you_mean(anchor[0], known)}; "
            f"these are: {', '.join(known)}"
        )
    fitted = scale.human_scale(people, judge, anchor=anchor, seed=seed)
    kept = people.among(voted)
    predictors = _predictors(kept, votes.battles, verdicts.battles, voted)
    held_out, shared = _held_out(kept, judge, predictors, seed)
    models = _models(fitted, voted)
    return HumanElo(
        votes=len(people),
        ties=int((people.points == 0.5).sum()),
        questions=len(np.unique(people.clusters)),
        judge=verdicts.judges[0] if verdicts.judges else None,
        verdicts=len(judge),
        anchor="mean of the voted models = 1000" if anchor is None else f"{anchor[0]} = {anchor[1]:g}",
        models=models,
        slope=score_of(fitted.slope) if fitted.slope.value is not None else None,
        misplaced=fitted.misplaced,
        held_out=held_out,
        held_out_shared=shared,
        notes=(*votes.notes, *verdicts.notes, *_notes(people, judge, fitted, voted, models)),
    )


def _contests(votes: Sequence[Battle], verdicts: Sequence[Battle]) -> tuple[Contests, Contests]:
    """Return both as arrays with common names and question numbers."""
    both = [*votes, *verdicts]
    names = tuple(sorted({name for battle in both for name in (battle.model_a, battle.model_b)}))
    index = {name: at for at, name in enumerate(names)}
    # a row that names no question is one of its own
    keys = [("", number) if battle.question is None else (battle.question, -1) for number, battle in enumerate(both)]
    number_of = {key: at for at, key in enumerate(dict.fromkeys(keys))}

    def arrays(rows: Sequence[Battle], start: int) -> Contests:
        return Contests(
            names,
            np.array([index[row.model_a] for row in rows], dtype=np.int64),
            np.array([index[row.model_b] for row in rows], dtype=np.int64),
            np.array([row.points for row in rows], dtype=np.float64),
            np.array([number_of[keys[start + at]] for at in range(len(rows))], dtype=np.int64),
        )

    return arrays(votes, 0), arrays(verdicts, len(votes))


def _names(contests: Contests, models: BoolArray) -> list[str]:
    return [name for name, kept in zip(contests.names, models, strict=True) if kept]


def _models(fitted: HumanScale, voted: BoolArray) -> tuple[ModelElo, ...]:
    models = []
    for at, name in enumerate(fitted.names):
        people, placed = fitted.people[at], fitted.placed[at]
        if people.value is not None:
            by_judge = None if placed.value is None else score_of(placed)
            models.append(ModelElo(model=name, source="votes", elo=score_of(people), by_judge=by_judge))
        elif not voted[at] and placed.value is not None and fitted.range_by_judge is not None:
            low, high = fitted.range_by_judge
            outside = not low <= placed.value <= high
            models.append(ModelElo(model=name, source="judge", elo=score_of(placed), extrapolated=outside))
    return tuple(sorted(models, key=lambda model: (-(model.elo.value or 0.0), model.model)))


# ----------------------------------------------------------------------------------------------------- held-out votes


def _predictors(
    kept: Contests,
    votes: Sequence[Battle],
    verdicts: Sequence[Battle],
    voted: BoolArray,
) -> dict[str, FloatArray]:
    """Return predictor -> its log-odds of each kept vote for the first model, up to a factor; NaN if it is silent."""
    index = {name: at for at, name in enumerate(kept.names)}
    rows = [vote for vote in votes if voted[index[vote.model_a]] and voted[index[vote.model_b]]]
    ballots: dict[object, list[float]] = defaultdict(list)
    for vote in rows:
        ballots[vote.answers].append(_of_the_first(vote))
    rulings: dict[object, list[float]] = defaultdict(list)
    for verdict in verdicts:
        rulings[verdict.answers].append(_of_the_first(verdict))
    by_others, by_verdict = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for at, vote in enumerate(rows):
        if vote.question is None:
            continue
        sign = 1.0 if vote.answers[2] == vote.model_a else -1.0
        cast = ballots[vote.answers]
        if len(cast) > 1:
            by_others[at] = sign * ((sum(cast) - _of_the_first(vote)) / (len(cast) - 1) - 0.5)
        if ruling := rulings.get(vote.answers):
            by_verdict[at] = sign * (sum(ruling) / len(ruling) - 0.5)
    return {VERDICT: by_verdict, OTHER_VOTES: by_others}


def _of_the_first(battle: Battle) -> float:
    """Return the points of the model whose name comes first."""
    return battle.points if battle.answers[2] == battle.model_a else 1.0 - battle.points


def _held_out(
    votes: Contests, judge: Contests, signals: dict[str, FloatArray], seed: int
) -> tuple[dict[str, VotePrediction], dict[str, VotePrediction]]:
    if len(votes) < FEWEST_PREDICTED:
        return {}, {}
    single = {
        name: _records(scale.predictions(votes, judge, {name: signal}, seed=seed))
        for name, signal in signals.items()
        if int(np.isfinite(signal).sum()) >= FEWEST_PREDICTED
    }
    everything = _records(scale.predictions(votes, judge, {}, seed=seed))
    for name, record in single.items():
        everything |= {name: record[name]} if name in record else {}
    common = np.all([np.isfinite(signals[name]) for name in single], axis=0) if single else np.zeros(0, np.bool_)
    if len(single) < len(signals) or int(common.sum()) < FEWEST_PREDICTED:
        return everything, {}
    shared = {name: signals[name][common] for name in single}
    return everything, _records(scale.predictions(votes.of(common), judge, shared, seed=seed))


def _records(results: dict[str, Prediction]) -> dict[str, VotePrediction]:
    return {
        name: VotePrediction(
            accuracy=score_of(result.accuracy),
            log_loss=score_of(result.log_loss),
            slope=result.slope,
            calibration_error=result.error,
            bins=tuple(PredictionBin(**vars(part)) for part in result.bins),
        )
        for name, result in results.items()
    }


# ----------------------------------------------------------------------------------------------------------- sentences


def _notes(
    people: Contests,
    judge: Contests,
    fitted: HumanScale,
    voted: BoolArray,
    models: Sequence[ModelElo],
) -> list[str]:
    """Return what was left out, and what is not known."""
    games, judged = people.games(), judge.games()
    placed = {model.model: model for model in models}
    both = [name for at, name in enumerate(people.names) if voted[at] and judged[at]]
    notes = []
    plenty = enough(people)
    few = [f"{name} ({games[at]})" for at, name in enumerate(people.names) if games[at] and not plenty[at]]
    if few:
        notes.append(f"under {FEWEST_ROWS} votes against models with as many, so no Elo by votes: {', '.join(few)}")
    apart = [name for at, name in enumerate(people.names) if plenty[at] and not voted[at]]
    if apart:
        notes.append(
            f"won or lost every vote, or are in no contest with the rest, so no Elo by votes: {', '.join(apart)}"
        )
    if len(np.unique(people.clusters)) == len(people):
        notes.append("no question has two votes, so the intervals take every vote as independent")
    if not len(judge):
        return [*notes, "no verdicts, so no temperature and no Elo of models without votes"]
    if len(both) < FEWEST_MODELS:
        named = f": {', '.join(both)}" if both else "; do the names differ?"
        return [
            *notes,
            f"the verdicts are about {len(both)} of the voted models{named}. {FEWEST_MODELS} are needed to fit a "
            "temperature, so no model is placed by the judge",
        ]
    if fitted.slope.value is None:
        return [*notes, "the judge's verdicts do not connect the voted models, so no temperature can be fitted"]
    lacking = [
        f"{name} ({judged[at]})"
        for at, name in enumerate(people.names)
        if judged[at] and name not in placed and not games[at]
    ]
    if lacking:
        notes.append(
            f"under {FEWEST_ROWS} verdicts, or all won or all lost, so no Elo by the judge: {', '.join(lacking)}"
        )
    beyond = [name for name, model in placed.items() if model.extrapolated]
    if beyond:
        notes.append(
            f"the judge sees {', '.join(beyond)} outside the range of the models that people voted on: extrapolated, "
            "and nothing shows that its temperature holds there"
        )
    return notes
