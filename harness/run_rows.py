"""Runs as they are compared: one run's rows, and what a suite that is fitted says of two. Records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .records import Answer, Judgment, Prompt, ScoreCard
from .stats.intervals import FloatArray


@dataclass(frozen=True)
class RunRows:
    """One run as it lies in its folder; of a card alone the rows are empty."""

    name: str
    """What it is called in tables."""
    card: ScoreCard
    answers: tuple[Answer, ...] = ()
    judgments: tuple[Judgment, ...] = ()


@dataclass(frozen=True)
class Refits:
    """A statistic that is fitted, not summed: its value for two models, and replicates drawn with shared questions."""

    metric: str
    values: tuple[float, float]
    """First, other; on the questions that both have."""
    replicates: tuple[FloatArray, FloatArray]
    """Each of shape (refits,)."""
    n: int
    """Questions."""


@runtime_checkable
class RefitsPairs(Protocol):
    """A suite whose headline is fitted to all questions together (AlpacaEval's length-controlled win rate)."""

    def paired_refits(self, prompts: Sequence[Prompt], first: RunRows, other: RunRows) -> Refits | None:
        """None where one of the two cannot be fitted."""
        ...
