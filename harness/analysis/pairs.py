"""The difference of two stored runs as `harness compare` states it, for tables that show many pairs.

    PairedRuns({"run-a": folder_a, "run-b": folder_b}).difference(card_b, card_a).p

The leaderboard and the viewer take their differences from here, so that a pair has one number wherever it is shown.
Rows are read when a pair is asked for, and only the last few runs stay in memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..records import Prompt, ScoreCard
from ..records.errors import ConfigError
from ..records.facts import facts_of
from ..records.protocols import RunRows
from ..store.official import is_available_offline
from .comparison import Difference, adjusted, compare, headline_difference
from .finished_runs import Loaded, StoredRun, run_rows, suite_of
from .leaderboard import HeadlineDifference, against, run_id

log = logging.getLogger(__name__)
KEPT = 3
"""Runs whose rows stay in memory: a board asks for neighbours, and for one baseline."""


class PairedRuns:
    """Differences of the headline between runs whose folders are known."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """`folders`: run id -> folder of the run's rows."""
        self._folders = folders
        self._rows: OrderedDict[str, RunRows | None] = OrderedDict()
        self._suites: dict[tuple[str, str], Loaded] = {}

    def difference(self, card: ScoreCard, above: ScoreCard) -> HeadlineDifference | None:
        """Return `card` minus `above`, from the cards alone if a run has no readable rows.

        None if a value or standard error is missing, or if nothing varies.
        """
        if card.headline != above.headline:
            return None
        first, second = self._read(above), self._read(card)
        if first is None or second is None:
            return against(card, above, {})
        # a metric that is chosen for a mixed table is not always the run's own headline
        first, second = _ranked_by(first, above), _ranked_by(second, card)
        loaded = self._suite(above)
        row = headline_difference(first, second, prompts=loaded.prompts, suite=loaded.suite)
        if row is None or row.ci_low is None or row.ci_high is None:
            return None
        return HeadlineDifference(
            difference=row.value, ci_low=row.ci_low, ci_high=row.ci_high, p=row.p, paired=row.method != "unpaired"
        )

    def by_category(self, card: ScoreCard, above: ScoreCard, prompts: Sequence[Prompt] | None) -> list[Difference]:
        """Return `card` minus `above` per category, as `compare` states it: p is corrected over the categories.

        The metric is the headline, or the first that has categories. Empty if a run has no readable rows, or if there
        are no two categories. `prompts`: of the runs, None if unknown.
        """
        first, second = self._read(above), self._read(card)
        if first is None or second is None:
            return []
        (comparison,) = adjusted([compare(first, second, prompts=prompts)])
        rows = [row for row in comparison.differences if row.category is not None]
        metrics = [row.metric for row in rows]
        metric = card.headline if card.headline in metrics else next(iter(metrics), None)
        return [row for row in rows if row.metric == metric]

    def _read(self, card: ScoreCard) -> RunRows | None:
        key = run_id(card)
        if key not in self._rows:
            folder = self._folders.get(key)
            try:
                self._rows[key] = None if folder is None else run_rows(StoredRun(card, folder))
            except ConfigError as error:
                log.debug("%s: compared by the cards alone: %s", card.model, error)
                self._rows[key] = None
        self._rows.move_to_end(key)
        while len(self._rows) > KEPT:
            self._rows.popitem(last=False)
        return self._rows[key]

    def _suite(self, card: ScoreCard) -> Loaded:
        """Return the suite if the headline is fitted and its data are here: a table downloads nothing."""
        facts = facts_of(card.suite)
        if not facts.rules or any(rule.metric == card.headline for rule in facts.rules):
            return Loaded(None, None)
        key = card.suite, card.protocol_sha
        if key not in self._suites:
            here = card.suite_version.startswith("pocket") or all(
                is_available_offline(file.name) for file in facts.files if not file.optional
            )
            folder = self._folders.get(run_id(card))
            self._suites[key] = suite_of(card, folder=folder) if here else Loaded(None, None)
        return self._suites[key]


def _ranked_by(rows: RunRows, card: ScoreCard) -> RunRows:
    return RunRows(rows.name, card, rows.answers, rows.judgments, rows.questions, rows.audit)
