"""How all commands look: the settings of every Typer app, and of those that only hold subcommands."""

from __future__ import annotations

from typing import Any

import typer

SETTINGS: dict[str, Any] = {"pretty_exceptions_enable": False, "add_completion": False, "rich_markup_mode": None}


def command_group(about: str) -> typer.Typer:
    """A command that holds subcommands: without one it prints its help."""
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(help=about, no_args_is_help=True, context_settings=names, **SETTINGS)
