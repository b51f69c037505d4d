"""`harness elo`: place models on the scale of people's votes, and say how well a judge predicts the votes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..analysis.human_elo import BattleSource, human_elo, read_verdicts, read_votes
from ..pages.judge_text import elo_grids, elo_remarks
from ..records.errors import ConfigError
from .calibrate import print_report
from .options import JsonFlags, ResultsFlags, command


class EloFlags(ResultsFlags, JsonFlags):
    votes: Annotated[
        list[Path], typer.Option(help="People's votes: LMArena's battles or a calibration; repeatable.", metavar="FILE")
    ]
    verdicts: Annotated[
        list[str],
        typer.Option(help="One judge's verdicts: battles, a calibration, a run, a results folder; repeatable."),
    ] = []
    anchor: Annotated[
        str | None, typer.Option(help="MODEL=ELO fixes the scale; default: the voted models' mean is 1000.")
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of bootstrap and held-out parts.")] = 0
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False


@command
def elo(flags: EloFlags) -> None:
    """Place models on the scale of people's votes (Elo): by votes, or by a judge's verdicts at a fitted temperature.

    Also shows how well the judge predicts votes that it was not fitted to. Asks nobody and writes nothing.

    Examples: harness elo --votes battles.jsonl;
    harness elo --votes votes.jsonl --verdicts results/calibrations/gpt-5.4/0123456789ab --verdicts my-model
    """
    anchor = None if flags.anchor is None else _anchor(flags.anchor)
    votes = read_votes(flags.votes)
    verdicts = read_verdicts(flags.verdicts, flags.results) if flags.verdicts else BattleSource(())
    result = human_elo(votes, verdicts, anchor=anchor, seed=flags.seed)
    if flags.as_json:
        print(result.model_dump_json(indent=2))
        return
    print_report(elo_grids(result), elo_remarks(result), markdown=flags.markdown)


def _anchor(text: str) -> tuple[str, float]:
    """Raise ConfigError unless the text is MODEL=ELO."""
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise ConfigError(f"--anchor {text!r} is not MODEL=ELO, as in mixtral-8x7b-instruct-v0.1=1114")
    return name, value
