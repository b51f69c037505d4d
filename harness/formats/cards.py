"""The score card of a model whose judgments came from files: the same record as a run's, said to be from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ..provenance import VERSION
from ..records import ScoreCard, SuiteScores
from ..scoring import is_complete


@dataclass(frozen=True)
class FileResult:
    """What one model's rows came to."""

    suite: str
    suite_version: str
    """`official-1` where the rows' questions are the official ones, else `files-1`."""
    model: str
    judge: str
    headline: str
    found: SuiteScores
    protocol: Mapping[str, JsonValue]
    """What the format knows of how the numbers came about; `source: files` and the version are added."""
    files: tuple[str, ...] = ()
    """Names of the files that the rows came from."""
    counts: Mapping[str, JsonValue] = field(default_factory=dict)
    seed: int = 0


def card_of(result: FileResult) -> ScoreCard:
    """The card; incomplete, with a note, where under 90 % are scored."""
    head = result.found.scores[result.headline]
    complete = is_complete(head)
    notes = result.found.notes
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
        scores=result.found.scores,
        by_category=result.found.by_category,
        counts=dict(result.counts),
        notes=notes,
        provenance={"files": list(result.files), "harness": VERSION, "seed": result.seed},
    )
