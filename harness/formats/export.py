"""List the formats that a run can be exported to, per suite; modules are imported on use."""

from __future__ import annotations

from importlib import import_module

from ..errors import ConfigError
from .export_rows import Exporter

EXPORTERS = {
    "fastchat": {"mt_bench": "export_fastchat:export", "mt_bench_pairs": "export_fastchat:export_pairs"},
    "alpaca_eval": {"alpaca_eval": "export_alpaca_eval:export"},
    "arena_hard": {"arena_hard": "export_arena_hard:export", "arena_hard_v2": "export_arena_hard:export_v2"},
}
"""Format -> suite -> module:function of this package."""


def suites_of(file_format: str) -> tuple[str, ...]:
    """Return the suites that can be exported to a format; raise ConfigError for an unknown format."""
    if file_format not in EXPORTERS:
        raise ConfigError(f"no format {file_format!r}; known: {', '.join(EXPORTERS)}")
    return tuple(EXPORTERS[file_format])


def exporter(file_format: str, suite: str) -> Exporter:
    """Return the exporter of a suite; raise ConfigError if the format has no files for it."""
    if suite not in suites_of(file_format):
        fits = ", ".join(name for name, suites in EXPORTERS.items() if suite in suites) or "none"
        raise ConfigError(f"a run of {suite!r} has no {file_format} files; formats for it: {fits}")
    module, _, function = EXPORTERS[file_format][suite].partition(":")
    export_function: Exporter = getattr(import_module(f".{module}", __package__), function)
    return export_function
