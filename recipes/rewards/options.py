"""Reject options that a kind does not support: silently ignoring one would give wrong rewards."""

from __future__ import annotations

from harness.errors import ConfigError
from harness.rewards import RewardOptions

QUEUE = 8
"""Answers per call and request in flight for rewards that use a server: each call waits for its slowest request."""


def refuse(options: RewardOptions, *names: str) -> None:
    """Raise ConfigError if one of these fields is set."""
    for name in names:
        if getattr(options, name):
            value = getattr(options, name)
            shown = ", ".join(sorted(value)) if isinstance(value, dict) else repr(value)
            raise ConfigError(f"reward kind {options.kind} does not support `{name}` ({shown}); leave it out")
