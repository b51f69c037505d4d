"""The interface of a reward: the only types that recipes know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from .records import Failure


@dataclass(frozen=True)
class RewardOptions:
    """The settings in a recipe's `reward:`, as plain data, so that a reward can be made in another process.

    Each kind uses the settings it understands and rejects those it cannot honour.
    """

    kind: str
    model: str | None = None
    """Depends on the kind: a folder or hf:ORG/NAME@REVISION, a function, a judge's name."""
    url: str | None = None
    """Base URL of a server that is already running."""
    key_env: str | None = None
    """Environment variable with its API key."""
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
    strings, or messages if the reward sets `conversational = True`; `columns` has the data set's other fields and
    `prompt_id`, with one text per prompt. A Failure in place of a number ("context": the answer would have to be cut)
    means that the answer has no reward. None, NaN and infinities stop the recipe.

    A reward that loads something is also a context manager, entered before it is called. An `Identified` reward states
    what its numbers depend on; if it also sets `cacheable = True`, they are cached under that identity.
    """

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[str]
    ) -> Sequence[float | Failure | None]: ...
