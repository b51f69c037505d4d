"""What a run comes to: scores with their intervals, and the card that holds them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import JsonValue, model_validator

from .base import Record, digest


class Score(Record):
    """One number with its interval. `value` None: it cannot be given; the card's notes say why."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    """95 % interval unless the metric's name says otherwise; same unit as `value`."""
    se: float | None = None
    n: int
    """What was scored, in the suite's own unit (turns, instructions, games)."""
    unscored: int = 0
    """The rest of what should have been asked."""


class SuiteScores(Record):
    """What a suite's scorer returns: metrics by name, overall and by category, and notes for the reader."""

    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]] = {}
    notes: tuple[str, ...] = ()


class ScoreCard(Record):
    """One model on one suite under one protocol: what the leaderboard and the gate read."""

    schema_version: Literal[1] = 1
    suite: str
    suite_version: str
    model: str
    judge: str
    headline: str
    """The metric of `scores` that ranks."""
    complete: bool
    """False where too little was scored (under 90 %) to rank this card."""
    protocol: dict[str, JsonValue]
    """Everything that makes two numbers comparable; cards with unequal protocols are never ranked together."""
    sampling: dict[str, JsonValue]
    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]] = {}
    counts: dict[str, JsonValue] = {}
    """Asked, answered, truncated, unscored by reason, and the like."""
    notes: tuple[str, ...] = ()
    provenance: dict[str, JsonValue]
    """Digests, versions, git state, seeds: what produced the numbers."""
    usage: dict[str, JsonValue] = {}
    """Seconds, tokens and dollars by stage: measured, so not equal between two runs."""

    @model_validator(mode="after")
    def _has_its_headline(self) -> Self:
        if self.headline not in self.scores:
            raise ValueError(f"no score named {self.headline!r}, the card's headline")
        return self

    @property
    def protocol_sha(self) -> str:
        return digest(self.protocol)[:12]
