"""What the kinds share. An option that is silently ignored gives a wrong number, so it is refused."""

from __future__ import annotations

from harness.errors import ConfigError
from harness.rewards import RewardOptions

QUEUE = 8
"""Answers that a reward which asks a server is given at once, for each request in flight: it waits for the slowest once
in so many."""


def refuse(options: RewardOptions, *names: str) -> None:
    """Raises ConfigError where one of these fields is set."""
    for name in names:
        if getattr(options, name):
            value = getattr(options, name)
            shown = ", ".join(sorted(value)) if isinstance(value, dict) else repr(value)
            raise ConfigError(f"reward kind {options.kind} cannot honour `{name}` ({shown}); leave it out")
