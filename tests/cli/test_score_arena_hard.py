"""`harness score --format arena_hard`: rules on small files, and the digits of published judgments."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.records.errors import ConfigError

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
published = pytest.mark.skipif(not PUBLISHED, reason="HARNESS_PUBLISHED names the folder of published judgments")
ARENA = Path(PUBLISHED or "", "arena_hard")
RAW = ARENA / "raw_judgments"
Card = dict[str, Any]


def score(*words: str | Path) -> list[Card]:
    command = ["score", *(str(word) for word in words), "--format", "arena_hard", "--json"]
    done = CliRunner().invoke(app, command)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    cards: list[Card] = json.loads(done.stdout)["cards"]
    return cards


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def game(stored: str | None, text: str | None = None, answer: str = "mine") -> dict[str, Any]:
    prompt = f"<|The Start of Assistant A's Answer|>\n{answer}\n<|The End of Assistant A's Answer|>"
    judgment = f"\n[[{stored}]]" if text is None else text
    return {"user_prompt": prompt, "judgment": judgment if stored or text else "\nnothing", "score": stored}


def row(question: str, *games: dict[str, Any] | None) -> dict[str, Any]:
    return {"question_id": question, "model": "m", "judge": "j", "games": list(games)}


def v2_row(question: str, *games: str | None, category: str = "hard_prompt", model: str = "m") -> dict[str, Any]:
    found = [
        None if one is None else {"score": one, "judgment": {"answer": f"[[{one}]]"}, "prompt": []} for one in games
    ]
    named = {"uid": question, "category": category, "judge": "j", "model": model, "baseline": "b"}
    return named | {"games": found}


def test_rows_that_lost_their_games_are_no_answers(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"question_id": "h1", "model": "m", "judge": "j"}])

    done = CliRunner().invoke(app, ["score", str(path), "--format", "arena_hard"])

    assert isinstance(done.exception, ConfigError)  # exit 2 of the command
    assert "no Arena-Hard judgment (a row with games) and no answer" in str(done.exception)


def head(card: Card) -> tuple[Any, int, int]:
    found = card["scores"]["arena_hard"]
    return found["value"], found["n"], found["unscored"]


# -------------------------------------------------------------------------------------------------------------- rules


def test_significant_verdicts_count_three_times_and_sides_swap(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [row("1", game("B>>A"), game("B>A")), row("2", game("A=B"), game("A>B"))])

    [card] = score(path, "--no-intervals")

    # the baseline is A in game 0: 3 wins, 1 loss, half a draw, 1 win, of 6 battles
    assert head(card) == (pytest.approx(100 * 4.5 / 6), 4, 996)
    assert card["complete"] is False


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (game(None), "no label"),
        (game("A>>A"), "label 'A>>A'"),
        (game("A<B"), "label 'A<B'"),
        (game("[A=B]", "[[A=B]]"), "label '[A=B]'"),
        (game(None, "\n[[A>B]] no, [[B>A]]"), "two different labels"),
        (game(None, "\n$ERROR$"), "the judge's reply is $ERROR$"),
        (game("B>A", answer="$ERROR$"), "an answer is $ERROR$"),
        (None, "missing game"),
    ],
)
def test_a_broken_game_is_unscored_with_its_reason_and_the_other_kept(
    tmp_path: Path, broken: dict[str, Any] | None, reason: str
) -> None:
    [card] = score(write(tmp_path / "m.jsonl", [row("1", broken, game("A>B"))]), "--no-intervals")

    assert head(card) == (100.0, 1, 999)
    assert card["counts"]["unscored"] == {reason: 1}
    assert any(f"{reason} (1)" in note for note in card["notes"])
    assert card["complete"] is False


def test_strict_reference_scores_an_answer_that_failed_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [row("1", game("B>A", answer="$ERROR$"), game("A>B", answer="$ERROR$"))])

    [card] = score(path, "--strict-reference", "--no-intervals")

    assert head(card) == (100.0, 2, 998)
    assert any("2 broken games are scored as the reference does" in note for note in card["notes"])


def test_one_valid_game_is_100_with_the_references_interval_and_never_ranked(tmp_path: Path) -> None:
    """Published so by a third party: score 100.0, CI (-50, -50), first place."""
    rows = [row("1", game("B>A"), game(None)), *(row(str(n), game(None), game(None)) for n in range(2, 501))]
    other = [dict(row(str(n), game("A>B"), game("B>A")), model="other") for n in range(1, 501)]
    path = write(tmp_path / "m.jsonl", [*rows, *other])

    card = next(card for card in score(path, "--strict-reference") if card["model"] == "m")

    reference = card["scores"]["arena_hard_reference"]
    assert head(card) == (100.0, 1, 999)
    assert (reference["ci_low"], reference["ci_high"]) == (50.0, 50.0)
    assert card["complete"] is False


def test_nothing_valid_is_no_score(tmp_path: Path) -> None:
    [card] = score(write(tmp_path / "m.jsonl", [row("1", game(None), game(None))]))

    assert head(card) == (None, 0, 1000)
    assert card["complete"] is False


def test_of_rows_that_repeat_a_question_the_last_counts_and_strictly_all(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [row("1", game("A>B"), game("A>B")), row("1", game("B>A"), game("A>B"))])

    assert head(score(path, "--no-intervals")[0]) == (100.0, 2, 998)
    assert head(score(path, "--no-intervals", "--strict-reference")[0]) == (75.0, 4, 996)


def test_a_failed_answer_in_the_answer_file_unscores_both_games(tmp_path: Path) -> None:
    path = write(tmp_path / "j.jsonl", [row("1", game("B>A"), game("A>B")), row("2", game("B>A"), game("B>A"))])
    turns = [{"turns": [{"content": text, "token_len": tokens}]} for text, tokens in (("$ERROR$", 4), ("fine", 9))]
    answers = write(
        tmp_path / "m.jsonl", [{"question_id": str(n), "model_id": "m", "choices": [turns[n - 1]]} for n in (1, 2)]
    )

    [card] = score(path, "--answers", answers, "--no-intervals")

    assert head(card) == (50.0, 2, 998)
    assert card["scores"]["avg_tokens"]["value"] == 6  # floor of 13 / 2


def test_v2_drops_a_question_with_either_game_broken_whole(tmp_path: Path) -> None:
    rows = [v2_row("1", "B>A", "A>B"), v2_row("2", "A>>B", None), v2_row("3", "B<<A", "B=A")]

    [card] = score(write(tmp_path / "m.jsonl", rows), "--no-intervals")

    # question 3: B<<A is A winning by far, so three losses, then half a draw; question 1: two wins
    assert head(card) == (pytest.approx(100 * 2.5 / 6), 4, 996)
    assert card["suite"] == "arena_hard_v2"
    assert card["counts"]["unscored"] == {"missing game": 1, "the other game is broken": 1}


def test_v2_categories_stand_apart_and_hard_prompts_are_the_headline(tmp_path: Path) -> None:
    rows = [v2_row("1", "B>A", "A>B"), v2_row("2", "A>B", "B>A", category="creative_writing")]

    [card] = score(write(tmp_path / "m.jsonl", rows))

    assert head(card) == (100.0, 2, 998)
    assert card["scores"]["creative_writing"]["value"] == 0.0
    assert card["by_category"]["creative_writing"]["arena_hard"]["unscored"] == 498
    assert any("90 % interval" in note for note in card["notes"])


def test_style_control_without_the_answers_names_them(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [row("1", game("B>A"), game("A>B"))])

    with pytest.raises(ConfigError, match="--answers with token and markdown counts of 'm' and of its baseline"):
        score(path, "--style-control", "v2")
    with pytest.raises(ConfigError, match=r"known: v0\.1, v2, length, markdown"):
        score(path, "--style-control", "v3")


# ---------------------------------------------------------------------------------------------------- published digits


@pytest.mark.slow
@published
def test_the_31_image_arena_models_equal_their_board_to_two_decimals() -> None:
    with (RAW / "image_arena_published.csv").open(encoding="utf-8") as file:
        board = {line["model"]: float(line["score"]) for line in csv.DictReader(file)}

    cards = score(RAW / "image_arena_gpt4o.tar.xz")

    assert {card["model"]: round(card["scores"]["arena_hard"]["value"], 2) for card in cards} == board
    assert len(cards) == 31
    assert all(card["complete"] for card in cards)
    for card in cards:
        assert card["counts"]["differing"] == 0  # every stored verdict is the label in the text
        ours, theirs = card["scores"]["arena_hard"], card["scores"]["arena_hard_reference"]
        assert ours["ci_high"] - ours["ci_low"] > 1.1 * (theirs["ci_high"] - theirs["ci_low"])


@pytest.mark.slow
@published
@pytest.mark.parametrize("name", ["official_verdicts", "official_battles"])
def test_the_official_model_scores_37_90_in_either_form(name: str) -> None:
    answers = ARENA / "official_answers_metadata.jsonl.xz"

    [card] = score(ARENA / f"{name}.gpt-4-0613.jsonl.xz", "--answers", answers)

    found, reference = card["scores"]["arena_hard"], card["scores"]["arena_hard_reference"]
    assert found["value"] == pytest.approx(37.9019, abs=5e-5)
    assert (found["n"], found["unscored"], card["complete"]) == (1000, 0, True)
    assert card["scores"]["avg_tokens"]["value"] == 354
    # specs/arena_hard 4: question bootstrap (-3.82, +3.90), row bootstrap (-2.41 +- 0.29, +2.38 +- 0.29)
    assert found["ci_low"] - 37.9019 == pytest.approx(-3.82, abs=0.2)
    assert found["ci_high"] - 37.9019 == pytest.approx(3.90, abs=0.2)
    assert reference["ci_low"] - 37.9019 == pytest.approx(-2.41, abs=0.9)
    assert reference["ci_high"] - 37.9019 == pytest.approx(2.38, abs=0.9)


@pytest.mark.slow
@published
def test_average_tokens_of_all_models_equal_the_board() -> None:
    published_rows = json.loads((ARENA / "published.json").read_text("utf-8"))
    board = {line["model"]: line["avg_tokens"] for line in published_rows["v0.1"]["leaderboard_20240731"]["rows"]}

    cards = score(ARENA / "official_answers_metadata.jsonl.xz", "--no-intervals")

    found = {card["model"]: card["scores"]["avg_tokens"]["value"] for card in cards}
    shared = board.keys() & found.keys()
    assert len(shared) == 59
    assert {name: found[name] for name in shared} == {name: board[name] for name in shared}


@pytest.mark.slow
@published
def test_partial_and_broken_files_are_reported_and_never_ranked() -> None:
    files = sorted(RAW.glob("*.jsonl.xz"))
    reasons: dict[str, int] = {}
    for path in files:
        for card in score(path, "--no-intervals"):
            assert card["complete"] is False, path.name
            assert any(note.startswith("incomplete") for note in card["notes"])
            for reason, count in card["counts"]["unscored"].items():
                reasons[reason] = reasons.get(reason, 0) + count
    assert reasons == {
        "no label": 2 + 2 + 1 + 17 + 6,
        "the judge's reply ends inside its reasoning": 2,
        "label 'A<B'": 1,
        "label 'A>>A'": 2,
        "label '[A=B]'": 224,
        "an answer is $ERROR$": 424,
        "the judge's reply is $ERROR$": 120 + 34,
    }


@published
def test_strict_reference_scores_the_424_games_against_a_failed_answer() -> None:
    [path] = RAW.glob("ServiceNow*")

    [card] = score(path, "--no-intervals")
    [strict] = score(path, "--no-intervals", "--strict-reference")

    assert head(card) == (None, 0, 1000)
    assert head(strict)[1:] == (424, 576)
    assert any("424 broken games are scored" in note for note in strict["notes"])
    assert strict["complete"] is False


@pytest.mark.slow
@published
def test_style_control_of_the_official_model_runs_in_all_four_forms() -> None:
    files = (ARENA / "official_verdicts.gpt-4-0613.jsonl.xz", "--answers", ARENA / "official_answers_metadata.jsonl.xz")
    found = {}
    for form in ("v0.1", "v2", "length", "markdown"):
        [card] = score(*files, "--style-control", form)
        style, reference = card["scores"]["arena_hard_style"], card["scores"]["arena_hard_style_reference"]
        assert style["ci_low"] < style["value"] < style["ci_high"]
        assert style["ci_high"] - style["ci_low"] > reference["ci_high"] - reference["ci_low"]
        assert card["protocol"]["style_control"] == form
        assert any("over a pool of 1 models (gpt-4-0613)" in note for note in card["notes"])
        found[form] = style["value"]
    assert len(set(found.values())) == 4
