"""Rows of runs for comparison, and a fitted suite's statistics of two runs. Records only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .records import Answer, Judgment, Prompt, ScoreCard
from .stats.intervals import FloatArray


@dataclass(frozen=True)
class RunRows:
    """One run with its rows; the rows are empty if only the card exists."""

    name: str
    """Its name in tables."""
    card: ScoreCard
    answers: tuple[Answer, ...] = ()
    judgments: tuple[Judgment, ...] = ()


@dataclass(frozen=True)
class Refits:
    """A fitted statistic: its value for two models, and replicates drawn over shared questions."""

    metric: str
    values: tuple[float, float]
    """First and second model, on the questions that both have."""
    replicates: tuple[FloatArray, FloatArray]
    """Each of shape (refits,)."""
    n: int
    """Questions."""


@runtime_checkable
class RefitsPairs(Protocol):
    """A suite whose headline is fitted to all questions together (AlpacaEval's length-controlled win rate)."""

    def paired_refits(self, prompts: Sequence[Prompt], first: RunRows, second: RunRows) -> Refits | None:
        """Return the refits, or None if one of the two runs cannot be fitted."""
        ...
