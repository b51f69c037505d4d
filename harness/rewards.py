"""What a reward must do: the only types that recipes know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from .records import Failure


@dataclass(frozen=True)
class RewardOptions:
    """What a recipe's `reward:` says. Each kind uses what it understands and refuses what it cannot honour; plain data,
    so that a reward can be made in another process."""

    kind: str
    model: str | None = None
    """What the kind asks for: a folder or hf:ORG/NAME@REVISION, a function, a judge's name."""
    url: str | None = None
    """Base URL of a server that runs already."""
    key_env: str | None = None
    """Environment variable that holds its API key."""
    batch_size: int = 8
    """Answers scored at once."""
    serve: Mapping[str, JsonValue] = field(default_factory=dict)
    """Options of a model loaded or served here, as `serve:` of harness.yaml has them."""
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    """The kind's own settings."""
    log_dir: Path | None = None
    """Existing folder for the log of a server that the reward starts."""


class Reward(Protocol):
    """Scores completions, the higher the better: the signature TRL's trainers use for reward functions.

    `fusion_harness.rewards` entry points are called as `factory(RewardOptions) -> Reward`. Prompts and completions are
    strings, or messages where the reward says `conversational = True`; `columns` holds the data set's further fields
    and `prompt_id`, one text a prompt each. In place of a number there may be a Failure ("context": the answer would
    have to be cut): that answer has no reward. None, NaN and infinities stop the recipe.

    A reward that loads something is a context manager too, entered before it is called. One that is `Identified` says
    what its numbers depend on; with `cacheable = True` as well, they are kept by that and not computed again.
    """

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[str]
    ) -> Sequence[float | Failure | None]: ...
