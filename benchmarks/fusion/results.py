"""The study's rows as one CSV file, small enough to be committed: a row per trained model."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.store import write_atomic

from .study import PairFacts, Trained

FACTS = tuple(PairFacts.model_fields)
REWARDS = ("validation_greedy", "validation_sampled", "test_greedy", "test_sampled")
COLUMNS = ("gap", "sft", "seed", "method", "settings", *REWARDS, *FACTS)


def write_results(path: Path, rows: Sequence[Trained]) -> None:
    """Write the rows; settings are `name=value`, separated by spaces."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        settings = " ".join(f"{name}={value:g}" for name, value in row.settings.items())
        rewards = dict(zip(REWARDS, (*row.validation, *row.test), strict=True))
        facts = {} if row.facts is None else row.facts.model_dump()
        names = {"gap": row.gap, "sft": row.sft, "seed": row.seed, "method": row.method}
        writer.writerow({**names, "settings": settings, **rewards, **facts})
    write_atomic(path, text.getvalue())


def read_results(path: Path) -> list[Trained]:
    """Return the rows of such a file, equal to those that were written."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_trained(row) for row in csv.DictReader(file)]


def _trained(row: Mapping[str, str]) -> Trained:
    settings = dict(setting.split("=") for setting in row["settings"].split())
    greedy, sampled, test_greedy, test_sampled = (float(row[name]) for name in REWARDS)
    return Trained(
        gap=row["gap"],
        sft=row["sft"],
        seed=int(row["seed"]),
        method=row["method"],
        settings={name: float(value) for name, value in settings.items()},
        validation=(greedy, sampled),
        test=(test_greedy, test_sampled),
        facts=PairFacts.model_validate({name: row[name] for name in FACTS}) if row[FACTS[0]] else None,
    )
