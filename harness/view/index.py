"""An overview of one run's questions: score, verdicts, flags. Contains no long text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..judging.jury import scored
from ..questions import QuestionSums, natural, question_sums, rules_of
from ..records import Answer, Judgment, Preference, ScoreCard, Verdict
from ..store import JsonlRows
from .suites import SuiteTexts

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
