"""Read the leaderboard of a results folder: choose its cards, and compare pairs of them as `harness compare` does.

>>> from harness.records import Score
>>> def card(run: str, value: float) -> ScoreCard:
...     scores = {"s": Score(value=value, se=1.0, n=80, unscored=0)}
...     return ScoreCard.model_construct(headline="s", scores=scores, provenance={"run_id": run})
>>> PairedRuns({}).difference(card("b", 7.5), card("a", 7.0)).difference  # without rows: from the cards alone
0.5

The leaderboard and the viewer take their differences from `PairedRuns`, so that a pair has one number wherever it is
shown. Rows are read when a pair is asked for, and only those of the last few runs stay in memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import combinations
from pathlib import Path

from ..records import Prompt, Record, ScoreCard
from ..records.errors import ConfigError, did_you_mean, first_names
from ..records.facts import QuestionRule, facts_of, higher_is_better
from ..records.protocols import Refits, RefitsPairs, RunRows
from ..store import find_cards
from ..store.checkpoint import read_fusion
from ..store.official import is_available_offline
from ..suites.scoring import QuestionSums, own_question_sums, rules_of, run_sums
from .comparison import SumsOf, adjusted, compare, headline_difference, headline_differences, main_sums
from .differences import Difference
from .finished_runs import Loaded, StoredRun, run_rows, suite_of
from .games import BoardGames, board_games
from .leaderboard import HeadlineDifference, RankOptions, Table, against, rank, readable, run_id
from .reported import ReportedTable, load_reported, reported_beside

# ------------------------------------------------------------------------------------------------ pairs of stored runs


log = logging.getLogger(__name__)
KEPT = 3
"""Runs whose rows stay in memory: a board asks for neighbours, and for one baseline."""


EQUAL = 1e-9
"""Question scores this close to each other are a tie; they are ratios of small integers."""


class BoardPair(Record):
    """Two runs of one table."""

    run: str
    """Run id."""
    other: str
    difference: HeadlineDifference
    """`run` minus `other`."""
    won: int = 0
    """Questions on which `run` scored better."""
    lost: int = 0
    n: int = 0
    """Questions that both have; 0: unknown."""


class PairedRuns:
    """Differences of the headline between runs whose folders are known."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """`folders`: run id -> folder of the run's rows."""
        self._folders = folders
        self._rows: OrderedDict[str, RunRows | None] = OrderedDict()
        self._suites: dict[tuple[str, str], Loaded] = {}
        self._sums: dict[tuple[str, QuestionRule], QuestionSums] = {}
        self._stated: dict[tuple[str, str, str], HeadlineDifference] = {}
        self._questions: dict[tuple[str, str], QuestionSums | None] = {}
        self._capacity = KEPT

    def difference(self, card: ScoreCard, above: ScoreCard) -> HeadlineDifference | None:
        """Return `card` minus `above`, from the cards alone if a run has no readable rows.

        None if a value or standard error is missing, or if nothing varies.
        """
        if card.headline != above.headline:
            return None
        key = run_id(card), run_id(above), card.headline
        if key in self._stated:
            return self._stated[key]
        first, second = self._read(above), self._read(card)
        if first is None or second is None:
            return against(card, above, {})
        # a metric that is chosen for a mixed table is not always the run's own headline
        first, second = _ranked_by(first, above), _ranked_by(second, card)
        loaded = self._suite(above)
        return _stated(headline_difference(first, second, prompts=loaded.prompts, suite=loaded.suite))

    def all_pairs(self, cards: Sequence[ScoreCard]) -> list[BoardPair]:
        """Return every pair of one table's runs, as `difference` states each, the earlier card minus the later one.

        All rows stay in memory until the end, without the judges' replies. `difference` then knows these pairs.
        """
        self._capacity = max(KEPT, len(cards))
        rows = {run_id(card): _without_replies(run) for card in cards if (run := self._read(card)) is not None}
        self._rows.clear()
        rows = {run_id(card): _ranked_by(rows[run_id(card)], card) for card in cards if run_id(card) in rows}
        for key, run in rows.items():
            self._questions[key, run.card.headline] = _sums_of_card(run, self._sums_of)
        loaded = self._suite(cards[0]) if cards else Loaded(None, None)
        suite = loaded.suite
        if isinstance(suite, RefitsPairs) and loaded.prompts:
            suite = _SharedRefits(suite, loaded.prompts, list(rows.values()))
        both = {
            (run, lower): (rows[lower], rows[run])
            for run, lower in combinations([run_id(card) for card in cards], 2)
            if run in rows and lower in rows
        }
        differences = headline_differences(
            list(both.values()), prompts=loaded.prompts, suite=suite, sums_of=self._sums_of
        )
        stated = dict(zip(both, map(_stated, differences), strict=True))
        pairs = []
        for card, lower_card in combinations(cards, 2):
            runs = run_id(card), run_id(lower_card)
            step = stated[runs] if runs in both else against(card, lower_card, {})
            if step is None:
                continue
            self._stated[(*runs, card.headline)] = step
            self._stated[(*runs[::-1], card.headline)] = _reversed(step)
            pair = BoardPair(run=runs[0], other=runs[1], difference=step)
            scores = self._question_scores(*both[runs]) if runs in both else None
            pairs.append(pair if scores is None else pair.model_copy(update=_wins(*scores, card)))
        self._sums.clear()
        self._capacity = KEPT
        return pairs

    def of_tables(self, tables: Sequence[Table], cards: Sequence[ScoreCard]) -> dict[str, tuple[BoardPair, ...]]:
        """Return `Table.anchor` -> all pairs of its ranked rows. `cards` are those of the tables."""
        by_run = {run_id(card): card for card in cards}
        pairs = {}
        for table in tables:
            ranked = [by_run[row.run_id] for row in table.rows if row.rank is not None]
            headed = [card.model_copy(update={"headline": table.headline}) for card in ranked]
            pairs[table.anchor] = tuple(self.all_pairs(headed))
        return pairs

    def question_sums(self, cards: Iterable[ScoreCard]) -> dict[str, QuestionSums]:
        """Return run id -> the headline's terms per question, of runs whose rows reproduce the card's score.

        The rows of `all_pairs` are not read again.
        """
        sums = {}
        for card in cards:
            key = run_id(card), card.headline
            if key not in self._questions:
                run = self._read(card)
                self._questions[key] = None if run is None else _sums_of_card(run)
            if (run_terms := self._questions[key]) is not None:
                sums[run_id(card)] = run_terms
        return sums

    def _sums_of(
        self, rule: QuestionRule, run: RunRows, *, categories: Mapping[str, str] | None = None
    ) -> QuestionSums:
        """Return `run_sums`, computed once per run."""
        if categories is not None:
            return run_sums(rule, run, categories=categories)
        key = run_id(run.card), rule
        if key not in self._sums:
            self._sums[key] = run_sums(rule, run)
        return self._sums[key]

    def _question_scores(self, first: RunRows, second: RunRows) -> tuple[QuestionSums, QuestionSums] | None:
        """Return both runs' terms over common questions: of the headline, or of the suite's main sum over questions."""
        if first.audit is not None or second.audit is not None:
            return None  # an audited run's terms say nothing about single questions
        shared = main_sums([first, second], sums_of=self._sums_of)
        return (shared[0], shared[1]) if shared and shared[0].ids else None

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
        while len(self._rows) > self._capacity:
            self._rows.popitem(last=False)
        return self._rows[key]

    def _suite(self, card: ScoreCard) -> Loaded:
        """Return the suite if the headline is fitted and its data are here: a table downloads nothing."""
        facts = facts_of(card.suite)
        if not facts.rules or any(rule.metric == card.headline for rule in facts.rules):
            return Loaded(None, None)
        key = card.suite, card.protocol_sha
        if key not in self._suites:
            here = card.edition == "pocket" or all(
                is_available_offline(file.name) for file in facts.files if not file.optional
            )
            folder = self._folders.get(run_id(card))
            self._suites[key] = suite_of(card, folder=folder) if here else Loaded(None, None)
        return self._suites[key]


