"""Load a suite's questions and baseline answers for the viewer: from package or cache, never from the network."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Literal
from urllib.parse import quote, urlencode

from ...analysis.leaderboard import Table, rank, run_id
from ...judging.jury import scored
from ...records import Answer, JudgeTask, Judgment, Preference, Prompt, ScoreCard, Verdict
from ...records.errors import ConfigError, HarnessError
from ...records.protocols import Suite, SuiteOptions, installed, load_plugin
from ...store import JsonlRows, find_cards, read_card
from ...store.checkpoint import read_fusion
from ...store.official import cached_path, files_of
from ...store.runs import read_question, read_rows
from ...suites.scoring import QuestionSums, natural, question_sums, rules_of


@dataclass(frozen=True)
class SuiteTexts:
    """`suite` None: the questions are not available, and `note` states how to get them."""

    suite: Suite | None = None
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    note: str | None = None

    def tasks(self, prompt_id: str, answer: Answer) -> Sequence[JudgeTask]:
        """Return the judge tasks of an answer, which contain the baseline's answer."""
        prompt = self.prompts.get(prompt_id)
        return () if self.suite is None or prompt is None else self.suite.tasks(prompt, answer)


def suite_texts(card: ScoreCard) -> SuiteTexts:
    """Return the questions of the card's suite and edition."""
    edition = "pocket" if card.suite_version.startswith("pocket") else "official"
    return _load(card.suite, card.suite_version, edition)


@lru_cache(maxsize=32)
def _load(name: str, version: str, edition: str) -> SuiteTexts:
    plugin, _, argument = name.partition(":")
    if plugin not in installed("suites"):
        return SuiteTexts(note=f"no suite named {name!r} is installed here: its questions are not shown")
    try:
        if edition == "official" and not _at_hand(plugin):
            return SuiteTexts(note=f"the questions are not on this machine: harness data pull {plugin}")
        suite = load_plugin("suites", plugin)(SuiteOptions(edition=edition, argument=argument))
        if not hasattr(suite, "prompts") or suite.version != version:
            return SuiteTexts(note=f"questions of {version} are not shown")
        return SuiteTexts(suite, {prompt.id: prompt for prompt in suite.prompts()})
    except HarnessError as error:
        return SuiteTexts(note=str(error))


def _at_hand(suite: str) -> bool:
    """Return whether all of a suite's files are in the cache, or a local mirror can fill it."""
    mirror = os.environ.get("HARNESS_MIRROR", "")
    if mirror and "://" not in mirror:
        return True
    files = files_of([suite])
    return bool(files) and all(cached_path(file).is_file() for file in files)


# ----------------------------------------------------------------------------------------------------
# An overview of one run's questions: score, verdicts, flags. Contains no long text.


Flag = Literal["flip", "disagreement", "unscored", "truncated", "injection"]
FLAGS: dict[Flag, str] = {
    "flip": "order flips the verdict",
    "disagreement": "judges or repeats disagree",
    "unscored": "unscored",
    "truncated": "truncated",
    "injection": "injection flag",
}
RATINGS_APART = 1.0
"""Points of ten by which judges or repeats may differ without disagreement."""
PREVIEW = 140
"""Characters of a question shown in a list."""


@dataclass(frozen=True)
class Line:
    """One question in a list."""

    id: str
    category: str
    preview: str
    score: float | None
    """In the metric's unit; None: unscored."""
    verdicts: tuple[str, ...]
    """`ab 1`, `ba 0.5`, `turn 1: 7`."""
    flags: frozenset[Flag]
    length: int
    """Characters of the answers."""


@dataclass(frozen=True)
class Index:
    metric: str
    sums: QuestionSums
    lines: tuple[Line, ...]
    note: str | None
    """What could not be read, if anything."""

    @property
    def categories(self) -> list[str]:
        return list(dict.fromkeys(line.category for line in self.lines))

    def counts(self) -> dict[Flag, int]:
        return {flag: sum(flag in line.flags for line in self.lines) for flag in FLAGS}

    def line(self, prompt_id: str) -> Line | None:
        return next((line for line in self.lines if line.id == prompt_id), None)


def build_index(card: ScoreCard, answers: Sequence[Answer], judgments: Sequence[Judgment], texts: SuiteTexts) -> Index:
    """Return the index of every question with an answer or a judgment, in the suite's order if known."""
    rule = rules_of(card.suite, card.headline, judgments)[0]
    sums = question_sums(rule, answers, scored(judgments, card.protocol))
    scores = dict(zip(sums.ids, sums.scores().tolist(), strict=True))
    answered: dict[str, list[Answer]] = defaultdict(list)
    judged: dict[str, list[Judgment]] = defaultdict(list)
    for answer in answers:
        answered[answer.prompt_id].append(answer)
    for row in judgments:
        judged[row.prompt_id].append(row)
    ids = [prompt_id for prompt_id in texts.prompts if prompt_id in answered or prompt_id in judged]
    ids += sorted((answered.keys() | judged.keys()) - set(ids), key=natural)
    lines = [
        _line(prompt_id, answered[prompt_id], judged[prompt_id], scores.get(prompt_id), texts) for prompt_id in ids
    ]
    return Index(metric=rule.metric, sums=sums, lines=tuple(lines), note=texts.note)


