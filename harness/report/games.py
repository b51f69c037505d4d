"""Format head-to-head games as tables and sentences. Pure: cards in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import ScoreCard
from .cells import escape_markdown, interval, number
from .comparison import markdown_table

GAMES_HEAD = ("suite", "model", "against", "category", "win rate [95 %]", "games", "unscored", "won", "tied", "lost")


def games_cells(cards: Sequence[ScoreCard]) -> list[list[str]]:
    """Return rows under `GAMES_HEAD`: all questions of a suite, then its categories."""
    rows = []
    for card in cards:
        total = card.scores["win_rate"]
        questions = [number(card.scores.get(name), name) for name in ("n_won", "n_tied", "n_lost")]
        fixed = [card.suite, card.model, str(card.protocol.get("baseline"))]
        rows.append([*fixed, "all", interval(total, "win_rate"), str(total.n), str(total.unscored), *questions])
        for name, scores in card.by_category.items():
            part = scores["win_rate"]
            rows.append(["", "", "", name, interval(part, "win_rate"), str(part.n), str(part.unscored), "", "", ""])
    return rows


def games_verdict(card: ScoreCard) -> str:
    """Return one sentence on who wins, if that is certain."""
    score, baseline = card.scores["win_rate"], str(card.protocol.get("baseline"))
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return f"{card.suite}: too few games to say who wins"
    span = f"{score.value:.1f} % of the points [{score.ci_low:.1f}, {score.ci_high:.1f}]"
    if score.ci_low > 50:
        return f"{card.suite}: {card.model} beats {baseline}: {span}"
    if score.ci_high < 50:
        return f"{card.suite}: {card.model} loses to {baseline}: {span}"
    return f"{card.suite}: {card.model} and {baseline} are not told apart: {span}"


def games_markdown(cards: Sequence[ScoreCard]) -> str:
    lines = ["# Head to head", "", *(f"- {escape_markdown(games_verdict(card))}" for card in cards), ""]
    return "\n".join(lines + markdown_table(GAMES_HEAD, games_cells(cards))) + "\n"
