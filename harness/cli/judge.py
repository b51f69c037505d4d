"""`harness judge`: the judges that can be named, and how far one agrees with people."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import find_judge, judge_files, read_file_spec
from .anchors import anchors
from .calibrate import calibrate
from .groups import command_group
from .injections import injections, template

judge_app = command_group("List judges, calibrate one, write one; find answers that speak to a judge.")


@judge_app.callback()
def judge() -> None:
    """Judges: what can be given as --judge."""


judge_app.command("calibrate")(calibrate)
judge_app.command("injections")(injections)
judge_app.command("template")(template)
judge_app.command("anchors")(anchors)


@judge_app.command("list")
def list_judges(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Names, kinds, models, prices and notes of all configured judges.

    Example: harness judge list
    """
    own = read_file_spec(None).judges
    specs = [find_judge(name, own) for name in [*own, *judge_files()]]
    if as_json:
        print(json.dumps({"judges": [spec.model_dump(mode="json") for spec in specs]}, indent=2))
        return
    table = Table()
    for name in ("name", "kind", "model", "key", "$/M in", "$/M out", "retired", "note"):
        table.add_column(name, overflow="fold")
    for spec in specs:
        key = "" if spec.key_env is None else f"{spec.key_env} ({'set' if os.environ.get(spec.key_env) else 'not set'})"
        prices = ["" if price is None else f"{price:g}" for price in (spec.price_in, spec.price_out)]
        retired = "" if spec.retired is None else spec.retired.isoformat()
        texts = (spec.name, spec.kind, spec.model or "", key, *prices, retired, spec.note or "")
        table.add_row(*(Text(text) for text in texts))
    Console(width=None if os.isatty(1) else 160).print(table)
