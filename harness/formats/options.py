"""What the command line says about scoring existing files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..stats.folds import FoldOrder


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `harness score`; each format uses those that mean something for it."""

    answers: tuple[Path, ...] = ()
    """Files or folders with the answers that were judged, in the benchmark's own format."""
    strict_reference: bool = False
    """Score whatever the reference would, broken rows included."""
    fold_order: FoldOrder = "published"
    """AlpacaEval's cross-validation folds."""
    intervals: bool = True
    """False: point estimates only, for speed."""
    seed: int = 0
    """Of every bootstrap."""
    mirror: str | None = None
    """Folder or URL of the pinned files that scoring needs (AlpacaEval's gamed rows, the question lists)."""
    baseline: str | None = None
    """Arena-Hard: the baseline's name where the rows do not say; None: the benchmark's own."""
    style_control: str | None = None
    """Arena-Hard: v0.1, v2, length or markdown; None: no style control."""
    unanchored: bool = False
    """Arena-Hard v0.1: the reference's interval with the fault it has for a baseline of one's own."""
    pool: bool = False
    """Arena-Hard: also one Bradley-Terry fit over all models and baselines of the files."""
