"""List the questions of one run or of two, with scores, verdicts and flags, filtered and sorted as an address asks.

>>> [(bar.label, bar.count) for bar in bars([0.0, 50.0, 50.0, 100.0], signed=False)]
[('0', 1), ('50', 2), ('100', 1)]

An index contains no long text, so that hundreds of them fit in memory.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from ...analysis.comparison import has_flipped
from ...judging.jury import scored
from ...records import Answer, JudgeTask, Judgment, Preference, Prompt, ScoreCard, Verdict
from ...records.documents import SUITE_COPY
from ...records.errors import HarnessError
from ...records.protocols import OwnRunner, Suite, SuiteOptions, installed, load_plugin
from ...running.plan import load_suite, with_baseline_of
from ...store.official import cached_path, files_of
from ...suites.scoring import QuestionSums, natural, question_sums, rules_of

# ----------------------------------------------------------------------------------------------------- texts of a suite
# They come from the package or the cache, never from the network: a page must not wait for a download.


@dataclass(frozen=True)
class SuiteTexts:
    """A suite's questions. If `suite` is None they are not available, and `note` states how to get them."""

    suite: Suite | None = None
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    note: str | None = None

    def of_run(self, folder: Path) -> SuiteTexts:
        """Return the texts with the baseline of an imported run that has one of its own."""
        return self if self.suite is None else replace(self, suite=with_baseline_of(self.suite, folder))

    def tasks(self, prompt_id: str, answer: Answer) -> Sequence[JudgeTask]:
        """Return the judge tasks of an answer, which contain the baseline's answer."""
        prompt = self.prompts.get(prompt_id)
        return () if self.suite is None or prompt is None else self.suite.tasks(prompt, answer)


def suite_texts(card: ScoreCard, folder: Path | None = None) -> SuiteTexts:
    """Return the questions of the card's suite and edition; a user's own suite is in its run's folder."""
    if folder is not None and (folder / SUITE_COPY).is_file():
        return _load_own(card.suite, folder, (folder / SUITE_COPY).stat().st_mtime_ns)
    return _load(card.suite, card.suite_version, card.edition)


@lru_cache(maxsize=32)
def _load_own(name: str, folder: Path, changed: int) -> SuiteTexts:
    """Load a user's suite from a run's folder. `changed`: the file's time, so that a changed one is read again."""
    try:
        suite = load_suite(name, SuiteOptions(), folder)
    except HarnessError as error:
        return SuiteTexts(note=str(error))
    assert not isinstance(suite, OwnRunner), "only judged suites are defined by a file"
    return SuiteTexts(suite, {prompt.id: prompt for prompt in suite.prompts()})


@lru_cache(maxsize=32)
def _load(name: str, version: str, edition: str) -> SuiteTexts:
    plugin, _, argument = name.partition(":")
    if plugin not in installed("suites"):
        return SuiteTexts(note=f"no suite named {name!r} is installed here, so its questions are not shown")
    try:
        # loading would download: a page must not wait for the network, nor reveal what is read
        if edition == "official" and not _is_local(plugin):
            return SuiteTexts(note=f"the questions are not on this machine; to get them: harness data pull {plugin}")
        suite = load_plugin("suites", plugin)(SuiteOptions(edition=edition, argument=argument))
        if not hasattr(suite, "prompts") or suite.version != version:
            return SuiteTexts(note=f"the questions of version {version} are not available, so they are not shown")
        return SuiteTexts(suite, {prompt.id: prompt for prompt in suite.prompts()})
    except HarnessError as error:
        return SuiteTexts(note=str(error))


def _is_local(suite: str) -> bool:
    mirror = os.environ.get("HARNESS_MIRROR", "")
    if mirror and "://" not in mirror:
        return True
    files = files_of([suite])
    return bool(files) and all(cached_path(file).is_file() for file in files)


# ------------------------------------------------------------------------------------------------------------ histogram

VALUES = 20
"""Different scores up to which each has a bar of its own: both games of a question give 5, two ratings of ten 19."""
BARS = 10
"""Bars, at most, of scores that differ more."""
HEIGHT = 72.0
"""Pixels of the highest bar."""


