"""A training job: everything a process needs to train one model. It is passed to other processes as a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from harness.records import Record, digest
from harness.store.fusion import Fusion

from ..spec import EvaluateEverySpec, Method
from .settings import TrainingSettings

CHECKPOINTS = "checkpoints"
"""Subfolder for the trainer's intermediate checkpoints."""
LOG = "training_log.jsonl"
ADAPTER = "adapter"


class Evaluation(Record):
    """Suites to run while training, and where their results go."""

    spec: EvaluateEverySpec
    results: Path
    label: str
    """The board lists the weights of step N as LABEL-stepN."""
    seed: int


class TrainingJob(Record):
    """One training whose checkpoint is written to `folder`.

    Paths are local to this machine, so a job never enters the digest of a step.
    """

    method: Method
    name: str
    """Used in messages."""
    model: Path
    """Folder of the weights that training starts from."""
    rows: Path
    """Folder of the rendered rows (`rows.Rows`)."""
    answer: Literal["source", "target"] = "source"
    """Method sft only: whose answers are learned."""
    reference: Path | None = None
    """Method preference only: file of the reference's log-probabilities, which may not exist yet."""
    folder: Path
    settings: TrainingSettings
    seed: int = Field(ge=0)
    chat_template: str | None = None
    """Jinja file that replaces the tokenizer's chat template."""
    pad_token: str | None = None
    fusion: Fusion
    evaluation: Evaluation | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def digest(self) -> str:
        """First 16 hex characters over everything that affects the losses. Training resumes only if it is unchanged.

        Paths, logging and evaluation are left out.
        """
        facts: dict[str, JsonValue] = {
            "method": self.method,
            "rows": self.rows.name,
            "answer": self.answer,
            "settings": self.settings.decisive(),
            "seed": self.seed,
        }
        return digest(facts)[:16]
