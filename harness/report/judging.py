"""Show how far a card's verdicts can be trusted, as one table. Pure: cards in, rich tables out."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table as RichTable
from rich.text import Text

from ..records import AnchorCheck, Judging, Score, ScoreCard
from .cells import interval, plain

Line = tuple[str, str, str, str]
"""Measure, judge, value, n."""


def judging_table(cards: list[ScoreCard]) -> RichTable | None:
    """Return what is known about the judges of these cards, or None."""
    rich = RichTable(title="Judging (95 % intervals)", title_justify="left")
    for name in ("suite", "measure", "judge"):
        rich.add_column(name, overflow="fold")
    for name in ("value", "n"):
        rich.add_column(name, justify="right")
    for card in cards:
        suite = card.suite
        for line in judging_lines(card):
            rich.add_row(*(Text(plain(text)) for text in (suite, *line)))
            suite = ""
    return rich if rich.row_count else None


def judging_lines(card: ScoreCard) -> list[Line]:
    """Return one line per measure of the card's judging."""
    judging = card.judging
    return [] if judging is None else [*_jury(card, judging), *_flips(judging), *_variance(judging), *_anchors(judging)]


def _line(measure: str, judge: str, score: Score | None) -> Iterator[Line]:
    if score is not None and score.value is not None:
        yield (measure, judge, interval(score, measure), str(score.n))


def _jury(card: ScoreCard, judging: Judging) -> Iterator[Line]:
    for name, score in judging.members.items():
        yield from _line(f"{card.headline} by one judge", name, score)
    if judging.jury is not None:
        counts = judging.jury
        verdicts = f"all {counts.full}, some {counts.part}, too few {counts.short}"
        yield (f"jury ({judging.rule}): questions judged by", card.judge, verdicts, str(counts.questions))
        if judging.rule == "majority":
            yield ("no majority", card.judge, str(counts.undecided), str(counts.questions))
    for pair in judging.agreement:
        both = f"{pair.one}, {pair.other}"
        yield from _line("agreement, %", both, pair.agreement)
        yield from _line("kappa", both, pair.kappa)
    yield from _line("questions on which judges differ, %", card.judge, judging.differing)


def _flips(judging: Judging) -> Iterator[Line]:
    for name, score in judging.order_flips.items():
        yield from _line("verdicts that flip with the order, %", name, score)
    for name, score in judging.first_shown.items():
        yield from _line("points to the answer shown first, %", name, score)
    for name, score in judging.repeat_flips.items():
        yield from _line("verdicts that flip when repeated, %", name, score)


def _variance(judging: Judging) -> Iterator[Line]:
    parts = judging.variance
    if parts is None:
        return
    levels = {"question": parts.question, "draw": parts.generation, "judge": parts.judge, "repeat": parts.repeat}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in levels.items() if value is not None)
    yield (f"variance of a verdict ({parts.unit} squared)", "", shown, str(parts.questions))
    yield ("judge noise share of the squared error, %", "", f"{parts.judge_share:.1f}", str(parts.questions))


def _anchors(judging: Judging) -> Iterator[Line]:
    for name, check in judging.anchors.items():
        yield (f"shift on anchors, {check.unit}", name, _shift(check), str(check.n))


def _shift(check: AnchorCheck) -> str:
    verdict = {True: "drifted", False: "no drift seen", None: f"unknown: {check.reason}"}[check.drifted]
    if check.shift.value is None:
        return verdict
    return f"{interval(check.shift, 'shift')}, {verdict}"
