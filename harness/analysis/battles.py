"""Read people's votes and judges' verdicts as battles: LMArena's files, calibrations and runs.

A row names two models and who won. These forms are read:

- LMArena and MT-Bench's votes: `model_a`, `model_b`, and `winner`: model_a, model_b, tie, tie (bothbad), both_bad. Rows
  with `anony` false (the voter saw the names) are left out, as LMArena does.
- Kaggle's export of LMArena: `winner_model_a`, `winner_model_b`, `winner_tie` with 1 in one of them.
- `preference` in place of a winner: the share of a point that model_a gets, 0 to 1.

Files are .json, .jsonl (also .xz, .gz, .bz2), .csv and .parquet.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from ..judging.calibrated import BATTLES, VOTES, read_calibration
from ..records import Preference
from ..records.errors import ConfigError, DataError
from ..store import find_cards, read_card
from ..store.provenance import install_command
from ..suites.files import READ_ERRORS, read_files, stream_files
from ..suites.scoring import verdict_weight, verdicts_by_slot
from .finished_runs import StoredRun, find_runs, run_rows

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


@dataclass(frozen=True)
class Battle:
    """One vote or verdict."""

    model_a: str
    model_b: str
    points: float
    """Of model_a, 0..1."""
    question: str | None
    """None: the row does not tell; it is then a question of its own."""
    turn: str | None = None
    voter: str | None = None

    @property
    def answers(self) -> tuple[str | None, str | None, str, str]:
        """Return what tells which two answers were compared, in either order."""
        first, second = sorted((self.model_a, self.model_b))
        return self.question, self.turn, first, second


@dataclass(frozen=True)
class BattleSource:
    """The battles of some files, with what was left out."""

    battles: tuple[Battle, ...]
    judges: tuple[str, ...] = ()
    """Who gave the verdicts, if these are a judge's."""
    notes: tuple[str, ...] = ()


@dataclass
class _Skipped:
    named: int = 0
    """Votes whose voters saw the models' names."""
    alike: int = 0
    """Votes on a model against itself."""
    suites: list[str] = field(default_factory=list)


def read_votes(paths: Iterable[Path]) -> BattleSource:
    """Return people's votes. Raise ConfigError or DataError, with file and row, if a row has another form."""
    battles: list[Battle] = []
    skipped = _Skipped()
    for path in paths:
        folder = _calibration_folder(path)
        file = path if folder is None else _beside(folder, VOTES)
        battles += _battles(file, skipped)
    notes = []
    if skipped.named:
        notes.append(f"left out because the voter saw the models' names (anony is false): {skipped.named}")
    if skipped.alike:
        notes.append(f"left out because both models are the same: {skipped.alike}")
    return BattleSource(tuple(battles), notes=tuple(notes))


def read_verdicts(sources: Iterable[str], results: Path) -> BattleSource:
    """Return a judge's verdicts from files of battles, calibrations, runs, and folders of runs.

    Raise ConfigError if one is unknown, has no comparisons, or if they come from more than one judge.
    """
    battles: list[Battle] = []
    judges: dict[str, str] = {}
    skipped = _Skipped()
    for source in sources:
        path = Path(source)
        folder = _calibration_folder(path)
        if folder is not None:
            judge = str(read_calibration(folder / "calibration.json").judge["name"])
            battles += _battles(_beside(folder, BATTLES), skipped)
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
                skipped.suites.append(f"{run.card.suite}@{run.card.suite_version}")
    if len(judges) > 1:
        named = ", ".join(f"{judge} ({source})" for judge, source in judges.items())
        raise ConfigError(f"the verdicts are of {len(judges)} judges, each with its own temperature: {named}; name one")
    suites = sorted(set(skipped.suites))
    notes = [f"verdicts of {len(suites)} suites share one temperature: {', '.join(suites)}"] if len(suites) > 1 else []
    return BattleSource(tuple(battles), tuple(judges), tuple(notes))


def _calibration_folder(path: Path) -> Path | None:
    folder = path.parent if path.name == "calibration.json" else path
    return folder if (folder / "calibration.json").is_file() else None


def _beside(folder: Path, name: str) -> Path:
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
            skipped.named += 1
        elif battle.model_a == battle.model_b:
            skipped.alike += 1
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
        # conversations are large, and only these columns are read
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
    if winner is None:
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
