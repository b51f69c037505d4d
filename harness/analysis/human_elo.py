"""Put models on the scale of people's votes (`harness elo`): votes and a judge's verdicts in, one record out.

>>> votes = BattleSource(tuple(Battle("a", "b", float(number % 3 > 0), str(number)) for number in range(60)))
>>> [(row.model, round(row.elo.value)) for row in human_elo(votes, BattleSource(())).models]  # 400 log10(2) = 120 apart
[('a', 1060), ('b', 940)]

Votes and verdicts are read as battles, rows that name two models and who won, in one of these forms:

- Votes of LMArena and MT-Bench: `model_a`, `model_b`, `winner` (model_a, model_b, tie, tie (bothbad), both_bad). Rows
  with `anony` false (the voter saw the names) are left out, as LMArena does.
- Kaggle's export of LMArena: `winner_model_a`, `winner_model_b`, `winner_tie` with 1 in one of them.
- `preference` in place of a winner: the share of a point that model_a gets, 0 to 1.

Files are .json, .jsonl (also .xz, .gz, .bz2), .csv and .parquet; verdicts may also come from calibrations and runs.
Nothing is stated without its support: a model, a temperature or a prediction with too few votes is left out, and a
sentence says so (`notes`).
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import JsonValue

from ..judging.calibrated import BATTLES, VOTES, read_calibration
from ..records import Preference, Record, Score
from ..records.errors import ConfigError, DataError, did_you_mean
from ..stats import human_scale as scale
from ..stats.bradley_terry import IntArray
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
from ..store import find_cards, read_card
from ..store.provenance import install_command
from ..suites.files import READ_ERRORS, read_files, stream_files
from ..suites.scoring import score_of, verdict_weight, verdicts_by_slot
from .finished_runs import StoredRun, find_runs, run_rows

# -------------------------------------------------------------------------------------------------------------- battles


POINTS = {
    "model_a": 1.0,
    "model_b": 0.0,
    "tie": 0.5,
    "tie (bothbad)": 0.5,
    "tie (inconsistent)": 0.5,
    "bothbad": 0.5,
    "both_bad": 0.5,
}
"""The winner -> points of model_a."""
ONE_HOT = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}
QUESTION = ("question_id", "prompt_id", "id", "question", "prompt")
"""Columns that tell which question was asked; the first one that a row has counts."""
COLUMNS = ("model_a", "model_b", "winner", "preference", "turn", "judge", "anony", *QUESTION, *ONE_HOT)
MODEL_LENGTH = 200
"""Most characters of a model's name. A longer one is an answer in the wrong column, and would fill every table."""


class ComparedAnswers(NamedTuple):
    """Two answers to one question, by the names of their models in alphabetical order."""

    question: str | None
    turn: str | None
    first_model: str
    second_model: str


@dataclass(frozen=True)
class Battle:
    """One vote or verdict."""

    model_a: str
    model_b: str
    points: float
    """Of model_a, 0..1."""
    question: str | None
    """None if the row names none: it is then a question of its own."""
    turn: str | None = None
    voter: str | None = None

    @property
    def answers(self) -> ComparedAnswers:
        """Return which two answers were compared, the same in either order."""
        first, second = sorted((self.model_a, self.model_b))
        return ComparedAnswers(self.question, self.turn, first, second)

    @property
    def points_of_first(self) -> float:
        """Return the points of the model whose name comes first, so that battles in either order can be added."""
        return self.points if self.model_a <= self.model_b else 1.0 - self.points


@dataclass(frozen=True)
class BattleSource:
    """The battles of some files, with what was left out."""

    battles: tuple[Battle, ...]
    judges: tuple[str, ...] = ()
    """Who gave the verdicts, if these are a judge's."""
    notes: tuple[str, ...] = ()


@dataclass
class _Skipped:
    """How many rows were left out, by reason."""

    not_blind: int = 0
    """Votes whose voters saw the models' names."""
    same_model: int = 0
    """Votes on a model against itself."""


