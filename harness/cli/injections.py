"""`harness judge injections` and `harness judge template`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..config import judge_templates
from ..errors import ConfigError
from ..judging.injection import KINDS, Injections, count_injections
from ..report.cells import plain
from ..runs import find_run, read_rows
from ..store import read_card


def injections(
    run: Annotated[list[str], typer.Argument(help="RUN: a run's folder, its card, or a model under --results.")],
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Count the answers that speak to the judge: verdict marks, prompt delimiters, chat tokens, instructions.

    A hit is no proof of ill will; it says which judgments to read. Example: harness judge injections ckpt
    """
    found: list[tuple[str, str, Injections, int]] = []
    for name in run:
        folder = find_run(name, results)
        card = read_card(folder / "card.json")
        answers, judgments = read_rows(folder)
        flagged = sum("injection" in row.flags for row in judgments)
        found.append((card.model, f"{card.suite}@{card.suite_version}", count_injections(answers), flagged))
    if as_json:
        rows = [
            {
                "model": model,
                "suite": suite,
                "answers": one.answers,
                "suspect": one.suspect,
                "by_kind": one.by_kind,
                "prompt_ids": list(one.prompt_ids),
                "judgments_flagged": flagged,
            }
            for model, suite, one, flagged in found
        ]
        print(json.dumps({"injections": rows}, indent=2))
        return
    table = Table(title="Answers that speak to the judge", title_justify="left")
    for column in ("model", "suite", "answers", "suspect", *KINDS, "judgments flagged", "prompts"):
        table.add_column(
            column, overflow="fold", justify="left" if column in ("model", "suite", "prompts") else "right"
        )
    for model, suite, one, flagged in found:
        shown = ", ".join(one.prompt_ids[:10]) + (", …" if len(one.prompt_ids) > 10 else "")
        counts = (one.answers, one.suspect, *(one.by_kind[kind] for kind in KINDS), flagged)
        table.add_row(*(Text(plain(text)) for text in (model, suite, *map(str, counts), shown)))
    Console(width=None if os.isatty(1) else 160).print(table)


def template(name: Annotated[str | None, typer.Argument(help="Which one; left out: list them.")] = None) -> None:
    """Print a judge's YAML file to fill in: endpoint, azure, reasoning, local, reward_model, evaluator.

    Example: harness judge template azure > azure.yaml
    """
    known = judge_templates()
    if name is None:
        for each, path in known.items():
            print(f"{each:14} {path.read_text('utf-8').splitlines()[0].lstrip('# ')}")
        return
    if name not in known:
        raise ConfigError(f"no judge template named {name!r}; known: {', '.join(known)}")
    print(known[name].read_text("utf-8"), end="")
