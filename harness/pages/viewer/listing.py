"""Lists of questions, of one run or of two: scores, verdicts and flags, filtered and sorted as an address asks. Pure.

An index contains no long text, so that hundreds of them fit in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlencode

from ...analysis.changes import has_flipped
from ...judging.jury import scored
from ...records import Answer, Judgment, Preference, ScoreCard, Verdict
from ...suites.scoring import QuestionSums, natural, question_sums, rules_of
from .histogram import ScoreRange
from .texts import SuiteTexts

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
        """Return the same choice for another range of scores; empty: all."""
        return replace(self, score=score)

    def within(self, scores: Sequence[float | None]) -> list[bool]:
        """Return, per score, whether it is in the chosen range."""
        wanted = ScoreRange.of(self.score)
        if wanted is None:
            return [True] * len(scores)
        top = max((score for score in scores if score is not None), default=0.0)
        return [wanted.contains(score, top) for score in scores]

    def switched(self) -> Choice:
        """Return the same list with texts shown the other way."""
        return replace(self, markdown=not self.markdown)


def chosen(index: Index, choice: Choice, ids: Collection[str] | None) -> list[Line]:
    """Return the lines of a choice; `ids`: questions that contain its words, None without words."""
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


def _changed(a: float | None, b: float | None, middle: float | None) -> bool:
    if a is None or b is None:
        return False
    return has_flipped(a, b, middle=middle)


def chosen_pairs(candidates: Sequence[LinePair], choice: Choice, ids: Collection[str] | None) -> list[LinePair]:
    in_range = choice.within([pair.difference for pair in candidates])
    kept = [
        pair
        for pair, is_wanted in zip(candidates, in_range, strict=True)
        if is_wanted
        and (not choice.category or pair.a.category == choice.category)
        and (ids is None or pair.a.id in ids)
        and (not choice.flag or choice.flag in pair.flags)
    ]
    if choice.sort in ("drop", "gain"):
        sign = 1 if choice.sort == "drop" else -1
        kept.sort(key=lambda pair: (pair.difference is None, sign * (pair.difference or 0.0)))
    return kept