def _line(
    prompt_id: str, answers: list[Answer], judgments: list[Judgment], score: float | None, texts: SuiteTexts
) -> Line:
    prompt = texts.prompts.get(prompt_id)
    return Line(
        id=prompt_id,
        category=prompt.category if prompt else "",
        preview=" ".join(prompt.turns[0][: 4 * PREVIEW].split())[:PREVIEW] if prompt else "",
        score=score,
        verdicts=tuple(_verdict_text(row) for row in judgments)[:6],
        flags=frozenset(_flags(answers, judgments, score)),
        length=sum(len(text) for answer in answers for text in answer.turns),
    )


def _verdict_text(row: Judgment) -> str:
    slot = row.order or (f"turn {row.turn}" if row.turn else "")
    value = "unscored" if row.verdict is None else f"{row.verdict.value:.3g}"
    return f"{slot} {value}".strip()


def _flags(answers: list[Answer], judgments: list[Judgment], score: float | None) -> Iterable[Flag]:
    sides: dict[tuple[int, int | None, str | None], set[float]] = defaultdict(set)
    for row in judgments:
        if row.verdict is not None:
            sides[row.index, row.turn, row.order].add(side(row.verdict))
    apart = 0.0 if any(isinstance(row.verdict, Preference) for row in judgments) else RATINGS_APART
    orders = {key[:2] for key in sides if key[2] == "ab" and (*key[:2], "ba") in sides}
    if any(sides[*key, "ab"] != sides[*key, "ba"] for key in orders):
        yield "flip"
    if any(max(values) - min(values) > apart for values in sides.values()):
        yield "disagreement"
    if score is None or any(row.error is not None for row in judgments) or any(answer.error for answer in answers):
        yield "unscored"
    if any(answer.truncated for answer in answers):
        yield "truncated"
    if any("injection" in row.flags for row in judgments):
        yield "injection"


def side(verdict: Verdict) -> float:
    """Return win 1, loss 0 or draw 0.5 of a preference; a rating counts as its own side."""
    if isinstance(verdict, Preference):
        return 0.5 if verdict.value == 0.5 else float(verdict.value > 0.5)
    return verdict.value


def matching(folder: Path, wanted: str, texts: SuiteTexts) -> set[str]:
    """Return ids of questions whose prompt, answers or judge replies contain these words, ignoring case."""
    needle = wanted.casefold()
    prompt_ids = {
        prompt.id
        for prompt in texts.prompts.values()
        if needle in prompt.id.casefold() or any(needle in turn.casefold() for turn in prompt.turns)
    }
    answers = JsonlRows(folder / "answers.jsonl", Answer).read()
    judgments = JsonlRows(folder / "judgments.jsonl", Judgment).read()
    prompt_ids |= {row.prompt_id for row in answers if any(needle in turn.casefold() for turn in row.turns)}
    return prompt_ids | {row.prompt_id for row in judgments if row.reply and needle in row.reply.casefold()}


# ----------------------------------------------------------------------------------------------------
# The runs of a results folder, keyed by the last three parts of their path; indexes are built on demand and cached. A
# run's key is looked up among the existing folders: no part of an address ever becomes a path.


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
    def __init__(self, results: Path) -> None:
        self.results = results
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
        stamp = _stamp([path])
        with self._lock:
            known = self._cards.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, read_card(path))
            with self._lock:
                self._cards[path] = known
        return known[1]

    def tables(self, runs: Sequence[Run]) -> list[Table]:
        """Return the runs ranked from their cards only; recomputed only if a card or fusion.yaml changed."""
        stamp = _stamp([*(run.folder / "card.json" for run in runs), self.results / "fusion.yaml"])
        ranked = self._ranked
        if ranked is None or ranked[0] != stamp:
            ranked = (stamp, rank([run.card for run in runs], fusion=read_fusion(self.results)))
            self._ranked = ranked
        return ranked[1]

    def run(self, key: str) -> Run | None:
        return next((run for run in self.runs() if run.key == key), None)

    def index(self, run: Run) -> Index:
        """Return a run's index; raise ConfigError with the line number for a damaged file."""
        stamp = _stamp([run.folder / name for name in ("card.json", "answers.jsonl", "judgments.jsonl")])
        with self._lock:
            known = self._indexes.get(run.key)
        if known is None or known[0] != stamp:
            known = (stamp, build_index(run.card, *read_rows(run.folder), self.texts(run)))
        with self._lock:
            self._indexes[run.key] = known
            self._indexes.move_to_end(run.key)
            while len(self._indexes) > KEPT:
                self._indexes.popitem(last=False)
        return known[1]

    def sums(self, run: Run) -> dict[str, QuestionSums]:
        """Return run id -> terms per question, for a paired comparison."""
        return {run_id(run.card): self.index(run).sums}

    def texts(self, run: Run) -> SuiteTexts:
        return suite_texts(run.card)

    def search(self, run: Run, wanted: str) -> set[str]:
        return matching(run.folder, wanted, self.texts(run))

    def rows(self, run: Run, prompt_id: str) -> tuple[list[Answer], list[Judgment]]:
        """Return one question's answers and judgments."""
        return read_question(run.folder, prompt_id)


