"""What passes between stages: prompts with their part, rewards of answers, preference pairs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from harness.records import Failure, Prompt, Record

Part = Literal["sft", "preference", "validation", "test"]
"""What a prompt is for. sft: the best source answer is learned; preference: pairs; validation and test: held out."""


class PromptRow(Record):
    """One line of `prompts.jsonl`. The prompt has one turn."""

    prompt: Prompt
    part: Part
    columns: dict[str, str] = {}
    """Further fields of the data set's row, for reward functions that ask for them."""


class Dropped(Record):
    """One line of `dropped.jsonl`: what did not come through a stage, and why."""

    id: str
    reason: str
    detail: str = ""


class RewardRow(Record):
    """One line of `rewards.jsonl`: what the reward model gave one answer, or why it gave none."""

    prompt_id: str
    model: str
    """Who answered: a source's name, or the target's."""
    index: int = 0
    """`Answer.index`."""
    answer_sha: str
    """`Answer.sha`: the reward of another text of the same draw is not its own."""
    value: float | None = Field(default=None, allow_inf_nan=False)
    error: Failure | None = None

    @model_validator(mode="after")
    def _value_or_error(self) -> Self:
        if (self.value is None) == (self.error is None):
            raise ValueError("a reward has a value or an error, never both, never neither")
        return self

    @property
    def key(self) -> str:
        return f"{self.prompt_id}#{self.index}|{self.answer_sha}"


class Chosen(Record):
    """An answer picked for training, and who gave it."""

    text: str
    model: str
    index: int
    reward: float


class PreferencePair(Record):
    """One line of `pairs.jsonl`: y_ws, y_wt, y_l of one prompt."""

    prompt: Prompt
    source: Chosen
    """The best answer of all sources."""
    target: Chosen
    """The best of the target's own samples."""
    rejected: Chosen
    """The worst of the target's own samples."""
