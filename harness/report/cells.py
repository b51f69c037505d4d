"""Format one score, one text or one card as plain text, Markdown or CSV. Pure; imports no statistics."""

from __future__ import annotations

import re

from rich.table import Table as RichTable
from rich.text import Text

from ..records import Score, ScoreCard
from .text import INVISIBLE

UNSEEN = re.compile(f"(?:{INVISIBLE.pattern}|[\t\n])+")


def number(score: Score | None, name: str) -> str:
    """Return `7.36`, whole numbers for counts and average lengths, or a dash if there is no value."""
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.0f}" if name.startswith(("n_", "avg_")) else f"{score.value:.2f}"


def interval(score: Score, name: str) -> str:
    """Return `7.36 [7.10, 7.61]`, or only the value without an interval."""
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return number(score, name)
    return f"{score.value:.2f} [{score.ci_low:.2f}, {score.ci_high:.2f}]"


def card_table(cards: list[ScoreCard]) -> RichTable:
    """Return all scores of the cards, for the end of a run."""
    rich = RichTable(title="Scores (95 % intervals)", title_justify="left")
    for name in ("suite", "model", "judge", "metric"):
        rich.add_column(name, overflow="fold")
    for name in ("value", "n", "unscored"):
        rich.add_column(name, justify="right")
    for card in cards:
        suite = f"{card.suite}@{card.suite_version}"
        for name, score in card.scores.items():
            texts = (suite, card.model, card.judge, name, interval(score, name), str(score.n), str(score.unscored))
            style = "bold" if name == card.headline else ""
            rich.add_row(*(Text(plain(text), style=style) for text in texts))
            suite = ""
    return rich


def plain(text: str) -> str:
    """Return the text on one line, without what `visible` shows as signs (ANSI codes, direction marks)."""
    return UNSEEN.sub(" ", text)


def escape_markdown(text: str) -> str:
    """Return the text literally for a Markdown table: no HTML, emphasis or cell breaks, and only bare links."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain(text)).replace("&", "&amp;").replace("<", "&lt;")


def harmless(text: str) -> str:
    """Return a CSV cell that no spreadsheet executes: a leading = + - @, or their wide forms, gets an apostrophe."""
    text = plain(text)
    return "'" + text if text.lstrip()[:1] in tuple("=+-@＝＋－＠") else text
