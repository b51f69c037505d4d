"""Read the leaderboard of a results folder from cards, answers, judgments and reported figures; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..judging.jury import scored
from ..questions import QuestionSums, question_sums, rules_of
from ..records import ScoreCard
from ..runs import read_rows
from ..store import find_cards, read_card
from ..store.fusion import read_fusion
from .ranking import Table, rank, run_id
from .reported import load_reported
from .reported_tables import ReportedTable, reported_beside


@dataclass(frozen=True)
class Board:
    tables: tuple[Table, ...]
    reported: tuple[ReportedTable, ...]
    cards: tuple[ScoreCard, ...]
    broken: tuple[str, ...]
    """One sentence per card that could not be read."""


def read_board(results: Path, *, reported: bool = True, paired: bool = True) -> Board:
    """Return the leaderboard of all cards in a results folder.

    `paired` compares question by question if a run's rows exist. Raise ConfigError if there is no card.
    """
    paths = find_cards(results)
    if not paths:
        raise ConfigError(f"no score cards under {results / 'runs'}; `harness run --model DIR` creates them")
    readable_cards, broken = readable(paths)
    cards = [card for _, card in readable_cards]
    questions = read_questions(readable_cards) if paired else {}
    tables = rank(cards, questions, read_fusion(results))
    beside = reported_beside(cards, load_reported()) if reported else []
    return Board(tuple(tables), tuple(beside), tuple(cards), tuple(broken))


def readable(paths: Iterable[Path]) -> tuple[list[tuple[Path, ScoreCard]], list[str]]:
    """Return the readable cards with their files, and one sentence per unreadable file."""
    readable_cards, broken = [], []
    for path in paths:
        try:
            readable_cards.append((path, read_card(path)))
        except ConfigError as error:
            broken.append(str(error))
    return readable_cards, broken


def read_questions(readable_cards: Iterable[tuple[Path, ScoreCard]]) -> dict[str, QuestionSums]:
    """Return run id -> terms per question, for runs whose rows exist and reproduce the card's score."""
    questions = {}
    for path, card in readable_cards:
        sums = _sums(path.parent, card)
        if sums is not None:
            questions[run_id(card)] = sums
    return questions


def _sums(folder: Path, card: ScoreCard) -> QuestionSums | None:
    if not (folder / "judgments.jsonl").exists():
        return None
    try:
        answers, judgments = read_rows(folder)
    except ConfigError:
        return None  # a damaged file makes a comparison unpaired; `harness run` tells how to repair it
    rule = rules_of(card.suite, card.headline, judgments)[0]
    sums = question_sums(rule, answers, scored(judgments, card.protocol))
    stated = card.scores[rule.metric].value if rule.metric in card.scores else None
    # rows added after the card, or a rule that needs categories: the card's number is authoritative
    if sums.value is None or stated is None or abs(sums.value - stated) > 1e-6 * rule.scale:
        return None
    return sums
