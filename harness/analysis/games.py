"""Read games of one model against another (`compare --head-to-head`): as a difference, and as cells of a leaderboard.

>>> suite_of_games("head_to_head_mt_bench"), suite_of_games("mt_bench")
('mt_bench', None)

The difference is the win rate minus 50: above 0 the model beats its opponent. A game is a pair of results, so swapping
the two models' answers per question is the exact test, as it is for a paired difference.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..records import Answer, Record, Score, ScoreCard
from ..records.asking import answers_digest
from ..records.errors import ConfigError
from ..records.facts import QuestionRule
from ..records.judge_choice import GAMES
from ..records.protocols import RunRows
from ..store import find_cards, read_card
from ..store.runs import read_rows
from ..suites.scoring import run_sums
from .comparison import Comparison
from .differences import Difference, paired
from .finished_runs import StoredRun, run_rows
from .leaderboard import Table, run_id

log = logging.getLogger(__name__)

RULE = QuestionRule("win_rate", 50.0, weighted=False)
"""A game's points, of which each model has half on average: the difference of the halves is the win rate minus 50."""
UNKNOWN = Score(value=None, n=0, unscored=0)


class BoardGames(Record):
    """Direct games of two rows of a table: one stored run of games."""

    run: str
    """Run id of the row whose win rate this is."""
    other: str
    """Run id of its opponent's row."""
    win_rate: float
    """Percent of the games' points."""
    ci_low: float
    ci_high: float
    """95 %."""
    p: float
    """Two-sided, exact, for a win rate of 50."""
    won: int
    tied: int
    lost: int
    """Questions."""
    judge: str


def suite_of_games(suite: str) -> str | None:
    """Return the suite whose questions are played, or None if this matches no suite of games."""
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
    """Return the win rate minus 50, in percent of the points, or None with fewer than two questions."""
    sums = run_sums(RULE, run)
    if len(sums.ids) < 2:
        return None
    # the opponent has the rest of each game's points, which makes games a pair of results like any other
    row = paired(replace(sums, above=sums.below - sums.above), sums, None, seed)
    if row is None:
        return None
    update = {"first": 50.0, "other": 50.0 + row.value, "bounds": (0.0, 100.0), "correlation": None, "method": "direct"}
    return row.model_copy(update=update)


def stored_games(
    suite: str, baselines: Sequence[StoredRun], candidates: Sequence[StoredRun], results: Path
) -> list[StoredRun]:
    """Return the stored runs of `suite` in which the candidates' own answers play against the baselines'.

    If a candidate is such a run itself, only that one is considered.
    """
    base = suite_of_games(suite)
    # by digests of the texts: a model of the same name may have answered anew since the games were played
    opponents = {answers_digest(answers) for answers in _answers_of(baselines, base)}
    named = [run for run in candidates if run.card.suite == suite]
    stored = named or [StoredRun(read_card(file), file.parent) for file in find_cards(results)]
    games = [
        run for run in stored if run.card.suite == suite and run.card.protocol.get("baseline_answers") in opponents
    ]
    if named:
        return games
    shas = [{answer.key: answer.sha for answer in answers} for answers in _answers_of(candidates, base)]
    return [run for run in games if any(_is_played_with(run, by_key) for by_key in shas)]


def board_games(
    tables: Sequence[Table], readable_cards: Sequence[tuple[Path, ScoreCard]]
) -> dict[str, tuple[BoardGames, ...]]:
    """Return `Table.anchor` -> stored games whose answers are those of two of its rows, by any judge.

    Games and rows with unreadable files, games of fewer than two questions, and games without an interval or counts are
    left out.
    """
    folders = {run_id(card): path.parent for path, card in readable_cards}
    stored = [(card, path.parent) for path, card in readable_cards if suite_of_games(card.suite) is not None]
    games_of_tables = {}
    for table in tables:
        key = table.suite, table.suite_version
        played = [(card, folder) for card, folder in stored if (suite_of_games(card.suite), card.suite_version) == key]
        # reading every run's answers takes seconds on a large board, so only for tables with games
        answers = {row.run_id: _readable_answers(folders[row.run_id]) for row in table.rows} if played else {}
        digests = {answers_digest(rows): row for row, rows in answers.items() if rows}
        shas = {row: {answer.key: answer.sha for answer in rows} for row, rows in answers.items()}
        games = [_games_of_rows(StoredRun(card, folder), digests, shas) for card, folder in played]
        if any(games):
            games_of_tables[table.anchor] = tuple(game for game in games if game is not None)
    return games_of_tables


def _readable_answers(folder: Path) -> list[Answer]:
    try:
        return read_rows(folder)[0]
    except ConfigError as error:
        log.debug("%s: without direct games: %s", folder, error)
        return []


def _games_of_rows(
    stored: StoredRun, digests: Mapping[str, str], shas: Mapping[str, Mapping[str, str]]
) -> BoardGames | None:
    """Return a run of games with the rows that played it.

    `digests`: digest of a row's answers -> its run id. `shas`: run id -> answer key -> digest of the text.
    """
    try:
        run = run_rows(stored)
    except ConfigError as error:
        log.debug("%s: direct games left out: %s", stored.folder, error)
        return None
    opponent = digests.get(str(run.card.protocol.get("baseline_answers")))
    played = next((row for row in shas if row != opponent and _are_all_of(run.answers, shas[row])), None)
    difference, score = games_difference(run), run.card.scores[run.card.headline]
    counts = [run.card.scores.get(f"n_{word}", UNKNOWN).value for word in ("won", "tied", "lost")]
    if opponent is None or played is None or difference is None or None in counts:
        return None
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return None
    won, tied, lost = (int(count or 0) for count in counts)
    return BoardGames(
        run=played,
        other=opponent,
        win_rate=score.value,
        ci_low=score.ci_low,
        ci_high=score.ci_high,
        p=difference.p,
        won=won,
        tied=tied,
        lost=lost,
        judge=run.card.judge,
    )


def _answers_of(runs: Sequence[StoredRun], suite: str | None) -> list[list[Answer]]:
    return [read_rows(run.folder)[0] for run in runs if run.card.suite == suite and run.folder is not None]


def _is_played_with(run: StoredRun, shas: Mapping[str, str]) -> bool:
    """Return whether all answers that were played are these ones."""
    played = [] if run.folder is None else read_rows(run.folder)[0]
    return all(shas.get(answer.key) == answer.sha for answer in played if answer.error is None)


def _are_all_of(played: Sequence[Answer], shas: Mapping[str, str]) -> bool:
    """Return whether there are answers, and all of them are these ones."""
    whole = [answer for answer in played if answer.error is None]
    return bool(whole) and all(shas.get(answer.key) == answer.sha for answer in whole)
