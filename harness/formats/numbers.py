"""A card's contents, whatever they were made from: a suite's own scorer, or another tool's results."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from ..records import SuiteScores


@dataclass(frozen=True)
class Numbers:
    """One model on one suite; model and origin are said elsewhere."""

    suite: str
    suite_version: str
    judge: str
    headline: str
    found: SuiteScores
    protocol: dict[str, JsonValue]
    counts: dict[str, JsonValue]
