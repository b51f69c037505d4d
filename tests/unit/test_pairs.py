"""Every pair of a board: what each pair is by itself, and the direct games of two rows."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import pytest

from harness.analysis.leaderboard import run_id
from harness.analysis.read_board import BoardOptions, PairedRuns, read_board
from harness.store import find_cards, read_card
from tests.fakes.made_runs import make_games, make_run, pocket

MODELS = {"low": 0.3, "middle": 0.5, "high": 0.9}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for model, skill in MODELS.items():
        make_run(tmp_path, model, pocket("arena_hard"), skill=skill)
    return tmp_path


def test_all_pairs_are_what_each_pair_is_by_itself(results: Path) -> None:
    (judgments,) = results.glob("runs/low/*/*/judgments.jsonl")
    lines = judgments.read_text().splitlines(keepends=True)
    judgments.write_text("".join(lines[4:]))  # two questions fewer than the others have
    stored = [(path.parent, read_card(path)) for path in find_cards(results)]
    folders = {run_id(card): folder for folder, card in stored}
    cards = [card for _, card in stored]
    pairs = PairedRuns(folders).all_pairs(cards)

    assert sorted({pair.n for pair in pairs}) == [58, 60]
    alone = [PairedRuns(folders).difference(card, lower) for card, lower in combinations(cards, 2)]
    assert [pair.difference for pair in pairs] == alone


def test_rows_that_gave_the_pairs_also_give_the_terms(results: Path) -> None:
    stored = [(path.parent, read_card(path)) for path in find_cards(results)]
    folders = {run_id(card): folder for folder, card in stored}
    cards = [card for _, card in stored]
    runs = PairedRuns(folders)
    runs.all_pairs(cards)
    fresh = PairedRuns(folders).question_sums(cards)
    for folder in folders.values():
        shutil.rmtree(folder)

    sums = runs.question_sums(cards)
    assert {key: terms.value for key, terms in sums.items()} == {key: terms.value for key, terms in fresh.items()}
    assert len(sums) == 3


def test_direct_games_belong_to_the_rows_whose_answers_were_played(results: Path) -> None:
    make_games(results, "high", "low", pocket("arena_hard"), skill=0.95)
    board = read_board(results, BoardOptions(pairs=True))
    (table,) = [table for table in board.tables if table.suite == "arena_hard"]
    ids = {row.model: row.run_id for row in table.rows}
    (game,) = board.games[table.anchor]

    assert (game.run, game.other, game.judge) == (ids["high"], ids["low"], "reference")
    assert game.ci_low < game.win_rate < game.ci_high
    assert game.won + game.tied + game.lost == 60
    assert read_board(results, BoardOptions()).games == {}
    (answers,) = results.glob("runs/low/arena_hard@*/*/answers.jsonl")
    answers.write_text(answers.read_text().replace("**", "__"))  # the games were about other answers
    assert read_board(results, BoardOptions(pairs=True)).games == {}


def test_games_without_counts_are_left_out_and_not_counted_as_none_won(results: Path) -> None:
    make_games(results, "high", "low", pocket("arena_hard"), skill=0.95)
    (file,) = results.glob("runs/high/head_to_head_arena_hard@*/*/card.json")
    card = read_card(file)
    scores = {name: score for name, score in card.scores.items() if name != "n_won"}
    file.write_text(card.model_copy(update={"scores": scores}).model_dump_json())

    assert read_board(results, BoardOptions(pairs=True)).games == {}
