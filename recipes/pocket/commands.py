"""The command `harness pocket-models`, which trains the models of the pocket fusion recipe."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer


def pocket_models(
    out: Annotated[Path, typer.Option(help="Folder to write. Models that exist already are kept.")],
    seed: Annotated[int, typer.Option(help="Seed of the weights and the training data.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models' training records as JSON.")] = False,
) -> None:
    """Train the four tiny models of the pocket fusion recipe: a target and three specialist sources.

    Example: harness pocket-models --out models/pocket-fusion
    """
    from .models import make_models

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trained = make_models(out, seed)
    if as_json:
        typer.echo(json.dumps({name: model.model_dump(mode="json") for name, model in trained.items()}, indent=2))
        return
    for name, model in trained.items():
        typer.echo(
            f"{out / name}: {model.parameters / 1e6:.2f} M parameters, {model.course.settings.steps} steps, "
            f"loss {model.loss:.3f}, trained in {model.seconds:.0f} s"
        )
