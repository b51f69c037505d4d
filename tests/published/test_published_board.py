"""The leaderboard of published judgments: what it says of two models is what `harness compare` says of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.commands import Done

PUBLISHED = os.environ.get("HARNESS_PUBLISHED", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PUBLISHED and os.environ.get("HARNESS_MIRROR")),
        reason="HARNESS_PUBLISHED and HARNESS_MIRROR name the folders of published files",
    ),
]
MODELS = ("mistral-orpo-trl", "mistral-orpo-mix")


def test_a_row_and_the_one_above_differ_as_compare_says(harness: Callable[..., Done]) -> None:
    file = Path(PUBLISHED, "mt_bench", "judgments", "alvarobartt.gpt-4_single.jsonl.xz")
    for model in MODELS:
        assert harness("import", str(file), "--format", "fastchat", "--model", model).code == 0
    (table,) = json.loads(harness("leaderboard", "--json", "--no-reported").out)["tables"]
    compared = json.loads(harness("compare", *MODELS, "--json").out)

    assert [row["model"] for row in table["rows"]] == list(MODELS)
    above = table["rows"][1]["above"]
    (found,) = [
        one
        for comparison in compared["comparisons"]
        for one in comparison["differences"]
        if (one["metric"], one["category"]) == ("mt_bench", None)
    ]
    assert above["paired"]
    for ours, theirs in (("difference", "value"), ("ci_low", "ci_low"), ("ci_high", "ci_high"), ("p", "p")):
        assert above[ours] == pytest.approx(found[theirs], abs=1e-9), ours


def test_length_controlled_rates_differ_as_compare_says(harness: Callable[..., Done]) -> None:
    models = ("FuseChat-Llama-3.1-8B-Instruct", "FuseChat-Qwen-2.5-7B-Instruct")
    files = [str(Path(PUBLISHED, "alpaca_eval", "annotations", f"{model}.json.xz")) for model in models]
    assert "imported 2 runs of 2 models" in harness("import", *files, "--format", "alpaca_eval").out
    (table,) = json.loads(harness("leaderboard", "--json").out)["tables"]
    (comparison,) = json.loads(harness("compare", *models, "--json").out)["comparisons"]
    row = next(row for row in comparison["differences"] if row["metric"] == "lc_win_rate")

    assert row["method"] == "refitted"
    above = table["rows"][1]["above"]
    assert [above[name] for name in ("difference", "ci_low", "ci_high", "p")] == pytest.approx(
        [row[name] for name in ("value", "ci_low", "ci_high", "p")]
    )
    assert [round(above[name], 2) for name in ("difference", "ci_low", "ci_high")] == [-1.80, -5.08, 1.01]
