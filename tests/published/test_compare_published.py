"""Comparison of published judgments: the numbers are the cards' own, and what pairing promises is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.analysis.best import best_of_models
from harness.analysis.finished_runs import compare_models
from harness.records.facts import load_function
from harness.records.protocols import OwnRunner, SuiteOptions
from harness.running.importing import Origin, judgments_card
from harness.running.plan import load_suite
from harness.suites.exchange import ImportRequest, with_format
from harness.suites.files import read_files

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
pytestmark = pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")),
    reason="set HARNESS_PUBLISHED and HARNESS_MIRROR to the folders of published judgments and pinned files",
)


def bring(results: Path, suite: str, file_format: str, file: str, model: str) -> float:
    """The model's judgments as a run; its headline."""
    path = Path(str(PUBLISHED)) / file
    made = load_suite(suite, SuiteOptions())
    assert not isinstance(made, OwnRunner)
    read = load_function(with_format(file_format, "read")[0][1].read)
    found = read(list(read_files([path])), ImportRequest(made.prompts(), model))
    card = judgments_card(results, model, made, found, Origin(file_format, (path,)))
    return card.scores[card.headline].value or 0.0


@pytest.mark.slow
def test_length_controlled_rates_are_compared_by_shared_refits(tmp_path: Path) -> None:
    models = ("FuseChat-Llama-3.1-8B-Instruct", "FuseChat-Gemma-2-9B-Instruct")
    values = [
        bring(tmp_path, "alpaca_eval", "alpaca_eval", f"alpaca_eval/annotations/{name}.json.xz", name)
        for name in models
    ]

    (found,) = compare_models(models, tmp_path)
    row = found.difference("lc_win_rate")

    # published board: 65.4 and 70.2
    assert row is not None
    assert (row.first, row.other) == pytest.approx(values)
    assert [round(value, 1) for value in values] == [65.4, 70.2]
    assert row.method == "refitted"
    assert row.se < 1.7  # unpaired, the two cards' errors add up to more
    assert {one.category for one in found.differences} >= {"koala", "vicuna"}


@pytest.mark.slow
def test_the_best_length_controlled_rates_are_found_by_the_same_refits(tmp_path: Path) -> None:
    models = ("FuseChat-Llama-3.1-8B-Instruct", "FuseChat-Gemma-2-9B-Instruct", "OpenHermes-2.5-Mistral-7B")
    for name in models:
        bring(tmp_path, "alpaca_eval", "alpaca_eval", f"alpaca_eval/annotations/{name}.json.xz", name)

    (best,) = best_of_models(models, tmp_path)
    (pair,) = compare_models(models[:2], tmp_path)
    two = best_of_models(models[:2], tmp_path)[0].models
    row = pair.difference("lc_win_rate")

    assert (best.method, best.metric, best.n) == ("refitted", "lc_win_rate", 805)
    assert best.tied == (models[1],)
    assert [round(model.value, 1) for model in best.models] == [70.2, 65.4, 16.2]  # the published board
    # of two, the bound is that of the one-sided test of compare's own difference
    assert row is not None
    assert two[0].high == pytest.approx(row.value + 1.645 * row.se, rel=0.02)


def test_two_official_models_on_mt_bench(tmp_path: Path) -> None:
    models = ("vicuna-7b-v1.3", "vicuna-33b-v1.3")
    values = [bring(tmp_path, "mt_bench", "fastchat", "mt_bench/official_scores.jsonl.xz", name) for name in models]

    (found,) = compare_models(models, tmp_path)
    row = found.difference("mt_bench")

    assert row is not None
    assert row.value == pytest.approx(values[1] - values[0])
    assert [round(value, 2) for value in values] == [6.0, 7.12]  # the published board
    assert row.p < 0.001
