"""`harness score --format alpaca_eval`: rules on small files, and the digits of the published board."""

from __future__ import annotations

import csv
import json
import lzma
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.suites import pocket
from harness.suites.alpaca_eval.suite import shown_order

PUBLISHED, MIRROR = os.environ.get("HARNESS_PUBLISHED"), os.environ.get("HARNESS_MIRROR")
published = pytest.mark.skipif(
    not (PUBLISHED and MIRROR), reason="HARNESS_MIRROR and HARNESS_PUBLISHED name the folders of published files"
)
ALPACA = Path(PUBLISHED or "", "alpaca_eval")
STABLE = "FuseChat-Llama-3.2-3B-Instruct"
"""The one given model whose published number came from the stable fold order."""
Card = dict[str, Any]


def score(*words: str | Path) -> dict[str, Card]:
    command = ["score", *(str(word) for word in words), "--format", "alpaca_eval", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    return {card["model"]: card for card in json.loads(done.stdout)["cards"]}


def values(card: Card) -> dict[str, float | None]:
    return {name: one["value"] for name, one in card["scores"].items()}


# -------------------------------------------------------------------------------------------------------------- rules


def rows(preferences: Sequence[Any], **more: Any) -> list[dict[str, Any]]:
    """Annotations of the pocket edition's instructions, in its order; answer lengths differ from row to row."""
    prompts = pocket.load("alpaca_eval").prompts
    return [
        {
            "instruction": prompt.turns[0],
            "dataset": prompt.category,
            "output_1": "b" * 20,
            "generator_1": "base",
            "output_2": "c" * (10 + place % 17),
            "generator_2": "m",
            "annotator": "judge",
            "preference": value,
        }
        | more
        for place, (prompt, value) in enumerate(zip(prompts, preferences, strict=False))
    ]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not MIRROR:
        monkeypatch.setenv("HARNESS_MIRROR", str(tmp_path / "no mirror"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "annotations.json"


needs_data = pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR names the folder of pinned files")


@needs_data
def test_draws_nulls_and_numbers_out_of_range(file: Path) -> None:
    everything = [1.25, 1.75, 2.0, 1.5, 0] * 24
    everything[:3] = [None, float("nan"), -1]  # type: ignore[list-item]
    file.write_text(json.dumps(rows(everything, unknown_key=[1])))

    card = score(file, "--no-intervals")["m"]

    found = values(card)
    # 24 rounds of 0.25 0.75 1 0.5 0.5, less the first three
    assert found["win_rate"] == pytest.approx(100 * (24 * 3.0 - 2.0) / 117)
    assert (found["n_wins"], found["n_wins_base"], found["n_draws"]) == (46, 23, 48)
    assert found["discrete_win_rate"] == pytest.approx(100 * (46 + 24) / 117)
    assert (card["scores"]["win_rate"]["n"], card["scores"]["win_rate"]["unscored"]) == (117, 3)
    assert any("3 of 120" in note for note in card["notes"])
    assert card["suite_version"] == "pocket-1"
    assert found["lc_win_rate"] is not None


@needs_data
def test_a_preference_written_as_a_string_is_its_number(file: Path) -> None:
    file.write_text(json.dumps(rows(["1.25", "2", "1.0", "0"] * 30)))

    found = values(score(file, "--no-intervals")["m"])

    assert found["win_rate"] == pytest.approx(100 * (0.25 + 1 + 0 + 0.5) / 4)


@published
def test_the_references_length_control_takes_in_failed_rows_stored_as_minus_one(tmp_path: Path) -> None:
    made = json.loads(lzma.decompress((ALPACA / "annotations" / "vicuna-7b-v1.5.json.xz").read_bytes()))
    for place in range(0, 805, 30):
        made[place] |= {"preference": -1, "raw_completion": None}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(made))

    strict = score(path, "--strict-reference", "--no-intervals", "--fold-order", "stable")["vicuna-7b-v1.5"]
    ours = score(path, "--no-intervals")["vicuna-7b-v1.5"]

    found = values(strict)
    # printed by alpaca-eval 0.6.6 with scikit-learn 1.9.1, get_length_controlled_winrate of these rows
    assert found["lc_win_rate"] == pytest.approx(6.578335692719898, abs=1e-6)
    assert strict["scores"]["lc_win_rate_reference"]["se"] == pytest.approx(0.42115494322007146, abs=1e-6)
    assert found["win_rate"] == pytest.approx(4.774693697853471, abs=1e-9)
    assert any("27 stored numbers outside 1..2" in note for note in strict["notes"])
    assert values(ours)["lc_win_rate"] == pytest.approx(7.79, abs=0.01)


@needs_data
def test_a_model_against_two_baselines_is_two_cards(file: Path) -> None:
    file.write_text(json.dumps(rows([1.25] * 120) + rows([1.75] * 120, generator_1="other")))

    done = CliRunner().invoke(app, ["score", str(file), "--format", "alpaca_eval", "--json", "--no-intervals"])

    found = [(card["protocol"]["baseline"], values(card)["win_rate"]) for card in json.loads(done.stdout)["cards"]]
    assert found == [("base", 25), ("other", 75)]


@needs_data
def test_a_row_without_a_preference_has_the_one_of_its_log_probabilities(file: Path) -> None:
    top = [{"token": "m", "logprob": math.log(0.75)}, {"token": "M", "logprob": math.log(0.25)}]
    raw = {"logprobs": {"content": [{"top_logprobs": top}]}}
    stored, derived, null = rows([1.5] * 120), rows([1.5] * 120, raw_completion=raw), rows([None] * 5)
    for row in derived:
        del row["preference"]
    made = null + derived[5:10] + stored[10:]
    file.write_text(json.dumps(made))

    card = score(file, "--no-intervals")["m"]

    shown_first = [shown_order(row["instruction"]) == "ba" for row in made[5:10]]
    expected = sum(0.75 if first else 0.25 for first in shown_first) + 0.5 * 110
    assert values(card)["win_rate"] == pytest.approx(100 * expected / 115)
    assert card["scores"]["win_rate"]["unscored"] == 5


@needs_data
@pytest.mark.parametrize("strict", [(), ("--strict-reference",)])
def test_without_a_single_verdict_there_is_no_score(file: Path, strict: tuple[str, ...]) -> None:
    file.write_text(json.dumps(rows([None] * 120)))

    card = score(file, *strict)["m"]

    rates = ("lc_win_rate", "lc_win_rate_reference", "win_rate", "discrete_win_rate", "standard_error")
    assert [values(card)[name] for name in rates] == [None] * 5
    assert not card["complete"]
    assert any("no instruction is scored" in note for note in card["notes"])


@needs_data
def test_under_nine_tenths_only_the_reference_gives_a_rate(file: Path) -> None:
    file.write_text(json.dumps(rows([1.2, 1.8] * 50)))

    ours, strict = score(file, "--no-intervals")["m"], score(file, "--no-intervals", "--strict-reference")["m"]

    assert values(ours)["win_rate"] is None
    assert values(strict)["win_rate"] == pytest.approx(50)
    assert strict["scores"]["win_rate"]["unscored"] == 20


@needs_data
def test_a_placeholder_generator_takes_the_file_name(tmp_path: Path) -> None:
    (tmp_path / "NullModel.json").write_text(json.dumps(rows([1.2] * 120, generator_2="example")))

    assert list(score(tmp_path / "NullModel.json", "--no-intervals")) == ["NullModel"]


@needs_data
def test_the_baseline_against_itself_is_fifty(file: Path) -> None:
    file.write_text(json.dumps(rows([1.5] * 120, generator_2="base")))

    found = values(score(file, "--no-intervals")["base"])

    assert (found["lc_win_rate"], found["lc_win_rate_reference"], found["n_draws"]) == (50, 50, 120)


@needs_data
def test_answers_give_the_average_length(file: Path, tmp_path: Path) -> None:
    file.write_text(json.dumps(rows([1.2] * 120)))
    outputs = tmp_path / "model_outputs.json"
    outputs.write_text(
        json.dumps([{"instruction": "i", "output": "x" * length, "generator": "m"} for length in (2, 5)])
    )

    card = score(file, "--answers", outputs, "--no-intervals")["m"]

    assert values(card)["avg_length"] == 3  # floor of 3.5


@needs_data
def test_another_set_of_instructions_has_no_length_control(file: Path) -> None:
    changed = [row | {"instruction": f"other {place}"} for place, row in enumerate(rows([1.2, 1.9] * 60))]
    file.write_text(json.dumps(changed))

    card = score(file, "--no-intervals")["m"]

    assert card["suite_version"] == "files-1"
    assert values(card)["win_rate"] == pytest.approx(55)
    assert values(card)["lc_win_rate"] is None


@needs_data
def test_a_preference_against_its_own_log_probabilities_is_unscored(file: Path) -> None:
    top = [{"token": "m", "logprob": -0.1}, {"token": "M", "logprob": -3.0}]
    made = rows([1.5] * 120)
    made[0]["raw_completion"] = {"logprobs": {"content": [{"top_logprobs": top}]}}
    file.write_text(json.dumps(made))

    ours, strict = score(file, "--no-intervals")["m"], score(file, "--no-intervals", "--strict-reference")["m"]

    assert (ours["scores"]["win_rate"]["n"], strict["scores"]["win_rate"]["n"]) == (119, 120)


# ---------------------------------------------------------------------------------------------- the published board


@lru_cache
def board() -> dict[str, dict[str, str]]:
    with (ALPACA / "published_leaderboard.csv").open(encoding="utf-8") as file:
        return {row[""]: row for row in csv.DictReader(file)}


@pytest.mark.slow
@published
@pytest.mark.parametrize("strict", [(), ("--strict-reference",)])
def test_all_given_models_equal_the_board(strict: tuple[str, ...]) -> None:
    cards = score(ALPACA / "annotations", "--no-intervals", *strict)

    assert len(cards) == 14
    for model, card in cards.items():
        found, want = values(card), board()[model]
        for name in ("win_rate", "standard_error", "discrete_win_rate"):
            assert found[name] == pytest.approx(float(want[name]), abs=1e-9), (model, name)
        for name in ("n_wins", "n_wins_base", "n_draws"):
            assert found[name] == int(want[name])
        total = int(want["n_total"])
        assert (card["scores"]["win_rate"]["n"], card["scores"]["win_rate"]["unscored"]) == (total, 805 - total)
        if total == 805:
            assert found["avg_length"] == int(want["avg_length"])
        if model != STABLE:
            exact = "lc_win_rate" if strict else "lc_win_rate_reference"
            assert found[exact] == pytest.approx(float(want["length_controlled_winrate"]), abs=1e-6)
            if total == 805:
                assert found["lc_win_rate"] == pytest.approx(float(want["length_controlled_winrate"]), abs=1e-6)
        if want["lc_standard_error"] and model != STABLE:
            error = card["scores"]["lc_win_rate_reference"]["se"]
            assert error == pytest.approx(float(want["lc_standard_error"]), abs=1e-6)
        if "derived_again" in card["counts"]:
            assert card["counts"]["derived_again"] >= 795
            assert card["counts"]["largest_difference"] <= 5.01e-11
        assert card["suite_version"] == "official-1"


@published
def test_the_stable_fold_order_gives_its_models_number_with_our_interval_beside() -> None:
    card = score(ALPACA / "annotations" / f"{STABLE}.json.xz", "--fold-order", "stable")[STABLE]

    ours, theirs = card["scores"]["lc_win_rate"], card["scores"]["lc_win_rate_reference"]
    assert ours["value"] == pytest.approx(float(board()[STABLE]["length_controlled_winrate"]), abs=1e-6)
    assert theirs["se"] == pytest.approx(float(board()[STABLE]["lc_standard_error"]), abs=1e-6)
    assert ours["ci_low"] < ours["value"] < ours["ci_high"]
    assert ours["se"] > theirs["se"]  # the reference's leaves the fit's own uncertainty out
    assert card["protocol"]["fold_order"] == "stable"


@published
def test_stored_preferences_follow_from_raw_log_probabilities() -> None:
    cards = score(ALPACA / "logprobs_5models.jsonl.xz", "--no-intervals")

    assert set(cards) == {"NullModel", "claude-2.1", "gemma-2b-it", "gpt4_gamed", "text_davinci_001"}
    for model, card in cards.items():
        assert card["counts"]["derived_again"] >= 795
        assert card["counts"]["largest_difference"] <= 5.01e-11
        assert values(card)["win_rate"] == pytest.approx(float(board()[model]["win_rate"]), abs=1e-9)


@published
def test_fewer_rows_are_stated_and_both_rates_shown(tmp_path: Path) -> None:
    with lzma.open(ALPACA / "annotations" / "claude-2.1.json.xz", "rt", encoding="utf-8") as packed:
        found = json.load(packed)
    (tmp_path / "a.json").write_text(json.dumps(found[3:]))

    card = score(tmp_path / "a.json", "--no-intervals")["claude-2.1"]

    by_instruction, by_position = values(card)["lc_win_rate"], values(card)["lc_win_rate_reference"]
    assert by_instruction is not None
    assert by_position is not None
    assert abs(by_instruction - by_position) > 1e-3
    assert abs(by_instruction - float(board()["claude-2.1"]["length_controlled_winrate"])) < 0.5
    assert any("only 802 of 805" in note for note in card["notes"])
