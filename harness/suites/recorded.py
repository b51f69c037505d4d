"""Describe a calibration as data: recorded comparisons and ratings, and the judge's verdicts on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..records import Answer, JudgeTask, Prompt
from ..records.errors import DataError
from ..store.files import visible_files
from ..store.official import sha256_of
from .files import FAILED_CALL, SourceFile, read_files

Rule = Literal["same_or_tie", "mean"]
"""How two games become one preference.

same_or_tie: the shared preference if both games favour the same side, else 0.5 (MT-Bench).
mean: the mean of the two games (AlpacaEval, Arena-Hard)."""


@dataclass(frozen=True)
class RecordedComparison:
    """Two answers to one question. Preferences are the candidate's: 1 it wins, 0.5 tie, 0 it loses."""

    id: str
    suite: str
    prompt: Prompt
    candidate: str
    baseline: str
    turn: int | None = None
    """None: the whole answer."""
    people: tuple[float, ...] = ()
    """One vote each."""
    recorded: float | None = None
    """The retired judge's preference."""
    recorded_games: tuple[float, float] | None = None
    """Its preference when the candidate was shown second, then first; None if only one preference is recorded."""
    recorded_consistent: bool | None = None
    """Whether its two games agree; None if not recorded."""
    answers: tuple[Answer, Answer] | None = None
    """The candidate's and the baseline's; None if the texts are missing, so that no other judge can be called."""

    @property
    def question(self) -> str:
        """Return the unit that is resampled together."""
        return f"{self.suite}/{self.prompt.id}"

    @property
    def pair(self) -> tuple[str, str]:
        return self.candidate, self.baseline

    @property
    def lengths(self) -> tuple[int, int] | None:
        """Return the judged characters of candidate and baseline; a judge of a second turn sees both turns."""
        if self.answers is None:
            return None
        shown = [answer.turns[: self.turn or len(answer.turns)] for answer in self.answers]
        candidate, baseline = (sum(map(len, turns)) for turns in shown)
        return candidate, baseline


@dataclass(frozen=True)
class RecordedRating:
    """One turn of an answer that the retired judge rated."""

    id: str
    suite: str
    prompt: Prompt
    model: str
    turn: int
    recorded: float | None
    answer: Answer | None

    @property
    def question(self) -> str:
        return f"{self.suite}/{self.prompt.id}"

    @property
    def pair(self) -> tuple[str, ...]:
        return (self.model,)


Item = RecordedComparison | RecordedRating


@dataclass(frozen=True)
class CalibrationSet:
    """One suite's recorded judgments."""

    suite: str
    retired: str
    """The judge that gave them."""
    rule: Rule
    comparisons: tuple[RecordedComparison, ...]
    tasks: Callable[[Item], Sequence[JudgeTask]]
    """Return the judge tasks of an item whose texts are available; [] if a text is broken."""
    ratings: tuple[RecordedRating, ...] = ()
    board: dict[str, float] = field(default_factory=dict)
    """Model -> published score, for rank correlation."""
    board_name: str = ""
    voted_only: bool = False
    """Whether other judges are called only for comparisons with votes, because there are many without."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256 of each source file."""


@dataclass(frozen=True)
class ItemVerdict:
    """The verdict of the judge under calibration on one item."""

    value: float | None
    """Preference of the candidate (0..1) or rating; None: unscored."""
    games: tuple[float, float] | None = None
    """As `RecordedComparison.recorded_games`."""
    consistent: bool | None = None
    failures: tuple[str, ...] = ()
    """One reason per call without a verdict."""


def side(value: float) -> str:
    """Return the candidate's win, tie or loss; a probability counts by its side of 0.5."""
    return "win" if value > 0.5 else "loss" if value < 0.5 else "tie"


def combined(second: float, first: float, rule: Rule) -> float:
    """Return one preference from the two games (candidate shown second, then first), each the mean of its repeats."""
    if rule == "mean":
        return (second + first) / 2
    return {"win": 1.0, "tie": 0.5, "loss": 0.0}[side(second)] if side(second) == side(first) else 0.5


# ---------------------------------------------------------------------------------------------------------- data folder
# `--data DIR`, else HARNESS_PUBLISHED. docs/judges.md lists the files and their sources.


PACKED = ("", ".xz", ".gz")


def stored_answer(model: str, prompt_id: str, *turns: str) -> Answer | None:
    """Return an answer read from a file of the original tools, or None if it has the mark of a failed call."""
    if any(text.strip() == FAILED_CALL for text in turns):
        return None
    return Answer(prompt_id=prompt_id, model=model, turns=turns, finish=tuple("stop" for _ in turns))


@dataclass
class DataFolder:
    """A folder of recorded judgments, with the digests of the files read from it."""

    path: Path
    files: dict[str, str] = field(default_factory=dict)
    """Name under the folder -> sha256 of the file as stored (compressed or not)."""

    def find(self, name: str) -> Path | None:
        """Return the path of the file, compressed or not, and record its digest, or None if it does not exist."""
        for ending in PACKED:
            path = self.path / (name + ending)
            if path.is_file():
                self.files[name + ending] = sha256_of(path)
                return path
        return None

    def need(self, name: str) -> Path:
        path = self.find(name)
        if path is None:
            raise DataError(
                f"no {name} (also .xz, .gz) in {self.path}; the documentation's page on judges names its source"
            )
        return path

    def rows(self, name: str) -> tuple[dict[str, object], ...]:
        """Return the rows of a file. Raise DataError if it is missing."""
        (file,) = read_files([self.need(name)])
        return tuple(dict(row) for row in file.rows)

    def matching(self, pattern: str) -> Iterator[SourceFile]:
        """Yield the files that match a pattern like `arena_hard/model_answer*`, and all files in matching folders."""
        paths = sorted(self.path.glob(pattern))
        for path in paths:
            inside = visible_files(path) if path.is_dir() else [path]
            self.files |= {str(file.relative_to(self.path)): sha256_of(file) for file in inside}
        if paths:
            yield from read_files(paths)


def data_folder(folder: Path | None) -> DataFolder:
    """Return the data folder. Raise DataError if none is configured or it does not exist."""
    named = folder or (Path(os.environ["HARNESS_PUBLISHED"]) if os.environ.get("HARNESS_PUBLISHED") else None)
    if named is None:
        raise DataError(
            "no recorded judgments: pass --data DIR or set HARNESS_PUBLISHED; the documentation's page on judges lists "
            "the expected files"
        )
    if not named.is_dir():
        raise DataError(f"no such folder of recorded judgments: {str(named)!r}")
    return DataFolder(named)
