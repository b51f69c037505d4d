"""One training, as it is handed from a step to the process that does it: a JSON file where that is another process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from harness.leaderboard.fusion import Fusion
from harness.records import Record, digest

from ..spec import EvaluateEverySpec, Method
from .settings import TrainingSettings

CHECKPOINTS = "checkpoints"
"""Subfolder for the trainer's own checkpoints."""
LOG = "training_log.jsonl"
ADAPTER = "adapter"


class Evaluation(Record):
    """Suites that are run while training."""

    spec: EvaluateEverySpec
    results: Path
    label: str
    """What the board calls the weights of step N: LABEL-stepN."""
    seed: int


class TrainingJob(Record):
    """`folder` becomes the checkpoint. Paths are this machine's: a job is no part of what a step is made from."""

    method: Method
    name: str
    """For messages."""
    model: Path
    """Folder of the weights that training begins with."""
    rows: Path
    """A folder of `rows.Rows`."""
    answer: Literal["source", "target"] = "source"
    """method sft: whose answers are learned."""
    reference: Path | None = None
    """method preference: where the reference's log-probabilities are, or will be."""
    folder: Path
    settings: TrainingSettings
    seed: int = Field(ge=0)
    chat_template: str | None = None
    """FILE.jinja instead of the tokenizer's own."""
    pad_token: str | None = None
    fusion: Fusion
    evaluation: Evaluation | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def digest(self) -> str:
        """Of what decides the losses, for resuming: not of places, logging or evaluation."""
        facts: dict[str, JsonValue] = {
            "method": self.method,
            "rows": self.rows.name,
            "answer": self.answer,
            "settings": self.settings.decisive(),
            "seed": self.seed,
        }
        return digest(facts)[:16]
