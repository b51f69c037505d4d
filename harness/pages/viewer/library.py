"""Find the runs of a results folder for the viewer.

A run is keyed by the last three parts of its path, and a key is looked up among the existing folders: no part of an
address ever becomes a path. Indexes are built on demand and cached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from urllib.parse import quote

from ...analysis.leaderboard import RankOptions, Table, rank, run_id
from ...records import Answer, Judgment, ScoreCard
from ...records.errors import ConfigError
from ...store import JsonlRows, find_cards, read_card
from ...store.checkpoint import read_fusion
from ...store.runs import read_rows
from .listing import Index, build_index, suite_texts

KEPT = 64
"""Indexes in memory; an index of 800 questions takes about 0.6 MB."""
Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Run:
    key: str
    """`model/suite@version/run-id`."""
    folder: Path
    card: ScoreCard

    @property
    def address(self) -> str:
        return "/run/" + quote(self.key, safe="/@")


class Library:
    def __init__(self, results: Path, *, exported: bool = False) -> None:
        """`exported`: the pages become files, so that no page may depend on typed words."""
        self.results = results
        self.exported = exported
        self._cards: dict[Path, tuple[Stamp, ScoreCard]] = {}
        self._indexes: OrderedDict[str, tuple[Stamp, Index]] = OrderedDict()
        self._lock = Lock()
        self._ranked: tuple[Stamp, list[Table]] | None = None
        self.broken: list[str] = []

    def runs(self) -> list[Run]:
        """Return all runs that have a readable card now; cards are re-read only if they changed."""
        readable, broken = [], []
        for path in find_cards(self.results):
            try:
                readable.append(Run("/".join(path.parts[-4:-1]), path.parent, self._card(path)))
            except ConfigError as error:
                broken.append(str(error))
        self.broken = broken
        return readable

    def _card(self, path: Path) -> ScoreCard:
        # a run in progress rewrites its card, so time and size decide whether it is read again
        stamp = _stamp([path])
        with self._lock:
            cached = self._cards.get(path)
        if cached is None or cached[0] != stamp:
            cached = (stamp, read_card(path))
            with self._lock:
                self._cards[path] = cached
        return cached[1]

    def tables(self, runs: Sequence[Run]) -> list[Table]:
        """Return the runs by rank, without differences and rank ranges, which would need all their rows.

        From the cards alone these would not be those of `harness leaderboard` and `harness compare`. Recomputed only if
        a card or fusion.yaml changed.
        """
        stamp = _stamp([*(run.folder / "card.json" for run in runs), self.results / "fusion.yaml"])
        ranked = self._ranked
        if ranked is None or ranked[0] != stamp:
            # the overview would otherwise wait for the rows of all runs
            scores_alone = RankOptions(difference=lambda card, above: None)
            tables = rank([run.card for run in runs], fusion=read_fusion(self.results), options=scores_alone)
            ranked = (stamp, [table.without_ranges() for table in tables])
            self._ranked = ranked
        return ranked[1]

    def run(self, key: str) -> Run | None:
        # compared with existing runs, never joined to a path: "../" in an address finds nothing
        return next((run for run in self.runs() if run.key == key), None)

    def others(self, run: Run) -> list[Run]:
        """Return the other runs of a run's suite and edition."""
        edition = run.card.suite, run.card.suite_version
        return [
            candidate
            for candidate in self.runs()
            if candidate.key != run.key and (candidate.card.suite, candidate.card.suite_version) == edition
        ]

    def comparisons(self, run: Run) -> list[tuple[Run, Run]]:
        """Return the pairs with this run that an export contains: every run with the first of its table.

        All pairs of 60 runs would be 1,770 comparisons; these are 59.
        """
        ids = next((ids for ids in self._ranked_ids() if run_id(run.card) in ids), [])
        runs = {run_id(candidate.card): candidate for candidate in self.runs()}
        listed = [runs[name] for name in ids if name in runs]
        return [(listed[0], second) for second in listed[1:] if run.key in (listed[0].key, second.key)]

    def _ranked_ids(self) -> list[list[str]]:
        return [[row.run_id for row in table.rows] for table in self.tables(self.runs())]

    def index(self, run: Run) -> Index:
        """Return a run's index. Raise ConfigError with the line number for a damaged file."""
        stamp = _stamp([run.folder / name for name in ("card.json", "answers.jsonl", "judgments.jsonl")])
        with self._lock:
            cached = self._indexes.get(run.key)
        if cached is None or cached[0] != stamp:
            cached = (stamp, build_index(run.card, *read_rows(run.folder), suite_texts(run.card, run.folder)))
        with self._lock:
            self._indexes[run.key] = cached
            self._indexes.move_to_end(run.key)
            while len(self._indexes) > KEPT:
                self._indexes.popitem(last=False)
        return cached[1]


def _stamp(paths: list[Path]) -> Stamp:
    stamps: list[int] = []
    for path in paths:
        try:
            status = path.stat()
            stamps += [status.st_mtime_ns, status.st_size]
        except OSError:
            stamps.append(0)
    return tuple(stamps)


@dataclass(frozen=True)
class Match:
    """Where a question first contains the searched words."""

    part: str
    """`question`, `answer` or `reply`; empty: only the question's id contains them."""
    text: str
    """The words with what stands around them, on one line."""


def search(run: Run, words: str) -> dict[str, Match]:
    """Return the questions whose id, prompt, answers or judge replies contain these words, ignoring case."""
    folder, needle = run.folder, words.casefold()
    matches: dict[str, Match] = {}

    def look(prompt_id: str, part: str, texts: Iterable[str | None]) -> None:
        if prompt_id not in matches:
            text = next((text for text in texts if text and needle in text.casefold()), None)
            if text is not None:
                matches[prompt_id] = Match(part, snippet(text, words))

    for prompt in suite_texts(run.card, folder).prompts.values():
        look(prompt.id, "question", prompt.turns)
        if needle in prompt.id.casefold():
            matches.setdefault(prompt.id, Match("", ""))
    for answer in JsonlRows(folder / "answers.jsonl", Answer).read():
        look(answer.prompt_id, "answer", answer.turns)
    for row in JsonlRows(folder / "judgments.jsonl", Judgment).read():
        look(row.prompt_id, "reply", (row.reply,))
    return matches


def snippet(text: str, words: str, around: int = 60) -> str:
    """Return the first place of the words with `around` characters on either side.

    >>> snippet("one two three four five", "three", around=5)
    '… two three four…'
    """
    position = max(text.casefold().find(words.casefold()), 0)
    start, end = max(position - around, 0), position + len(words) + around
    return f"{'…' if start else ''}{' '.join(text[start:end].split())}{'…' if end < len(text) else ''}"