class _SharedRefits:
    """A suite's refits of many runs: each run is refitted once with a reference, not once per pair.

    Refits of runs that answered the same questions share their resamples, whichever pair they were drawn for. A run
    with other questions is refitted per pair.
    """

    def __init__(self, suite: RefitsPairs, prompts: Sequence[Prompt], runs: Sequence[RunRows]) -> None:
        self._suite = suite
        self._prompts = prompts
        self._answered = {
            run_id(run.card): frozenset(answer.prompt_id for answer in run.answers if answer.error is None)
            for run in runs
        }
        self._reference = max(runs, key=lambda run: len(self._answered[run_id(run.card)]), default=None)
        self._refits: dict[str, Refits | None] = {}

    def paired_refits(self, prompts: Sequence[Prompt], first: RunRows, other: RunRows) -> Refits | None:
        shared = [self._shared(run) for run in (first, other)]
        if shared[0] is None or shared[1] is None or shared[0].n != shared[1].n:
            return self._suite.paired_refits(prompts, first, other)
        values = shared[0].values[1], shared[1].values[1]
        replicates = shared[0].replicates[1], shared[1].replicates[1]
        return Refits(shared[0].metric, values, replicates, shared[0].n)

    def _shared(self, run: RunRows) -> Refits | None:
        """Return the refits of the reference and this run, or None if it has other questions or cannot be fitted."""
        reference, key = self._reference, run_id(run.card)
        if reference is None or self._answered.get(key) != self._answered[run_id(reference.card)]:
            return None
        if key not in self._refits:
            self._refits[key] = self._suite.paired_refits(self._prompts, reference, run)
        return self._refits[key]