@dataclass(frozen=True)
class ScoreRange:
    """Scores from `low` to below `high`; a single score if both are equal. The highest score belongs to the last range.

    In an address: `7..8` or `50`.
    """

    low: float
    high: float

    @classmethod
    def of(cls, text: str) -> ScoreRange | None:
        """Read a range from an address, or None if it is none."""
        low, _, high = text.partition("..")
        try:
            limits = float(low), float(high or low)
        except ValueError:
            return None
        return cls(*limits) if all(map(math.isfinite, limits)) else None

    def __str__(self) -> str:
        return f"{self.low:.6g}" if self.low == self.high else f"{self.low:.6g}..{self.high:.6g}"

    def contains(self, score: float | None, top: float) -> bool:
        """Return whether a score belongs here. `top`: the highest score of the list."""
        if score is None:
            return False
        if self.low == self.high:
            return math.isclose(score, self.low, rel_tol=1e-5, abs_tol=1e-6)  # an address has six digits
        return self.low <= score < self.high or score == self.high == top


@dataclass(frozen=True)
class Bar:
    range: ScoreRange
    count: int
    height: float
    """Pixels; at least one if there is any question."""
    signed: bool

    @property
    def label(self) -> str:
        """Return `7 to 8`, or the one score; differences have their sign."""
        limits = dict.fromkeys((self.range.low, self.range.high))
        return " to ".join(map(self._text, limits))

    @property
    def short(self) -> str:
        """Return the label under the bar: where its range begins."""
        return self._text(self.range.low) + ("" if self.range.low == self.range.high else "–")

    def _text(self, limit: float) -> str:
        return f"{limit:+.4g}" if self.signed and limit else f"{limit:.4g}"


def bars(scores: Sequence[float | None], *, signed: bool) -> list[Bar]:
    """Return a bar per score, or per range if there are more than `VALUES`, or nothing without a score."""
    rounded = [round(score, 6) for score in scores if score is not None]
    counts = Counter(rounded)
    # verdicts take few values: a bar per value shows them as they are
    ranges = [ScoreRange(score, score) for score in sorted(counts)]
    if len(ranges) > VALUES:
        ranges = _ranges(min(rounded), max(rounded))
    top = max(rounded, default=0.0)
    numbers = [sum(number for score, number in counts.items() if part.contains(score, top)) for part in ranges]
    scale = HEIGHT / max(numbers, default=1)
    return [
        Bar(part, number, max(scale * number, float(number > 0)), signed)
        for part, number in zip(ranges, numbers, strict=True)
    ]


