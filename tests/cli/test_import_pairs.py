"""FastChat's pair files become runs of mt_bench_pairs, with the numbers of `harness score`, and go out again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.cli.importing import suites_in
from harness.records import Preference, Prompt
from harness.records.errors import ConfigError
from harness.records.protocols import SuiteData
from harness.suites.exchange import Imported, ImportRequest
from harness.suites.files import SourceFile
from harness.suites.mt_bench.files import read_pairs
from harness.suites.mt_bench.pairs import MtBenchPairs
from tests.fakes.commands import Done

PUBLISHED = os.environ.get("HARNESS_PUBLISHED", "")
needs_published = pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")), reason="HARNESS_PUBLISHED or HARNESS_MIRROR is not set"
)
PROMPTS = tuple(Prompt(id=str(number), turns=("q", "r"), category="writing") for number in range(81, 91))
RATES = ("win_rate", "win_rate_adjusted")


def game(question: int, first: str, second: str, **more: Any) -> dict[str, Any]:
    named = {"question_id": question, "model_1": "x", "model_2": "y", "turn": 1, "judge": ["gpt-4", "pair-v2"]}
    return named | {"g1_winner": first, "g2_winner": second} | more


def read(*rows: dict[str, Any], model: str = "x", baseline: str | None = None) -> Imported:
    return read_pairs([SourceFile("j_pair.jsonl", rows)], ImportRequest(PROMPTS, model, baseline=baseline))


def values(found: Imported) -> dict[str, float | None]:
    """By order; None: no verdict."""
    return {
        str(row.order): row.verdict.value if isinstance(row.verdict, Preference) else None for row in found.judgments
    }


def scores(found: Imported) -> dict[str, Any]:
    suite = MtBenchPairs(SuiteData(version="files-1", prompts=PROMPTS, templates={}))
    return dict(suite.score(PROMPTS, list(found.answers.values()), found.judgments).scores)


# Game 1 shows model_1 as A, game 2 model_2: the baseline is first in game 2 of x, and in game 1 of y.
@pytest.mark.parametrize(
    ("model", "baseline", "expected", "replies"),
    [
        ("x", "y", {"ba": 1.0, "ab": 0.5}, {"ba": "[[A]]", "ab": "[[C]]"}),
        ("y", "x", {"ab": 0.0, "ba": 0.5}, {"ab": "[[A]]", "ba": "[[C]]"}),
    ],
)
def test_both_games_are_kept_with_the_order_shown(
    model: str, baseline: str, expected: dict[str, float], replies: dict[str, str]
) -> None:
    found = read(game(81, "model_1", "tie", g1_judgment="[[A]]", g2_judgment="[[C]]"), model=model)

    assert values(found) == expected
    assert {str(row.order): row.reply for row in found.judgments} == replies
    assert found.baseline == baseline
    assert {(row.prompt_id, row.turn, row.model, row.baseline, row.judge) for row in found.judgments} == {
        ("81", 1, model, baseline, "gpt-4")
    }


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "parse"),
        ({"g1_judgment": "$ERROR$", "g2_judgment": "[[B]]"}, "http"),
        ({"g1_judgment": "I cannot say", "g2_judgment": "[[B]]"}, "parse"),
        ({"g1_judgment": "[[A]]", "g2_judgment": "[[B]]"}, "conflict"),
        ({"g1_judgment": "[[A]] or [[B]]", "g2_judgment": "[[B]]"}, "conflict"),
    ],
)
def test_an_error_game_is_a_failure_and_its_pair_unscored(more: dict[str, str], reason: str) -> None:
    found = read(game(81, "error", "model_1", **more))

    assert values(found) == {"ba": None, "ab": 1.0}
    assert [row.error.reason for row in found.judgments if row.error] == [reason]
    assert (scores(found)["win_rate"].value, scores(found)["win_rate"].unscored) == (None, 20)


def test_a_judged_failed_call_is_unscored() -> None:
    answers = {"question_id": 81, "model_id": "y", "choices": [{"turns": ["$ERROR$", "$ERROR$"]}]}

    found = read(game(81, "model_1", "model_1"), answers)

    assert [row.error.reason for row in found.judgments if row.error] == ["answer", "answer"]
    assert found.answers == {}  # the baseline's are not the model's


def test_rates_are_worked_out_by_hand() -> None:
    rows = [
        game(81, "model_2", "model_2"),  # replaced by the next
        game(81, "model_1", "model_1"),
        game(82, "model_1", "model_2"),  # a tie
        game(83, "model_2", "model_2"),
        game(84, "tie", "tie", turn=2),
        game(85, "error", "error"),
    ]
    for model, expected in (("x", (25.0, 50.0)), ("y", (25.0, 50.0))):
        found = scores(read(*rows, model=model))
        assert tuple(found[name].value for name in RATES) == expected
        assert (found["win_rate"].n, found["win_rate"].unscored) == (4, 16)


def test_one_of_several_opponents_is_the_baseline_named() -> None:
    rows = [game(81, "model_1", "model_1"), game(81, "model_2", "model_2", model_2="z")]

    assert values(read(*rows, baseline="z")) == {"ba": 0.0, "ab": 0.0}
    assert read(*rows, baseline="y").baseline == "y"
    # "theirs" is in no row: with the baseline out, the only model of the first row is meant
    assert read(rows[0], model="theirs", baseline="y").judgments[0].model == "theirs"


@pytest.mark.parametrize(
    ("rows", "words", "sentence"),
    [
        ([game(81, "tie", "tie"), game(81, "tie", "tie", model_2="z")], {}, "pass --baseline, one of: y, z"),
        ([game(81, "tie", "tie")], {"baseline": "z"}, "no row compares 'x' with 'z'; compared with: y"),
        ([game(81, "tie", "tie")], {"model": "m"}, "the files contain 2 models, none named 'm': x, y"),
        ([game(81, "tie", "tie"), game(81, "tie", "tie", model_1="y", model_2="x")], {}, "the other way round"),
        ([game(81, "tie", "tie", turn=3)], {}, "turn 3 in the files"),
        ([game(2, "tie", "tie")], {}, "1 questions of the files are not the suite's, e.g. '2'"),
    ],
)
def test_what_is_not_clear_is_one_sentence(rows: list[dict[str, Any]], words: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read(*rows, **words)


def test_of_ratings_and_pairs_in_one_folder_those_that_name_the_model_are_taken() -> None:
    rated: dict[str, Any] = {"question_id": 81, "model": "x", "score": 5}
    files = [
        SourceFile("j_single.jsonl", (rated, rated | {"model": "z"})),
        SourceFile("p.jsonl", (game(81, "tie", "tie"),)),
    ]

    assert suites_in("fastchat", files, "x") == ["mt_bench", "mt_bench_pairs"]
    assert suites_in("fastchat", files, "y") == ["mt_bench_pairs"]
    assert suites_in("fastchat", files, "z") == ["mt_bench"]


# ---------------------------------------------------------------------------------------------- published judgments


def cards(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    return {f"{card['suite']} {card['model']}": card for card in json.loads(done.out)["cards"]}


@pytest.mark.slow
@needs_published
def test_a_published_pair_file_imports_with_the_rates_of_harness_score_and_goes_out_again(
    harness: Callable[..., Done], tmp_path: Path
) -> None:
    file = str(Path(PUBLISHED) / "mt_bench/judgments/Stefanstud.gpt-4_pair.jsonl.xz")
    answers = str(Path(PUBLISHED) / "mt_bench/model_answer/Stefanstud.phi-3-dpo.jsonl.xz")
    scored = cards(harness("score", file, "--format", "fastchat", "--json"))
    for model, baseline in (("phi-3-dpo", "phi-3"), ("phi-3", "phi-3-dpo")):
        card = cards(harness("import", file, "--format", "fastchat", "--model", model, "--json"))[
            f"mt_bench_pairs {model}"
        ]
        for name in RATES:
            theirs = scored[f"mt_bench {model}"]["scores"][name]
            assert card["scores"][name] == pytest.approx(theirs, rel=1e-9), name
        assert (card["protocol"]["baseline"], card["judge"]) == (baseline, "gpt-4")
        assert card["counts"]["unjudged"] == {"http": 3}  # those with the winner error

    folder = next((tmp_path / "results/runs/phi-3-dpo").glob("mt_bench_pairs@official-1/*"))
    rows = [json.loads(line) for line in (folder / "judgments.jsonl").read_text().splitlines()]
    assert Counter(row["order"] for row in rows) == {"ab": 75, "ba": 75}
    assert harness("export", "phi-3-dpo", "--format", "fastchat", "--out", "out").code == 0
    pairs = tmp_path / "out/model_judgment/gpt-4_pair.jsonl"
    again = cards(harness("score", str(pairs), "--format", "fastchat", "--json"))
    for name, card in again.items():
        for rate in RATES:
            assert card["scores"][rate] == pytest.approx(scored[name]["scores"][rate], rel=1e-9)
    told = harness("import", file, answers, "--format", "fastchat", "--model", "phi-3-dpo")
    assert "--suite mt_bench_pairs:BASELINE.jsonl" in told.out
    if find_spec("fastchat") is not None:
        check_show_result(pairs, scored["mt_bench phi-3-dpo"])


def check_show_result(pairs: Path, card: dict[str, Any]) -> None:
    """FastChat's own table of the exported file."""
    command = [sys.executable, "-m", "fastchat.llm_judge.show_result", "--mode", "pairwise-baseline"]
    command += ["--baseline-model", "phi-3", "--input-file", str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    [line] = [line for line in done.stdout.splitlines() if line.startswith("phi-3-dpo")]
    assert [float(word) for word in line.split()[1:]] == pytest.approx(
        [20, 18, 35, 20 / 73, 18 / 73, card["scores"]["win_rate_adjusted"]["value"] / 100], abs=1e-6
    )
