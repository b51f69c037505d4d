"""Stage `report`: the leaderboard of variants with paired differences, data report, figures, model cards."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe import Recipe
from ..steps import Step


def report_step(recipe: Recipe, steps: Sequence[Step]) -> Step:
    raise NotImplementedError
