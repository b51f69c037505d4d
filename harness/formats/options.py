"""The command line's options for scoring existing files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..stats.folds import FoldOrder


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `harness score`; each format uses the ones that apply to it."""

    answers: tuple[Path, ...] = ()
    """Files or folders with the judged answers, in the benchmark's own format."""
    strict_reference: bool = False
    """Score what the reference scores, broken rows included."""
    fold_order: FoldOrder = "published"
    """AlpacaEval's cross-validation folds."""
    intervals: bool = True
    """False: point estimates only, for speed."""
    seed: int = 0
    """Seed of every bootstrap."""
    mirror: str | None = None
    """Folder or URL of the pinned files that scoring needs (AlpacaEval's gamed rows, the question lists)."""
    baseline: str | None = None
    """Arena-Hard: the baseline's name if the rows do not state it; None: the benchmark's own."""
    style_control: str | None = None
    """Arena-Hard: v0.1, v2, length or markdown; None: no style control."""
    unanchored: bool = False
    """Arena-Hard v0.1: use the reference's interval with its error for custom baselines."""
    pool: bool = False
    """Arena-Hard: also fit one Bradley-Terry model over all models and baselines of the files."""
