"""Refusing what a kind of reward cannot honour: an option that is silently ignored gives a wrong number."""

from __future__ import annotations

from harness.errors import ConfigError
from harness.rewards import RewardOptions


def refuse(options: RewardOptions, *names: str) -> None:
    """Raises ConfigError where one of these fields is set."""
    for name in names:
        if getattr(options, name):
            given = getattr(options, name)
            shown = ", ".join(sorted(given)) if isinstance(given, dict) else repr(given)
            raise ConfigError(f"reward kind {options.kind} cannot honour `{name}` ({shown}); leave it out")
