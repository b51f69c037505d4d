"""Records that stages exchange: prompts with their part, rewards of answers, preference pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

from pydantic import Field, model_validator

from harness.records import Failure, Prompt, Record
from harness.records.asking import is_empty

AnyRecord = TypeVar("AnyRecord", bound=Record)

Part = Literal["sft", "preference", "validation", "test"]
"""Use of a prompt. sft: learn the best source answer; preference: form pairs; validation and test: held out."""
PARTS: tuple[Part, ...] = get_args(Part)


class PromptRow(Record):
    """One line of `prompts.jsonl`. The last turn of the prompt is to be answered; earlier ones have answers."""

    prompt: Prompt
    part: Part
    columns: dict[str, str] = {}
    """Additional fields of the data set's row, for reward functions that use them."""


class Dropped(Record):
    """One line of `dropped.jsonl`: a prompt that a stage dropped, and why."""

    id: str
    reason: str
    detail: str = ""


class RewardRow(Record):
    """One line of `rewards.jsonl`: the reward of one answer, or why there is none."""

    prompt_id: str
    model: str
    """Who answered, e.g. the name of a source."""
    index: int = 0
    """`Answer.index`."""
    answer_sha: str
    """`Answer.sha`, so that a draw with a new text does not reuse the old reward."""
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
    """An answer chosen for training, and who gave it."""

    text: str
    model: str
    index: int
    reward: float
    reasoning: str = Field(default="", exclude_if=is_empty)
    """The model's reasoning before the text; not rewarded."""

    def trained(self, *, keep_reasoning: bool) -> str:
        """Return the text to train on, after its reasoning in `<think>` marks if that is kept and there is any."""
        return f"<think>\n{self.reasoning}\n</think>\n\n{self.text}" if keep_reasoning and self.reasoning else self.text


class PreferencePair(Record):
    """One line of `pairs.jsonl`: y_ws, y_wt and y_l of one prompt."""

    prompt: Prompt
    source: Chosen
    """y_ws: the best answer of all sources."""
    target: Chosen
    """y_wt: the best of the target's own samples."""
    rejected: Chosen
    """y_l: the worst of the target's own samples."""
    history: tuple[dict[str, str], ...] = Field(default=(), exclude_if=is_empty)
    """Messages between the system message and the prompt, if the pair is not ours: earlier turns and their answers."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation to answer."""
        talk = messages(self.prompt)
        start = 0 if self.prompt.system is None else 1
        return [*talk[:start], *self.history, *talk[start:]]


def rows_in(path: Path, kind: type[AnyRecord]) -> Iterator[AnyRecord]:
    """Yield the records in a JSONL file that a finished step wrote."""
    with path.open("rb") as file:
        for line in file:
            yield kind.model_validate_json(line)


Messages = list[dict[str, str]]


def messages(prompt: Prompt) -> Messages:
    """Return the conversation to answer, which ends with the user's last turn."""
    talk = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    for turn, answer in zip(prompt.turns, prompt.answered, strict=False):
        talk += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*talk, {"role": "user", "content": prompt.turns[-1]}]


def prompt_text(prompt: Prompt) -> str:
    """Return the conversation as one text, without its system message: a single turn as it is.

    >>> prompt_text(Prompt(id="p", category="all", turns=("Hi", "And now?"), answered=("Hello.",)))
    'User: Hi\\n\\nAssistant: Hello.\\n\\nUser: And now?'
    """
    if not prompt.answered:
        return prompt.turns[-1]
    names = {"user": "User", "assistant": "Assistant"}
    talk = [message for message in messages(prompt) if message["role"] in names]
    return "\n\n".join(f"{names[message['role']]}: {message['content']}" for message in talk)