def read_votes(paths: Iterable[Path]) -> BattleSource:
    """Return people's votes. Raise ConfigError or DataError, with file and row, if a row has another form."""
    battles: list[Battle] = []
    skipped = _Skipped()
    for path in paths:
        folder = _calibration_folder(path)
        file = path if folder is None else _file_of_calibration(folder, VOTES)
        battles += _battles(file, skipped)
    notes = []
    if skipped.not_blind:
        notes.append(f"left out because the voter saw the models' names (anony is false): {skipped.not_blind}")
    if skipped.same_model:
        notes.append(f"left out because both models are the same: {skipped.same_model}")
    return BattleSource(tuple(battles), notes=tuple(notes))


def read_verdicts(sources: Iterable[str], results: Path) -> BattleSource:
    """Return a judge's verdicts from files of battles, calibrations, runs, and folders of runs.

    Raise ConfigError if one is unknown, has no comparisons, or if they come from more than one judge.
    """
    battles: list[Battle] = []
    judges: dict[str, str] = {}
    suites: set[str] = set()
    skipped = _Skipped()
    for source in sources:
        path = Path(source)
        folder = _calibration_folder(path)
        if folder is not None:
            judge = str(read_calibration(folder / "calibration.json").judge["name"])
            battles += _battles(_file_of_calibration(folder, BATTLES), skipped)
            judges.setdefault(judge, source)
        elif path.is_file() and path.name != "card.json":
            rows = list(_battles(path, skipped))
            battles += rows
            for row in rows:
                judges.setdefault(row.voter or path.name, source)
        else:
            for run in _runs(source, results):
                battles += _run_battles(run)
                judges.setdefault(run.card.judge, source)
                suites.add(f"{run.card.suite}@{run.card.suite_version}")
    # each judge has its own temperature, so a mixture of verdicts has none
    if len(judges) > 1:
        listed = ", ".join(f"{judge} ({source})" for judge, source in judges.items())
        raise ConfigError(
            f"the verdicts are of {len(judges)} judges, each with its own temperature: {listed}; name one"
        )
    notes = []
    if len(suites) > 1:
        notes.append(f"verdicts of {len(suites)} suites share one temperature: {', '.join(sorted(suites))}")
    return BattleSource(tuple(battles), tuple(judges), tuple(notes))


def _calibration_folder(path: Path) -> Path | None:
    folder = path.parent if path.name == "calibration.json" else path
    return folder if (folder / "calibration.json").is_file() else None


