"""Build the score card of a model judged in files: the same record as a run's, marked as coming from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ..provenance import VERSION
from ..records import ScoreCard, SuiteScores
from ..scoring import is_complete


@dataclass(frozen=True)
class FileResult:
    """The scores of one model's rows."""

    suite: str
    suite_version: str
    """`official-1` if the rows' questions are the official ones, else `files-1`."""
    model: str
    judge: str
    headline: str
    suite_scores: SuiteScores
    protocol: Mapping[str, JsonValue]
    """The format's part of the protocol; `source: files` and the version are added."""
    files: tuple[str, ...] = ()
    """Names of the source files."""
    counts: Mapping[str, JsonValue] = field(default_factory=dict)
    seed: int = 0


def card_of(result: FileResult) -> ScoreCard:
    """Return the card; if less than 90 % is scored it is incomplete, with a note."""
    head = result.suite_scores.scores[result.headline]
    complete = is_complete(head)
    notes = result.suite_scores.notes
    if not complete:
        notes = (*notes, f"incomplete: {head.n} of {head.n + head.unscored} scored; never ranked")
    named: dict[str, JsonValue] = {
        "source": "files",
        "suite_version": result.suite_version,
        "judge": result.judge,
    }
    return ScoreCard(
        suite=result.suite,
        suite_version=result.suite_version,
        model=result.model,
        judge=result.judge,
        headline=result.headline,
        complete=complete,
        protocol=named | dict(result.protocol),
        sampling={},
        scores=result.suite_scores.scores,
        by_category=result.suite_scores.by_category,
        counts=dict(result.counts),
        notes=notes,
        provenance={"files": list(result.files), "harness": VERSION, "seed": result.seed},
    )