def _sums_of_card(run: RunRows, sums_of: SumsOf = run_sums) -> QuestionSums | None:
    """Return the terms of the headline, or of the rate behind it, or None unless they are the card's own number."""
    card = run.card
    if run.questions:  # None: not a mean over questions
        return own_question_sums(card, run.questions).get(card.headline)
    if not run.judgments:
        return None
    rule = rules_of(card.suite, card.headline, run.judgments)[0]
    sums = sums_of(rule, run)
    stated = card.scores[rule.metric].value if rule.metric in card.scores else None
    # rows added after the card, or a rule that needs categories: the card's number is authoritative
    if sums.value is None or stated is None or abs(sums.value - stated) > 1e-6 * rule.scale:
        return None
    return sums


def _stated(row: Difference | None) -> HeadlineDifference | None:
    if row is None or row.ci_low is None or row.ci_high is None:
        return None
    return HeadlineDifference(
        difference=row.value, ci_low=row.ci_low, ci_high=row.ci_high, p=row.p, paired=row.method != "unpaired"
    )


def _reversed(step: HeadlineDifference) -> HeadlineDifference:
    ends = {"difference": -step.difference, "ci_low": -step.ci_high, "ci_high": -step.ci_low}
    return step.model_copy(update=ends)


def _wins(first: QuestionSums, second: QuestionSums, card: ScoreCard) -> dict[str, int]:
    """Return on how many common questions the second run is better and worse, or none if no direction is better."""
    better = higher_is_better(card, first.metric)
    if better is None:
        return {"n": len(first.ids)}
    gain = (second.scores() - first.scores()) * (1 if better else -1)
    return {"won": int((gain > EQUAL).sum()), "lost": int((gain < -EQUAL).sum()), "n": len(first.ids)}


def _without_replies(rows: RunRows) -> RunRows:
    # replies are most of a judgment's size, and a whole table stays in memory
    judgments = tuple(row.model_copy(update={"reply": ""}) if row.reply else row for row in rows.judgments)
    return replace(rows, judgments=judgments)


def _ranked_by(rows: RunRows, card: ScoreCard) -> RunRows:
    return RunRows(rows.name, card, rows.answers, rows.judgments, rows.questions, rows.audit)


# ------------------------------------------------------------------------------------------------------------ the board


