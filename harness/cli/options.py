"""Declare the flags and arguments of a command as one frozen record.

>>> class GreetFlags(Flags):
...     name: Annotated[str, typer.Argument(help="Who is greeted.")]
...     shout: Annotated[bool, typer.Option("--shout", help="Greet in capitals.")] = False
>>> @command
... def greet(flags: GreetFlags) -> None:
...     print(f"HELLO {flags.name}" if flags.shout else f"hello {flags.name}")
>>> greet(name="you")
hello you

`greet` is now an ordinary typer command: `typer.Typer().command()(greet)`.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar, get_type_hints

import typer
from pydantic import BaseModel, ConfigDict, Field
from typer.core import TyperCommand, TyperGroup
from typer.models import ParameterInfo

from ..records.errors import printable
from .completion import COMPLETERS

SETTINGS: dict[str, Any] = {"pretty_exceptions_enable": False, "add_completion": False, "rich_markup_mode": None}


class Flags(BaseModel):
    """The flags and arguments of one command. Each field is `Annotated` with a `typer.Option` or `typer.Argument`.

    A field whose type is a `Flags` itself is a group: its fields become flags of the command too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


F = TypeVar("F", bound=Flags)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Return a typer command that calls `function` with the record of its flags.

    One parameter of `function` is a `Flags`; the others, such as a `typer.Context`, remain parameters of the command.
    """
    hints = get_type_hints(function)
    (record_name, record_type), *more = [(name, hint) for name, hint in hints.items() if _is_flags(hint)]
    assert not more, f"{function.__name__} has several records of flags"
    rest = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name in inspect.signature(function).parameters
        if name != record_name
    ]

    @wraps(function)
    def call(**values: Any) -> None:
        context = {parameter.name: values.pop(parameter.name) for parameter in rest}
        function(**context, **{record_name: from_values(record_type, values)})

    signature = inspect.Signature([*rest, *parameters(record_type)])
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return call


def parameters(record: type[Flags]) -> Iterator[inspect.Parameter]:
    """Yield a typer parameter per field: the record's own fields first, then inherited ones, groups in their place."""
    for name in _names(record):
        field = record.model_fields[name]
        if _is_flags(field.annotation):
            yield from parameters(field.annotation)
            continue
        info = next(item for item in field.metadata if isinstance(item, ParameterInfo))
        if info.autocompletion is None and name in COMPLETERS:
            info = copy(info)  # a flag that several fields share is not theirs to change
            info.autocompletion = COMPLETERS[name]
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            # a default that is found out at run time is known to typer by the option itself
            default=inspect.Parameter.empty if field.is_required() or field.default_factory else field.default,
            annotation=Annotated[field.annotation, info],
        )


def from_values(record: type[F], values: Mapping[str, Any]) -> F:
    """Return the record that contains a command's values; missing fields keep their defaults."""
    fields = record.model_fields
    groups = {
        name: from_values(field.annotation, values) for name, field in fields.items() if _is_flags(field.annotation)
    }
    return record(**groups, **{name: values[name] for name in fields if name in values})


def _names(record: type[Flags]) -> list[str]:
    """Return the fields in the order of the help page, where the flags of every command come last."""
    own_first = [name for kind in record.__mro__ for name in inspect.get_annotations(kind)]
    return [name for name in dict.fromkeys(own_first) if name in record.model_fields]


def _write_panels(parameters: list[Any], ctx: Any, formatter: Any) -> None:
    """Write the options of a help page under their `rich_help_panel`, without rich."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            default = "Arguments" if is_argument else "Options"
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or default, []).append(record)
    for heading in sorted(panels, key=lambda name: name != "Arguments"):  # otherwise in the order of the record
        with formatter.section(heading):
            formatter.write_dl(panels[heading])


class PanelCommand(TyperCommand):
    """A command whose help page has its options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_panels(self.get_params(ctx), ctx, formatter)


class PanelGroup(TyperGroup):
    """The same for a group, with the first paragraph of each subcommand's help, not cut off after a line."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_panels(self.get_params(ctx), ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        helps = [(name, getattr(self.get_command(ctx, name), "help", None) or "") for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split("\n\n")[0].split())) for name, text in helps])


def _is_flags(annotation: Any) -> TypeGuard[type[Flags]]:
    return isinstance(annotation, type) and issubclass(annotation, Flags)


def command_group(about: str) -> typer.Typer:
    """Return an app for subcommands; without one it prints its help."""
    names = {"help_option_names": ["-h", "--help"]}
    return typer.Typer(cls=PanelGroup, help=about, no_args_is_help=True, context_settings=names, **SETTINGS)


# Shared by several commands

RESULTS_HELP = "Results folder; default: `results:` of ./harness.yaml, else ./results."
RESULTS = typer.Option(help=RESULTS_HELP, envvar="HARNESS_RESULTS")
DRY_RUN = typer.Option("--dry-run", help="Print what would be asked; write nothing.")
NO_CACHE = typer.Option("--no-cache", help="Neither read nor fill the judges' reply cache.")


def configured_results() -> Path:
    """Return `results:` of ./harness.yaml, which is then named on stderr, else `results`.

    Raise ConfigError if that file is invalid.
    """
    from ..store.trusted import NAME, configured_results_folder  # deferred: the help needs no configuration

    folder = configured_results_folder()
    if folder is None:
        return Path("results")
    if "_HARNESS_COMPLETE" not in os.environ:  # a shell that completes has no room for it
        print(f"harness: results folder {printable(folder)}, from ./{NAME}", file=sys.stderr)
    return Path(folder)


class ResultsFlags(Flags):
    results: Annotated[
        Path,
        typer.Option(
            help=RESULTS_HELP, envvar="HARNESS_RESULTS", default_factory=configured_results, show_default=False
        ),
    ] = Field(default_factory=configured_results)


class MirrorFlags(Flags):
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None


class JsonFlags(Flags):
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False


class VerboseFlags(Flags):
    verbose: Annotated[bool, typer.Option("--verbose", help="Log everything.")] = False


def comma_list(text: str | None) -> tuple[str, ...]:
    """Return the parts of `a, b`; no parts for None or an empty text."""
    return tuple(part.strip() for part in text.split(",")) if text else ()