def _file_of_calibration(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise ConfigError(
            f"{folder} has no {name}: an earlier version made this calibration; the same `harness judge calibrate` "
            "again writes it and asks nothing twice"
        )
    return file


# ----------------------------------------------------------------------------------------------------------- files


def _battles(file: Path, skipped: _Skipped) -> Iterator[Battle]:
    for number, row in enumerate(_rows(file), start=1):
        battle = _battle(row, f"{file.name}, row {number}")
        if str(row.get("anony")).lower() in ("false", "0"):
            skipped.not_blind += 1
        elif battle.model_a == battle.model_b:
            skipped.same_model += 1
        else:
            yield battle


def _rows(file: Path) -> Iterator[Mapping[str, JsonValue]]:
    if not file.exists():
        raise ConfigError(f"no such file or folder: {str(file)!r}")
    if file.suffix == ".parquet":
        return _parquet_rows(file)
    if file.suffix == ".csv":
        return _csv_rows(file)
    return (row for source in (stream_files([file]) if file.is_file() else read_files([file])) for row in source.rows)


def _csv_rows(file: Path) -> Iterator[Mapping[str, JsonValue]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                yield {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from None


def _parquet_rows(file: Path) -> Iterator[Mapping[str, JsonValue]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{file.name} is Parquet, which needs pyarrow: {install_command('parquet')}") from None
    try:
        table = ParquetFile(file)
        # LMArena's conversations are gigabytes, and none of these columns needs them
        names = [name for name in table.schema_arrow.names if name in COLUMNS]
        for batch in table.iter_batches(columns=names):
            for row in batch.to_pylist():
                yield {name: value for name, value in row.items() if value is not None}
    except (*READ_ERRORS, ArrowException) as error:
        raise DataError(f"cannot read {file}: {error}") from None


def _battle(row: Mapping[str, JsonValue], source: str) -> Battle:
    models = [row.get(name) for name in ("model_a", "model_b")]
    if not all(isinstance(model, str) and 0 < len(model) <= MODEL_LENGTH for model in models):
        raise DataError(f"{source} has no model_a and model_b but {', '.join(sorted(row)) or 'nothing'}")
    question = next((row[name] for name in QUESTION if row.get(name) is not None), None)
    voter = row.get("judge")
    return Battle(
        str(models[0]),
        str(models[1]),
        _points(row, source),
        None if question is None else str(question),
        None if row.get("turn") is None else str(row["turn"]),
        None if voter is None else str(voter[0] if isinstance(voter, list) and voter else voter),
    )


def _points(row: Mapping[str, JsonValue], source: str) -> float:
    if row.get("preference") is not None:
        try:
            points = float(str(row["preference"]))
        except ValueError:
            points = math.nan
        if not 0.0 <= points <= 1.0:
            raise DataError(f"{source}: preference {row['preference']!r} is not a number from 0 to 1")
        return points
    winner = row.get("winner")
    if winner is None:  # Kaggle's form
        winners = [name for column, name in ONE_HOT.items() if str(row.get(column)).lower() in ("1", "1.0", "true")]
        winner = winners[0] if len(winners) == 1 else None
    if winner not in POINTS:
        raise DataError(f"{source}: winner {winner!r}; expected one of {', '.join(POINTS)}")
    return POINTS[str(winner)]


# ------------------------------------------------------------------------------------------------------------ runs


def _runs(source: str, results: Path) -> list[StoredRun]:
    """Return the runs of a name, or all under a folder, in which answers were compared."""
    path = Path(source)
    cards = find_cards(path) if path.is_dir() and not (path / "card.json").is_file() else []
    runs = [StoredRun(read_card(file), file.parent) for file in cards] or find_runs(source, results)
    compared = [run for run in runs if run.folder is not None and _run_battles(run)]
    if not compared:
        suites = ", ".join(sorted({run.card.suite for run in runs}))
        raise ConfigError(
            f"{source}: runs of {suites} have no comparisons of two models; let a judge compare their answers with "
            "harness compare A B --head-to-head, and name the folder of these games"
        )
    return compared


def _run_battles(run: StoredRun) -> list[Battle]:
    """Return the run's verdicts: one battle per question and opponent, over both orders and repeats."""
    rows = run_rows(run)
    opponents = {judgment.prompt_id: judgment.baseline for judgment in rows.judgments if judgment.baseline}
    points: dict[tuple[str, int | None], list[tuple[float, float]]] = defaultdict(list)
    for slot, verdicts in verdicts_by_slot(rows.judgments, rows.answers).items():
        points[slot.prompt_id, slot.turn] += [
            (verdict_weight(verdict), verdict.value) for verdict in verdicts if isinstance(verdict, Preference)
        ]
    return [
        Battle(
            run.card.model,
            opponents[prompt_id],
            sum(weight * value for weight, value in pairs) / sum(weight for weight, _ in pairs),
            prompt_id,
            None if turn is None else str(turn),
        )
        for (prompt_id, turn), pairs in points.items()
        if pairs and opponents.get(prompt_id, run.card.model) != run.card.model
    ]


# ------------------------------------------------------------------------------------------ the scale of people's votes


FEWEST_PREDICTED = 100
"""Votes below which nothing is said about predicting them: the 95 % interval of an accuracy of 0.5 is then +-0.1."""
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
    """Predictor -> how well it predicts all votes that it says something about."""
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
    voted_names = [name for name, is_voted in zip(people.names, voted, strict=True) if is_voted]
    if anchor is not None and anchor[0] not in voted_names:
        raise ConfigError(
            f"--anchor {anchor[0]!r} is not a model with {FEWEST_ROWS} votes{did_you_mean(anchor[0], voted_names)}; "
            f"these are: {', '.join(voted_names)}"
        )
    fitted = scale.human_scale(people, judge, anchor=anchor, seed=seed)
    # the rows of `people.among(voted)`, in the same order
    votes_used = [vote for vote in votes.battles if {vote.model_a, vote.model_b} <= set(voted_names)]
    signals = _signals(votes_used, verdicts.battles)
    held_out, shared = _held_out(people.among(voted), judge, signals, seed)
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
        notes=(*votes.notes, *verdicts.notes, *_notes(_Support(people, judge, fitted, voted, models))),
    )


def _contests(votes: Sequence[Battle], verdicts: Sequence[Battle]) -> tuple[Contests, Contests]:
    """Return both as arrays with common names and question numbers."""
    battles = [*votes, *verdicts]
    names = tuple(sorted({name for battle in battles for name in (battle.model_a, battle.model_b)}))
    column = {name: number for number, name in enumerate(names)}
    # a row that names no question is one of its own
    keys = [("", number) if battle.question is None else (battle.question, -1) for number, battle in enumerate(battles)]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    question_numbers = np.array([number_of[key] for key in keys], dtype=np.int64)

    def arrays(rows: Sequence[Battle], questions: IntArray) -> Contests:
        return Contests(
            names,
            np.array([column[row.model_a] for row in rows], dtype=np.int64),
            np.array([column[row.model_b] for row in rows], dtype=np.int64),
            np.array([row.points for row in rows], dtype=np.float64),
            questions,
        )

    return arrays(votes, question_numbers[: len(votes)]), arrays(verdicts, question_numbers[len(votes) :])


def _models(fitted: HumanScale, voted: BoolArray) -> tuple[ModelElo, ...]:
    models = []
    for name, people, placed, is_voted in zip(fitted.names, fitted.people, fitted.placed, voted, strict=True):
        if people.value is not None:
            by_judge = None if placed.value is None else score_of(placed)
            models.append(ModelElo(model=name, source="votes", elo=score_of(people), by_judge=by_judge))
        elif not is_voted and placed.value is not None and fitted.range_by_judge is not None:
            low, high = fitted.range_by_judge
            # a temperature is a straight line through the voted models; beyond them nothing supports it
            outside = not low <= placed.value <= high
            models.append(ModelElo(model=name, source="judge", elo=score_of(placed), extrapolated=outside))
    return tuple(sorted(models, key=lambda model: (-(model.elo.value or 0.0), model.model)))


# ----------------------------------------------------------------------------------------------------- held-out votes


def _signals(votes: Sequence[Battle], verdicts: Sequence[Battle]) -> dict[str, FloatArray]:
    """Return predictor -> its log-odds of each vote for model_a, up to a factor, shape (votes,), or NaN if it is
    silent.

    A factor does not matter, as the predictions fit one.
    """
    ballots: dict[ComparedAnswers, list[float]] = defaultdict(list)
    for vote in votes:
        ballots[vote.answers].append(vote.points_of_first)
    rulings: dict[ComparedAnswers, list[float]] = defaultdict(list)
    for verdict in verdicts:
        rulings[verdict.answers].append(verdict.points_of_first)
    by_others, by_verdict = np.full(len(votes), np.nan), np.full(len(votes), np.nan)
    for number, vote in enumerate(votes):
        if vote.question is None:
            continue
        sign = 1.0 if vote.answers.first_model == vote.model_a else -1.0
        cast = ballots[vote.answers]
        if len(cast) > 1:
            # without the vote itself, which would predict itself
            by_others[number] = sign * ((sum(cast) - vote.points_of_first) / (len(cast) - 1) - 0.5)
        if ruling := rulings.get(vote.answers):
            by_verdict[number] = sign * (sum(ruling) / len(ruling) - 0.5)
    return {VERDICT: by_verdict, OTHER_VOTES: by_others}


def _held_out(
    votes: Contests, judge: Contests, signals: dict[str, FloatArray], seed: int
) -> tuple[dict[str, VotePrediction], dict[str, VotePrediction]]:
    """Return predictor -> its record on all votes that it says something about, and on those that all do."""
    if len(votes) < FEWEST_PREDICTED:
        return {}, {}
    single = {
        name: _records(scale.predictions(votes, judge, {name: signal}, seed=seed))
        for name, signal in signals.items()
        if int(np.isfinite(signal).sum()) >= FEWEST_PREDICTED
    }
    held_out = _records(scale.predictions(votes, judge, {}, seed=seed))
    for name, record in single.items():
        held_out |= {name: record[name]} if name in record else {}
    # predictors that speak about different votes cannot be ranked: easy votes would make one look better
    common = np.all([np.isfinite(signals[name]) for name in single], axis=0) if single else np.zeros(0, np.bool_)
    if len(single) < len(signals) or int(common.sum()) < FEWEST_PREDICTED:
        return held_out, {}
    shared = {name: signals[name][common] for name in single}
    return held_out, _records(scale.predictions(votes.of(common), judge, shared, seed=seed))


def _records(results: dict[str, Prediction]) -> dict[str, VotePrediction]:
    return {
        name: VotePrediction(
            accuracy=score_of(result.accuracy),
            log_loss=score_of(result.log_loss),
            slope=result.slope,
            calibration_error=result.error,
            bins=tuple(PredictionBin(**vars(row)) for row in result.bins),
        )
        for name, result in results.items()
    }


# --------------------------------------------------------------------------------------------------------------- notes


@dataclass(frozen=True)
class _Support:
    """What the scale rests on, from which the notes follow."""

    people: Contests
    judge: Contests
    fitted: HumanScale
    voted: BoolArray
    """Of each name: whether its Elo is by the votes."""
    models: Sequence[ModelElo]
    """Those that have an Elo."""

    def counted(self, which_names: BoolArray, counts: IntArray) -> str:
        """Return the names for which `which_names` is true, each with its count."""
        rows = zip(self.people.names, which_names, counts, strict=True)
        return ", ".join(f"{name} ({count})" for name, is_listed, count in rows if is_listed)

    def named(self, which_names: BoolArray) -> list[str]:
        return [name for name, is_listed in zip(self.people.names, which_names, strict=True) if is_listed]


def _notes(support: _Support) -> list[str]:
    """Return what was left out, and what is not known: a sentence per rule that applies."""
    notes = [_too_few_votes(support), _unconnected(support), _independent_votes(support)]
    no_temperature = _no_temperature(support)
    # without a temperature the judge places no model, so nothing is left to say about verdicts
    notes += [_too_few_verdicts(support), _extrapolated(support)] if no_temperature is None else [no_temperature]
    return [note for note in notes if note is not None]


def _too_few_votes(support: _Support) -> str | None:
    votes = support.people.games()
    few = support.counted((votes > 0) & ~enough(support.people), votes)
    return f"under {FEWEST_ROWS} votes against models with as many, so no Elo by votes: {few}" if few else None


def _unconnected(support: _Support) -> str | None:
    apart = ", ".join(support.named(enough(support.people) & ~support.voted))
    if not apart:
        return None
    return f"won or lost every vote, or are in no contest with the rest, so no Elo by votes: {apart}"


def _independent_votes(support: _Support) -> str | None:
    if len(np.unique(support.people.clusters)) < len(support.people):
        return None
    return "no question has two votes, so the intervals take every vote as independent"


def _no_temperature(support: _Support) -> str | None:
    """Return why no temperature of the judge can be fitted, or None if one was."""
    if not len(support.judge):
        return "no verdicts, so no temperature and no Elo of models without votes"
    both = support.named(support.voted & (support.judge.games() > 0))
    if len(both) < FEWEST_MODELS:
        listed = f": {', '.join(both)}" if both else "; do the names differ?"
        return (
            f"the verdicts are about {len(both)} of the voted models{listed}. {FEWEST_MODELS} are needed to fit a "
            "temperature, so no model is placed by the judge"
        )
    if support.fitted.slope.value is None:
        return "the judge's verdicts do not connect the voted models, so no temperature can be fitted"
    return None


def _too_few_verdicts(support: _Support) -> str | None:
    verdicts, placed = support.judge.games(), {row.model for row in support.models}
    is_placed = np.array([name in placed for name in support.people.names])
    lacking = support.counted((verdicts > 0) & ~is_placed & (support.people.games() == 0), verdicts)
    if not lacking:
        return None
    return f"under {FEWEST_ROWS} verdicts, or all won or all lost, so no Elo by the judge: {lacking}"


def _extrapolated(support: _Support) -> str | None:
    beyond = ", ".join(row.model for row in support.models if row.extrapolated)
    if not beyond:
        return None
    return (
        f"the judge sees {beyond} outside the range of the models that people voted on: extrapolated, and nothing "
        "shows that its temperature holds there"
    )