def _stamp(paths: list[Path]) -> Stamp:
    stamps: list[int] = []
    for path in paths:
        try:
            status = path.stat()
            stamps += [status.st_mtime_ns, status.st_size]
        except OSError:
            stamps.append(0)
    return tuple(stamps)


# ----------------------------------------------------------------------------------------------------
# Choose which questions a list shows, and in which order, from the query of an address. Pure.


SORTS = {"": "as asked", "score": "lowest score", "-score": "highest score", "-length": "longest answer"}


@dataclass(frozen=True)
class Choice:
    """The choices of a list; unknown values show everything."""

    category: str = ""
    flag: str = ""
    words: str = ""
    sort: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        flag, sort = query.get("flag", ""), query.get("sort", "")
        return cls(
            category=query.get("category", ""),
            flag=flag if flag in (*FLAGS, "changed", "worse", "better") else "",
            words=query.get("q", "").strip()[:200],
            sort=sort if sort in SORTS or sort in DIFFERENCE_SORTS else "",
        )

    def query(self, **more: str) -> str:
        """Return the choice as a URL query, with more parameters before it."""
        named = {"category": self.category, "flag": self.flag, "q": self.words, "sort": self.sort}
        return urlencode({name: value for name, value in {**more, **named}.items() if value})


def chosen(index: Index, choice: Choice, ids: Collection[str] | None) -> list[Line]:
    """Return the lines of a choice; `ids`: questions that contain its words, None without words."""
    lines = [
        line
        for line in index.lines
        if (not choice.category or line.category == choice.category)
        and (not choice.flag or choice.flag in line.flags)
        and (ids is None or line.id in ids)
    ]
    if choice.sort in ("score", "-score"):
        sign = -1 if choice.sort == "-score" else 1
        lines.sort(key=lambda line: (line.score is None, sign * (line.score or 0.0)))
    if choice.sort == "-length":
        lines.sort(key=lambda line: -line.length)
    return lines


# --------------------------------------------------------------------------------------------------------- two runs

CHANGES = {"worse": "B lower than A", "better": "B higher than A", "changed": "the winner changes"}
DIFFERENCE_SORTS = {"": "as asked", "drop": "largest drop", "gain": "largest gain"}


@dataclass(frozen=True)
class LinePair:
    """One question of two runs."""

    a: Line
    b: Line
    difference: float | None
    """B's score minus A's."""
    changed: bool
    """One wins what the other does not (preferences), or the rating changes by 3 or more."""


def pairs(a: Index, b: Index, *, middle: float | None) -> list[LinePair]:
    """Return the questions that both runs have, in A's order. `middle`: the score of a draw; None for ratings."""
    lines_b = {line.id: line for line in b.lines}
    matched = []
    for line in a.lines:
        line_b = lines_b.get(line.id)
        if line_b is None:
            continue
        both = line.score is not None and line_b.score is not None
        difference = (line_b.score or 0.0) - (line.score or 0.0) if both else None
        matched.append(LinePair(line, line_b, difference, _changed(line.score, line_b.score, middle)))
    return matched


RATING_STEP = 3.0
"""Points of ten; repeated ratings of one answer rarely differ by more than two."""


def _changed(a: float | None, b: float | None, middle: float | None) -> bool:
    if a is None or b is None:
        return False
    return abs(a - b) >= RATING_STEP if middle is None else (a > middle) != (b > middle)


def chosen_pairs(candidates: Sequence[LinePair], choice: Choice, ids: Collection[str] | None) -> list[LinePair]:
    kept = [
        pair
        for pair in candidates
        if (not choice.category or pair.a.category == choice.category)
        and (ids is None or pair.a.id in ids)
        and _is(pair, choice.flag)
    ]
    if choice.sort in ("drop", "gain"):
        sign = 1 if choice.sort == "drop" else -1
        kept.sort(key=lambda pair: (pair.difference is None, sign * (pair.difference or 0.0)))
    return kept


def _is(pair: LinePair, flag: str) -> bool:
    if flag == "changed":
        return pair.changed
    if flag in ("worse", "better"):
        return pair.difference is not None and (pair.difference < 0) == (flag == "worse") and pair.difference != 0
    return not flag or flag in pair.a.flags or flag in pair.b.flags