def _ranges(low: float, high: float) -> list[ScoreRange]:
    """Return equal ranges between round numbers, in steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10((high - low) / BARS))
    step = next(
        power * factor
        for factor in (1, 2, 5, 10, 20)
        if math.ceil(high / (power * factor)) - math.floor(low / (power * factor)) <= BARS
    )
    first, last = math.floor(low / step), math.ceil(high / step)
    edges = [round(step * number, 10) for number in range(first, last + 1)]
    return [ScoreRange(start, end) for start, end in pairwise(edges)]


# ---------------------------------------------------------------------------------------------------------------- lists


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
SORTS = {"": "original order", "score": "lowest score", "-score": "highest score", "-length": "longest answer"}
CHANGES = {"worse": "B lower than A", "better": "B higher than A", "changed": "the winner changes"}
DIFFERENCE_SORTS = {"": "original order", "drop": "largest drop", "gain": "largest gain"}


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
    # without the suite's data, and for questions it no longer has, ids stand in their natural order: 2 before 10
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
        # cut before splitting: a question may be a whole book
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
    # a preference is reduced to win, draw or loss by `side`, so any difference is a disagreement
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


@dataclass(frozen=True)
class Choice:
    """The choices of a list; unknown values show everything."""

    category: str = ""
    flag: str = ""
    words: str = ""
    sort: str = ""
    score: str = ""
    """A `ScoreRange`: of the questions' scores, or of their differences between two runs."""
    markdown: bool = False
    """Render texts as Markdown, instead of the characters that the judge read."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Choice:
        flag, sort = query.get("flag", ""), query.get("sort", "")
        return cls(
            category=query.get("category", ""),
            # an address may be typed by hand: what is unknown is ignored, not an error
            flag=flag if flag in (*FLAGS, "changed", "worse", "better") else "",
            words=query.get("q", "").strip()[:200],
            sort=sort if sort in SORTS or sort in DIFFERENCE_SORTS else "",
            score=str(ScoreRange.of(query.get("score", "")) or ""),
            markdown=query.get("as") == "markdown",
        )

    def query(self, **more: str) -> str:
        """Return the choice as a URL query, with more parameters before it."""
        named = {"category": self.category, "flag": self.flag, "q": self.words, "sort": self.sort}
        named["score"] = self.score
        named["as"] = "markdown" if self.markdown else ""
        return urlencode({name: value for name, value in {**more, **named}.items() if value})

    def without_words(self) -> Choice:
        """Return the same choice without search, for a page whose marks are not wanted."""
        return replace(self, words="")

    def ranged(self, score: str) -> Choice:
        """Return the same choice for another range of scores, or for all if it is empty."""
        return replace(self, score=score)

    def within(self, scores: Sequence[float | None]) -> list[bool]:
        """Return, per score, whether it is in the chosen range."""
        limits = ScoreRange.of(self.score)
        if limits is None:
            return [True] * len(scores)
        top = max((score for score in scores if score is not None), default=0.0)
        return [limits.contains(score, top) for score in scores]

    def switched(self) -> Choice:
        """Return the same list with texts shown the other way."""
        return replace(self, markdown=not self.markdown)


def chosen(index: Index, choice: Choice, ids: Collection[str] | None) -> list[Line]:
    """Return the lines of a choice. `ids`: the questions that contain its words, or None without words."""
    in_range = choice.within([line.score for line in index.lines])
    lines = [
        line
        for line, is_wanted in zip(index.lines, in_range, strict=True)
        if is_wanted
        and (not choice.category or line.category == choice.category)
        and (not choice.flag or choice.flag in line.flags)
        and (ids is None or line.id in ids)
    ]
    if choice.sort in ("score", "-score"):
        sign = -1 if choice.sort == "-score" else 1
        lines.sort(key=lambda line: (line.score is None, sign * (line.score or 0.0)))
    if choice.sort == "-length":
        lines.sort(key=lambda line: -line.length)
    return lines


@dataclass(frozen=True)
class LinePair:
    """One question of two runs."""

    a: Line
    b: Line
    difference: float | None
    """B's score minus A's."""
    changed: bool
    """One wins what the other loses, or the rating moves by two points or more: a flip, as `harness compare` counts."""

    @property
    def flags(self) -> frozenset[str]:
        """Return all that the pair may be chosen by: the flags of both lines, and how the score moves."""
        moves = {"changed"} if self.changed else set()
        if self.difference:
            moves.add("worse" if self.difference < 0 else "better")
        return frozenset({*moves, *self.a.flags, *self.b.flags})


def pairs(a: Index, b: Index, *, middle: float | None) -> list[LinePair]:
    """Return the questions that both runs have, in A's order. `middle`: the score of a draw, or None for ratings."""
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


def _changed(a: float | None, b: float | None, middle: float | None) -> bool:
    if a is None or b is None:
        return False
    return has_flipped(a, b, middle=middle)


def chosen_pairs(candidates: Sequence[LinePair], choice: Choice, ids: Collection[str] | None) -> list[LinePair]:
    in_range = choice.within([pair.difference for pair in candidates])
    matching = [
        pair
        for pair, is_wanted in zip(candidates, in_range, strict=True)
        if is_wanted
        and (not choice.category or pair.a.category == choice.category)
        and (ids is None or pair.a.id in ids)
        and (not choice.flag or choice.flag in pair.flags)
    ]
    if choice.sort in ("drop", "gain"):
        sign = 1 if choice.sort == "drop" else -1
        matching.sort(key=lambda pair: (pair.difference is None, sign * (pair.difference or 0.0)))
    return matching
