"""Run the study: every method with every setting, in every world, for every seed; resume what was killed.

A seed repeats everything: the world's words, target, sources, prompts, SFT, pairs and methods. One process works on one
world and seed at a time and appends a line per trained model to OUT/DIGEST/GAP-seed-N.jsonl. DIGEST covers the design,
so results of another design are never mixed in. What a line exists for is not trained again; models are not stored,
since it takes seconds to make them again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path

import numpy as np
from pydantic import Field

from harness.records import Record, digest
from harness.store import JsonlRows
from harness.store.files import FolderLock
from recipes.pairs import PairData

GAPS = {"equal": 0.4, "better": 0.7, "far-better": 1.0}
"""How much the sources know: the share of the learnable words, of which the target knows 0.4."""
SFTS = {"short": 10, "saturated": 160}
"""Steps of SFT on the best source answers: stopped on the way, and when more of it teaches no more."""
VALIDATION_PROMPTS, TEST_PROMPTS = 300, 600
UNTRAINED = ("target", "sft", "best-source", "mixture", "best-of-sources")
"""Rows without preference training; the SFT model is what all methods start from."""

log = logging.getLogger(__name__)


class Design(Record):
    """What is compared. Worlds and version decide the results' folder; methods and seeds can be added to it."""

    gaps: dict[str, float] = GAPS
    sfts: dict[str, int] = SFTS
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    version: int = 1
    """Raised whenever world, models or losses change, so that older results are not resumed."""

    @property
    def folder(self) -> str:
        """Eight hexadecimal characters."""
        return digest(self.model_dump(mode="json", exclude={"seeds", "methods"}))[:8]

    @property
    def worlds(self) -> list[tuple[str, str]]:
        """Gap and SFT of each world."""
        return list(product(self.gaps, self.sfts))


class PairFacts(Record):
    """What the pairs of a world and seed are like: their number, and mean rewards."""

    pairs: int
    source_less_target: float
    """Reward of y_ws less that of y_wt."""
    source_better: float
    """Share of the pairs in which y_ws has the higher reward."""
    target_less_rejected: float


class Trained(Record):
    """One line of the results: the mean rewards of one model, greedy and at temperature 0.8."""

    gap: str
    sft: str
    seed: int
    method: str
    settings: dict[str, float] = {}
    """One of the method's; empty for what is not trained."""
    validation: tuple[float, float]
    test: tuple[float, float]
    facts: PairFacts | None = Field(default=None, exclude_if=lambda facts: facts is None)

    @property
    def key(self) -> str:
        return row_key(self.sft, self.method, self.settings)

    @property
    def error(self) -> None:
        """Rows are only written for trainings that ended."""
        return None


def row_key(sft: str, method: str, settings: Mapping[str, float]) -> str:
    return "|".join([sft, method, *(f"{name}={value:g}" for name, value in settings.items())])


def rows_path(folder: Path, gap: str, seed: int) -> Path:
    return folder / f"{gap}-seed-{seed}.jsonl"


def run_study(design: Design, out: Path, *, jobs: int) -> list[Trained]:
    """Train what is missing, `jobs` processes at a time, and return all rows of the design.

    Raise RunLockedError if another process works on the same results.
    """
    folder = out / design.folder
    with FolderLock(folder):
        parts = list(product(design.seeds, design.gaps))
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
            futures = {pool.submit(run_part, design, folder, gap, seed): (gap, seed) for seed, gap in parts}
            for future in as_completed(futures):
                gap, seed = futures[future]
                log.info("%s, seed %d: %d trained now", gap, seed, future.result())
        return collected(design, folder)


def _begin(parent: int) -> None:
    import torch

    from recipes.schedule import end_with_parent

    torch.set_num_threads(1)  # before the first operation; two processes share the cores
    end_with_parent(parent)


def collected(design: Design, folder: Path) -> list[Trained]:
    """Return the rows of the design, in its order; rows of other methods and settings are left out."""
    of_part = {
        (gap, seed): {row.key: row for row in JsonlRows(rows_path(folder, gap, seed), Trained).read()}
        for gap, seed in product(design.gaps, design.seeds)
    }
    wanted = list(_wanted(design))
    return [
        of_part[gap, seed][row_key(*part)]
        for gap, sft in design.worlds
        for seed in design.seeds
        for part in wanted
        if part[0] == sft
    ]


def run_part(design: Design, folder: Path, gap: str, seed: int) -> int:
    """Train what is missing of one gap and seed; return how many models that were."""
    rows = JsonlRows(rows_path(folder, gap, seed), Trained)
    rows.open()
    try:
        missing = [part for part in _wanted(design) if row_key(*part) not in rows]
        if missing:
            for row in _train_missing(design, gap, seed, missing):
                rows.append(row)
        return len(missing)
    finally:
        rows.close()


Part = tuple[str, str, Mapping[str, float]]
"""SFT, method and settings of one row."""


def _wanted(design: Design) -> Iterator[Part]:
    from .methods import METHODS

    for sft in design.sfts:
        yield from ((sft, name, {}) for name in UNTRAINED)
        yield from ((sft, name, settings) for name in design.methods for settings in METHODS[name].settings)


def _train_missing(design: Design, gap: str, seed: int, missing: Sequence[Part]) -> Iterator[Trained]:
    from .evaluation import HeldOut
    from .methods import METHODS
    from .preparation import prepare, prepare_sources
    from .world import World

    world = World.drawn(known_by_sources=design.gaps[gap], seed=seed)
    sources = prepare_sources(world, seed)
    rng = np.random.default_rng([seed, 3])
    held_out = [HeldOut(world, world.prompts(count, rng), seed) for count in (VALIDATION_PROMPTS, TEST_PROMPTS)]
    for sft in dict.fromkeys(part[0] for part in missing):
        prepared = prepare(sources, design.sfts[sft])
        for _, name, settings in (part for part in missing if part[0] == sft):
            if name in UNTRAINED:
                validation, test = (part.untrained(name, prepared) for part in held_out)
            else:
                model = METHODS[name].train(prepared, dict(settings))
                validation, test = (part.means([model]) for part in held_out)
            yield Trained(
                gap=gap,
                sft=sft,
                seed=seed,
                method=name,
                settings=dict(settings),
                validation=validation,
                test=test,
                facts=_facts(prepared.data) if name == "sft" else None,
            )


def _facts(data: PairData) -> PairFacts:
    assert data.source_margins is not None, "there are pairs"
    assert data.margins is not None, "there are pairs"
    return PairFacts(
        pairs=data.pairs,
        source_less_target=round(data.source_margins.mean, 5),
        source_better=round(data.source_better / data.pairs, 5),
        target_less_rejected=round(data.margins.mean, 5),
    )
