"""Games of one model against another (`compare --head-to-head`) as differences, and where they are stored.

The difference is the win rate minus 50: above 0 the model beats its opponent. A game is a pair of results, so swapping
the two models' answers per question is the exact test, as it is for a paired difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..records import Answer
from ..records.asking import answers_digest
from ..records.facts import QuestionRule
from ..records.judge_choice import GAMES
from ..records.protocols import RunRows
from ..store import find_cards, read_card
from ..store.runs import read_rows
from ..suites.scoring import run_sums
from .comparison import Comparison, Difference, paired
from .finished_runs import StoredRun

RULE = QuestionRule("win_rate", 50.0, weighted=False)
"""A game's points, of which each model has half on average: the difference of the halves is the win rate minus 50."""


def suite_of_games(suite: str) -> str | None:
    """Return the suite whose questions are played; None if this matches no suite of games."""
    return suite.removeprefix(GAMES) if suite.startswith(GAMES) else None


def games_comparison(run: RunRows, *, seed: int = 0) -> Comparison:
    """Return a run of games as a comparison of the model with its opponent."""
    row = games_difference(run, seed=seed)
    return Comparison(
        suite=run.card.suite,
        suite_version=run.card.suite_version,
        first=str(run.card.protocol.get("baseline")),
        other=run.card.model,
        judge=run.card.judge,
        headline=run.card.headline,
        differences=() if row is None else (row,),
        notes=run.card.notes,
    )


def games_difference(run: RunRows, *, seed: int = 0) -> Difference | None:
    """Return the win rate minus 50, in percent of the points; None with fewer than two questions."""
    sums = run_sums(RULE, run)
    if len(sums.ids) < 2:
        return None
    row = paired(replace(sums, above=sums.below - sums.above), sums, None, seed)
    if row is None:
        return None
    return row.model_copy(update={"first": 50.0, "other": 50.0 + row.value, "method": "direct", "correlation": None})


def stored_games(
    suite: str, baselines: Sequence[StoredRun], candidates: Sequence[StoredRun], results: Path
) -> list[StoredRun]:
    """Return the stored runs of `suite` in which these candidates' very answers play those of these baselines.

    If a candidate is such a run itself, only that one is considered.
    """
    base = suite_of_games(suite)
    opponents = {answers_digest(answers) for answers in _answers_of(baselines, base)}
    named = [run for run in candidates if run.card.suite == suite]
    stored = named or [StoredRun(read_card(file), file.parent) for file in find_cards(results)]
    games = [
        run for run in stored if run.card.suite == suite and run.card.protocol.get("baseline_answers") in opponents
    ]
    if named:
        return games
    shas = [{answer.key: answer.sha for answer in answers} for answers in _answers_of(candidates, base)]
    return [run for run in games if any(_is_of(run, by_key) for by_key in shas)]


def _answers_of(runs: Sequence[StoredRun], suite: str | None) -> list[list[Answer]]:
    return [read_rows(run.folder)[0] for run in runs if run.card.suite == suite and run.folder is not None]


def _is_of(run: StoredRun, shas: Mapping[str, str]) -> bool:
    """Return whether all answers that were played are these ones."""
    played = [] if run.folder is None else read_rows(run.folder)[0]
    return all(shas.get(answer.key) == answer.sha for answer in played if answer.error is None)
