"""Reject options that a backend cannot honour: an option that is silently ignored gives a wrong score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from ..errors import ConfigError
from ..protocols import ServeOptions

COMMON = frozenset({"log_dir", "start_timeout", "concurrency", "timeout", "seed"})
"""Fields that every backend takes."""


def refuse_unknown(options: ServeOptions, backend: str, understood: Iterable[str]) -> None:
    """Raise ConfigError if a field outside `understood` has another value than its default."""
    known = COMMON | frozenset(understood)
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in known and value != field.default:
            flag = "--" + field.name.replace("_", "-")
            raise ConfigError(f"backend {backend!r} cannot honour {flag} {value!r}; leave it out or use --backend vllm")


def pairs(engine_args: Iterable[str], backend: str, known: Iterable[str]) -> dict[str, str]:
    """Return the `NAME=VALUE` engine arguments of a backend without a server of its own.

    Raise ConfigError for a name outside `known`.
    """
    values = {}
    for word in engine_args:
        name, sign, value = word.lstrip("-").partition("=")
        if name not in known or not sign:
            raise ConfigError(f"backend {backend!r} has no engine argument {word!r}; it knows: {', '.join(known)}")
        values[name] = value
    return values
