"""What a judge is calibrated on: recorded comparisons and ratings, and what a judge said of them. Data only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..records import Answer, JudgeTask, Prompt

Rule = Literal["same_or_tie", "mean"]
"""How two games become one preference. same_or_tie: theirs where they are on one side, else 0.5 (MT-Bench); mean: their
mean (AlpacaEval, Arena-Hard)."""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one question. Preferences are the candidate's: 1 it wins, 0.5 tie, 0 it loses."""

    id: str
    suite: str
    prompt: Prompt
    """As the suite has it."""
    candidate: str
    baseline: str
    turn: int | None = None
    """None: the whole answer."""
    people: tuple[float, ...] = ()
    """One vote each."""
    recorded: float | None = None
    """The retired judge's preference."""
    recorded_games: tuple[float, float] | None = None
    """Its preference when the candidate was shown second, and when shown first; None where only one is recorded."""
    recorded_consistent: bool | None = None
    """Whether its two games agree; None where that is not recorded."""
    answers: tuple[Answer, Answer] | None = None
    """The candidate's and the baseline's; None where the texts are not at hand, so that no other judge can be asked."""

    @property
    def question(self) -> str:
        """What is resampled together."""
        return f"{self.suite}/{self.prompt.id}"

    @property
    def pair(self) -> tuple[str, str]:
        return self.candidate, self.baseline

    @property
    def lengths(self) -> tuple[int, int] | None:
        """Characters judged, candidate's and baseline's; of a second turn both turns are shown to the judge."""
        if self.answers is None:
            return None
        shown = [answer.turns[: self.turn or len(answer.turns)] for answer in self.answers]
        candidate, baseline = (sum(map(len, turns)) for turns in shown)
        return candidate, baseline


@dataclass(frozen=True)
class Rated:
    """One answer's turn that the retired judge rated."""

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


Item = Comparison | Rated


@dataclass(frozen=True)
class CalibrationSet:
    """One suite's recorded judgments."""

    suite: str
    retired: str
    """The judge they are by."""
    rule: Rule
    comparisons: tuple[Comparison, ...]
    tasks: Callable[[Item], Sequence[JudgeTask]]
    """What a judge is asked about an item whose texts are at hand; [] where a text is broken."""
    ratings: tuple[Rated, ...] = ()
    board: dict[str, float] = field(default_factory=dict)
    """Model -> published score, for rank correlation."""
    board_name: str = ""
    voted_only: bool = False
    """Whether another judge is asked only about comparisons that people voted on, since there are many others."""
    files: dict[str, str] = field(default_factory=dict)
    """File -> sha256 of what it was read from."""


@dataclass(frozen=True)
class Said:
    """What the judge under calibration said of one item."""

    value: float | None
    """Preference of the candidate (0..1) or rating; None: unscored."""
    games: tuple[float, float] | None = None
    """As `Comparison.recorded_games`."""
    consistent: bool | None = None
    failures: tuple[str, ...] = ()
    """Reasons, one a call without a verdict."""


def side(value: float) -> str:
    """win, tie or loss of the candidate; a probability is its side of 0.5."""
    return "win" if value > 0.5 else "loss" if value < 0.5 else "tie"


def combined(second: float, first: float, rule: Rule) -> float:
    """One preference from the two games (candidate shown second, shown first), each the mean of its repeats."""
    if rule == "mean":
        return (second + first) / 2
    return {"win": 1.0, "tie": 0.5, "loss": 0.0}[side(second)] if side(second) == side(first) else 0.5
