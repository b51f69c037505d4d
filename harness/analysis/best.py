"""Find, of several runs of one suite, those that are not shown to be worse than the best of them.

>>> ids = tuple("abcdefgh")
>>> def sums(*scores): return QuestionSums("rate", 100.0, ids, np.array(scores, float), np.ones(8))
>>> rates = [sums(1, 1, 1, 0, 1, 1, 1, 0), sums(1, 1, 0, 1, 1, 1, 1, 0), sums(0, 0, 0, 0, 0, 0, 1, 0)]
>>> [row.may_be_best for row in best_of_sums(rates)[1]]
[True, True, False]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from ..records import Prompt, Record
from ..records.errors import ConfigError
from ..records.facts import higher_is_better
from ..records.protocols import Refits, RefitsPairs, RunRows
from ..stats.best import BestBounds, compare_with_best
from ..stats.intervals import FloatArray
from ..stats.paired import least_se, terms
from ..suites.scoring import QuestionSums, least_errors_of
from .comparison import main_sums
from .differences import FEW, PERCENT
from .finished_runs import (
    USUAL_OPTIONS,
    PairOptions,
    StoredRun,
    matched,
    refuse_different,
    run_rows,
    shown_names,
    suite_of,
)


class NotRankedError(ConfigError):
    """The headline of these runs has no direction or no error, so none of them is the best."""


class BestRow(Record):
    """One model, and its true value minus that of the best other model."""

    model: str
    value: float
    low: float | None
    high: float | None
    """95 %, all models at once, positive if better; one is 0 if the sign is decided. None: unlimited, as the model has
    the same verdicts as another."""
    may_be_best: bool
    """It is not shown to be worse than the best."""


class BestOf(Record):
    """The models of one suite, those that may be the best first."""

    suite: str
    suite_version: str
    judge: str
    metric: str
    higher_is_better: bool = Field(default=True, exclude_if=bool)
    n: int
    """Questions that all have; 0: unknown."""
    method: Literal["paired", "refitted", "unpaired"]
    models: tuple[BestRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def tied(self) -> tuple[str, ...]:
        """Return the models that may be the best."""
        return tuple(row.model for row in self.models if row.may_be_best)


def best_of_models(
    names: Sequence[str], results: Path, options: PairOptions = USUAL_OPTIONS, *, labels: Sequence[str] | None = None
) -> list[BestOf]:
    """Return the best of the named runs, per suite that all have. `labels` are shown for the names.

    Raise ConfigError if two runs are not comparable, unless `options.force`, or if a suite's headline cannot be
    compared.
    """
    return [best_of_runs(runs, options, labels=labels) for runs in matched(names, results, options.suites)]


def best_of_runs(
    runs: Sequence[StoredRun], options: PairOptions = USUAL_OPTIONS, *, labels: Sequence[str] | None = None
) -> BestOf:
    """Return the best of one suite's stored runs. Raise as `best_of_models`, and NotRankedError for the headline."""
    rows = [run_rows(run, name) for run, name in zip(runs, labels or shown_names(runs), strict=True)]
    for run in rows[1:]:
        refuse_different(rows[0], run, (rows[0].name, run.name), force=options.force)
    loaded = suite_of(runs[0].card, options.mirror, folder=runs[0].folder)
    return best_of(rows, prompts=loaded.prompts, suite=loaded.suite, seed=options.seed)