@dataclass(frozen=True)
class BoardOptions:
    """What is on a board, and how its rows are compared."""

    reported: bool = True
    """Figures of papers and boards for the same suites."""
    paired: bool = True
    """Question by question, if a run's rows exist; False: read nothing but cards."""
    pairs: bool = False
    """Also compare every two rows of a table and find their direct games, for a page on which a reader chooses two."""
    suites: tuple[str, ...] = ()
    """Empty: all."""
    matching: str = ""
    """Only models whose names contain this text, or match it as a pattern with `*` and `?`; case does not count."""
    baseline: str | None = None
    """The model that each row is compared with; None: the row above."""
    rank_incomplete: bool = False
    joint_ranks: bool = False
    compared: int | None = None
    """Only the first rows of a table are compared; None: all."""


DEFAULTS = BoardOptions()


@dataclass(frozen=True)
class Board:
    tables: tuple[Table, ...]
    reported: tuple[ReportedTable, ...]
    cards: tuple[ScoreCard, ...]
    broken: tuple[str, ...]
    """One sentence per card that could not be read."""
    pairs: Mapping[str, tuple[BoardPair, ...]] = field(default_factory=dict)
    """`Table.anchor` -> every two rows that can be compared; empty unless asked for."""
    games: Mapping[str, tuple[BoardGames, ...]] = field(default_factory=dict)
    """`Table.anchor` -> direct games between two of its rows; empty unless pairs were asked for."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Run id -> MODEL/SUITE@VERSION/ID, the run's folder below `runs`."""


def read_board(results: Path, options: BoardOptions = DEFAULTS) -> Board:
    """Return the leaderboard of the cards in a results folder.

    Raise ConfigError if there is no card, or no card of the suites, models or baseline asked for.
    """
    paths = find_cards(results)
    if not paths:
        raise ConfigError(f"no score cards under {results / 'runs'}; `harness run --model DIR` creates them")
    readable_cards, broken = readable(paths)
    chosen = [(path, card) for path, card in readable_cards if _is_chosen(card, options)]
    cards = [card for _, card in chosen]
    if readable_cards and not cards:
        raise ConfigError(_nothing_left([card for _, card in readable_cards], options))
    rules = RankOptions(options.rank_incomplete, options.joint_ranks, options.baseline or "", options.compared)
    runs = PairedRuns({run_id(card): path.parent for path, card in chosen} if options.paired else {})
    fusion = read_fusion(results)
    pairs: dict[str, tuple[BoardPair, ...]] = {}
    if options.pairs:
        # ranked without differences first, because all pairs of a table are computed together
        ranked = rank(cards, options=replace(rules, difference=lambda card, above: None))
        pairs = runs.of_tables(ranked, cards)
    questions = runs.question_sums(cards) if options.paired else {}
    tables = rank(cards, questions, fusion, replace(rules, difference=runs.difference if options.paired else None))
    reported_tables = reported_beside(cards, load_reported()) if options.reported else []
    folders = {run_id(card): "/".join(path.parts[-4:-1]) for path, card in chosen}
    games = board_games(tables, readable_cards) if options.pairs and options.paired else {}
    return Board(tuple(tables), tuple(reported_tables), tuple(cards), tuple(broken), pairs, games, folders)


def _is_chosen(card: ScoreCard, options: BoardOptions) -> bool:
    is_of_suite = not options.suites or card.suite in options.suites or card.suite.partition(":")[0] in options.suites
    return is_of_suite and (card.model == options.baseline or _matches(card.model, options.matching))


def _matches(model: str, text: str) -> bool:
    name, pattern = model.casefold(), text.casefold()
    return pattern in name or fnmatch(name, pattern)


def _nothing_left(cards: list[ScoreCard], options: BoardOptions) -> str:
    suites = sorted({card.suite for card in cards})
    unknown = [suite for suite in options.suites if suite not in suites]
    if unknown:
        near = "".join(did_you_mean(suite, suites) for suite in unknown)
        return f"no score card of {', '.join(unknown)}{near}; the folder has cards of {', '.join(suites)}"
    models = {card.model for card in cards}
    near = did_you_mean(options.matching, models)
    return f"no model matches {options.matching!r}{near}; models with score cards: {first_names(models)}"
