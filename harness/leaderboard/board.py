"""A results folder -> its leaderboard: reads cards, answers, judgments, reported figures; writes nothing."""

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
    """A sentence for each card that could not be read."""


def read_board(results: Path, *, reported: bool = True, paired: bool = True) -> Board:
    """All cards of a results folder, ranked. `paired`: compare question by question where a run's rows are there.

    Raises ConfigError where there is no card at all.
    """
    paths = find_cards(results)
    if not paths:
        raise ConfigError(f"no score cards under {results / 'runs'}; `harness run --model DIR` makes them")
    found, broken = readable(paths)
    cards = [card for _, card in found]
    questions = read_questions(found) if paired else {}
    tables = rank(cards, questions, read_fusion(results))
    beside = reported_beside(cards, load_reported()) if reported else []
    return Board(tuple(tables), tuple(beside), tuple(cards), tuple(broken))


def readable(paths: Iterable[Path]) -> tuple[list[tuple[Path, ScoreCard]], list[str]]:
    """The cards with their files, and a sentence for each file that is none."""
    found, broken = [], []
    for path in paths:
        try:
            found.append((path, read_card(path)))
        except ConfigError as error:
            broken.append(str(error))
    return found, broken


def read_questions(found: Iterable[tuple[Path, ScoreCard]]) -> dict[str, QuestionSums]:
    """Run id -> terms by question, of the runs whose answers and judgments are there and say what the card says."""
    questions = {}
    for path, card in found:
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
        return None  # a damaged file makes a comparison unpaired; `harness run` says how to mend it
    rule = rules_of(card.suite, card.headline, judgments)[0]
    sums = question_sums(rule, answers, scored(judgments, card.protocol))
    stated = card.scores[rule.metric].value if rule.metric in card.scores else None
    # rows that came after the card, or a rule that needs the categories: the card's number is the one that counts
    if sums.value is None or stated is None or abs(sums.value - stated) > 1e-6 * rule.scale:
        return None
    return sums
