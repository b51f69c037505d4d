"""Read everything that is finished in a recipe's folder, whatever variants and seeds this command was narrowed to.

It writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue, ValidationError

from harness.errors import ConfigError
from harness.leaderboard.board import readable
from harness.leaderboard.ranking import run_id
from harness.records import Record, ScoreCard
from harness.store import find_cards

from ..pairs.best import PROMPTS
from ..pairs.data import PairData
from ..recipe import Recipe
from ..records import PreferencePair, PromptRow
from ..spec import RecipeSpec
from ..steps import DONE, StepRecord
from .curves import read_log
from .data import DataReport, PairsReport, pairs_report
from .rows import Measured, read_measured
from .tables import PARENTS

BASELINES = ("dpo", "sft-cont")
"""Variants that others are compared with by default: DPO on the target's own pairs, and SFT continued on the sources'
best answers. Without these two controls, a gain cannot be attributed to fusion."""


SCORES = "scores.json"


def record_in(folder: Path) -> StepRecord | None:
    """Return the record of a step's folder, or None if it is unfinished. Raise ConfigError if it cannot be read."""
    path = folder / DONE
    try:
        return StepRecord.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


@dataclass(frozen=True)
class FinishedCheckpoint:
    """A finished checkpoint of the recipe."""

    model: str
    seed: int
    folder: Path
    record: StepRecord


def checkpoints(recipe: Recipe) -> Iterator[FinishedCheckpoint]:
    """Yield the finished checkpoints: `sft` and every variant, for every seed."""
    for seed in recipe.spec.seeds:
        for model in ("sft", *recipe.spec.variants):
            folder = recipe.checkpoint(model, seed)
            record = None if folder is None else record_in(folder)
            if folder is not None and record is not None:
                yield FinishedCheckpoint(model, seed, folder, record)


def baselines(spec: RecipeSpec) -> tuple[str, ...]:
    """Return the models that others are compared with, ending with those that all variants started from.

    If the recipe names no baselines, use those of BASELINES that it has.
    """
    configured = spec.evaluate.baselines
    chosen = tuple(name for name in BASELINES if name in spec.variants) if configured is None else configured
    return (*chosen, *(name for name in PARENTS if name not in chosen))


def read_all_measured(recipe: Recipe) -> list[Measured]:
    """Return the held-out rewards of every model and seed that is finished."""
    path = recipe.prompts / PROMPTS
    if record_in(recipe.prompts) is None:
        return []
    with path.open("rb") as file:
        prompts = [PromptRow.model_validate_json(line) for line in file]
    models = [("target", recipe.spec.seeds[0])]
    models += [(model, seed) for seed in recipe.spec.seeds for model in ("sft", *recipe.spec.variants)]
    results: list[Measured] = []
    for model, seed in models:
        folder = recipe.held_out(model, seed)
        if record_in(folder) is not None:
            results += read_measured(folder, model, seed, prompts, recipe.spec.evaluate)
    return results


def read_data(recipe: Recipe) -> DataReport:
    """Return the counts of all finished steps and the report of every set of pairs."""
    reports: list[PairsReport] = []
    counts: dict[str, dict[str, JsonValue]] = {}
    for path in sorted(recipe.out.glob(f"*/{DONE}")) + sorted(recipe.out.glob(f"*/*/{DONE}")):
        name = str(path.parent.relative_to(recipe.out))
        record = record_in(path.parent)
        if record is not None and not name.startswith((".", "report")) and "/." not in name and record.counts:
            counts[name] = dict(record.counts)
    for seed in recipe.spec.seeds:
        pairs = recipe.seed(seed) / "pairs"
        for folder in (pairs, *sorted(pairs.glob("sources-*"))):
            if record_in(folder) is not None:
                reports.append(_pairs(folder, str(folder.relative_to(recipe.out))))
    return DataReport(recipe=recipe.spec.name, pairs=tuple(reports), counts=counts)


def _pairs(folder: Path, name: str) -> PairsReport:
    data = PairData.model_validate_json((folder / "data.json").read_bytes())
    with (folder / "pairs.jsonl").open("rb") as file:
        return pairs_report(name, data, (PreferencePair.model_validate_json(line) for line in file))


def read_logs(recipe: Recipe) -> dict[str, list[list[dict[str, float]]]]:
    """Return the training logs of each model, one per seed; seeds without a log are left out."""
    by_model: dict[str, list[list[dict[str, float]]]] = {}
    for checkpoint in checkpoints(recipe):
        log = read_log(checkpoint.folder)
        if log:
            by_model.setdefault(checkpoint.model, []).append(log)
    return by_model


class SuiteRuns(Record):
    """`scores.json` of a model's suites: which runs in the results folder belong to it.

    Other runs there may be of weights trained earlier, or of checkpoints evaluated during training.
    """

    model: str
    runs: tuple[str, ...]
    """Ids of the model's runs in the results folder."""


def read_suites(recipe: Recipe) -> list[tuple[Path, ScoreCard]]:
    """Return the cards of the current checkpoints, with their paths."""
    files = [*recipe.out.glob(f"suites/*/{SCORES}"), *recipe.out.glob(f"seed-*/suites/*/{SCORES}")]
    runs = {run for path in files for run in SuiteRuns.model_validate_json(path.read_bytes()).runs}
    return [(path, card) for path, card in readable(find_cards(recipe.results))[0] if run_id(card) in runs]