def best_of(
    runs: Sequence[RunRows], *, prompts: Sequence[Prompt] | None = None, suite: object = None, seed: int = 0
) -> BestOf:
    """Return which of the runs of one suite may be the best, by the first run's headline.

    Errors are of the questions that all runs have; a fitted headline is refitted, if `suite` can do so. Without rows
    they are the cards' own, as if independent. Raise NotRankedError if the headline has no direction or no error.
    """
    card = runs[0].card
    refits = _refits(runs, prompts, suite)
    sums = None if refits else _sums(runs, prompts)
    metric = sums[0].metric if sums else card.headline
    better = higher_is_better(card, metric)
    if better is None:
        raise NotRankedError(
            f"{card.suite}: it is unknown whether more or less {metric} is better, so nothing is the best"
        )
    sign, notes = 1.0 if better else -1.0, []
    if refits:
        values = np.array([refits[0].values[0], *(pair.values[1] for pair in refits)])
        replicates = np.stack([refits[0].replicates[0], *(pair.replicates[1] for pair in refits)])
        # all fits share their resamples, so this includes what the models have in common
        covariance = np.cov(replicates).astype(np.float64)
        questions = refits[0].n
        apart = (values[:, None] - values).tolist()
        least = np.array([[least_se(questions, difference, PERCENT) for difference in row] for row in apart])
        bounds = compare_with_best(sign * values, covariance, 0, least=least, seed=seed)
    elif sums:
        values, bounds = best_of_sums(sums, sign=sign, seed=seed)
        questions = len(sums[0].ids)
        most = max(len({answer.prompt_id for answer in run.answers}) for run in runs)
        if questions < FEW * most:
            notes.append(f"on the {questions} questions that all have, of up to {most}; nothing is adjusted here")
        if metric != card.headline:
            notes.append(f"by {metric}: {card.headline} cannot be refitted for these runs together")
    else:
        values, covariance = _independent(runs)
        questions, bounds = 0, compare_with_best(sign * values, covariance, 0, seed=seed)
        notes.append("by the cards' own errors, as if the questions were different: not all runs have their rows")
    rows = [
        BestRow(
            model=run.name,
            value=value,
            low=row.low if math.isfinite(row.low) else None,
            high=row.high if math.isfinite(row.high) else None,
            may_be_best=row.may_be_best,
        )
        for run, value, row in zip(runs, values.tolist(), bounds, strict=True)
    ]
    return BestOf(
        suite=card.suite,
        suite_version=card.suite_version,
        judge=card.judge,
        metric=metric,
        higher_is_better=better,
        n=questions,
        method="refitted" if refits else "paired" if sums else "unpaired",
        models=tuple(sorted(rows, key=lambda row: (not row.may_be_best, -sign * row.value))),
        notes=tuple(notes),
    )


def _refits(runs: Sequence[RunRows], prompts: Sequence[Prompt] | None, suite: object) -> list[Refits]:
    """Return the refits of each run with the first, or none if they do not share their resamples."""
    if not isinstance(suite, RefitsPairs) or not prompts or any(run.audit is not None for run in runs):
        return []
    pairs = [suite.paired_refits(prompts, runs[0], run) for run in runs[1:]]
    fits = [pair for pair in pairs if pair is not None]
    # pairs with other common questions were resampled differently
    shared = len(fits) == len(pairs) and all(
        pair.n == fits[0].n and np.allclose(pair.replicates[0], fits[0].replicates[0], rtol=1e-6) for pair in fits
    )
    return fits if shared else []


def _sums(runs: Sequence[RunRows], prompts: Sequence[Prompt] | None) -> list[QuestionSums] | None:
    """Return the headline's terms over the questions that all runs have, or of the suite's main sum over questions."""
    categories: Mapping[str, str] | None = None if prompts is None else {row.id: row.category for row in prompts}
    shared = main_sums(runs, categories=categories)
    # one question has no spread, so no error could be estimated
    return shared if shared and len(shared[0].ids) >= 2 else None


def best_of_sums(
    sums: Sequence[QuestionSums], *, sign: float = 1.0, seed: int = 0
) -> tuple[FloatArray, list[BestBounds]]:
    """Return the values (models,) and bounds of models with the same questions. `sign` -1 if less is better."""
    values, covariance = _estimates(sums)
    bounds = compare_with_best(sign * values, covariance, len(sums[0].ids) - 1, least=least_errors_of(sums), seed=seed)
    known_bounds = [row.bounds for row in sums if row.bounds is not None]
    if len(known_bounds) == len(sums):  # no difference can exceed the scale's length
        widest = sums[0].scale * (max(high for _, high in known_bounds) - min(low for low, _ in known_bounds))
        bounds = [BestBounds(max(row.low, -widest), min(row.high, widest)) for row in bounds]
    return values, bounds


def _estimates(sums: Sequence[QuestionSums]) -> tuple[FloatArray, FloatArray]:
    """Return the values (models,) and their covariance, both over the same questions."""
    values = np.array([row.scale * float(row.above.sum() / row.below.sum()) for row in sums])
    table = np.stack([row.scale * terms(row.above, row.below) for row in sums])
    questions = table.shape[1]
    covariance: FloatArray = table @ table.T / (questions * (questions - 1))
    return values, covariance


def _independent(runs: Sequence[RunRows]) -> tuple[FloatArray, FloatArray]:
    scores = [run.card.scores.get(runs[0].card.headline) for run in runs]
    estimates = [
        (score.value, score.se) for score in scores if score is not None and score.value is not None and score.se
    ]
    if len(estimates) < len(runs):
        missing = ", ".join(run.name for run, score in zip(runs, scores, strict=True) if score is None or not score.se)
        raise NotRankedError(
            f"{runs[0].card.suite}: no standard error of {runs[0].card.headline} for {missing}, so the best of these "
            "runs cannot be found; leave them out"
        )
    values, errors = (np.array(column, float) for column in zip(*estimates, strict=True))
    return values, np.diag(errors**2)
