"""Tables of `judge`, `watch`, `data`, `cache` and recipes on terminals of 80, 100, 120 and 200 columns."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.analysis.judge_probe import PROBES, ProbeResult
from harness.analysis.watch import EvaluatedCheckpoint, HeadlinePoint, WatchState
from harness.cli.judge import probe_table
from harness.cli.watch import trend_tables
from harness.pages.text import FittedTable
from harness.records import Score
from recipes.plan import plan_tables
from recipes.report.board import variant_board
from recipes.report.tables import rich_tables
from tests.cli.test_recipe_plan import shipped
from tests.cli.test_terminal import WIDTHS, on_terminal
from tests.fakes.deciding import mixed, toy_run, write_run
from tests.unit.test_variant_board import one

NAME = "wrpo-of-six-sources-alpha-0.1-continued-from-the-second-checkpoint"
"""A model of 66 characters."""


def printed(width: int, *tables: FittedTable) -> list[str]:
    """Return the lines that a terminal of this width shows."""
    console = Console(width=width, record=True, file=StringIO())
    for table in tables:
        console.print(table)
    return console.export_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_tables_of_data_and_cache_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = on_terminal(width, "data", "list").splitlines()
    table = [line for line in shown if not line.startswith("cache: ")]  # a path is printed whole

    assert max(map(len, table)) <= width
    (line,) = [line for line in table if line.startswith("mt_bench/questions ")]
    assert "48,929" in line
    assert ("sha256" in table[0]) == (width > 80)
    monkeypatch.setenv("HARNESS_REPLY_CACHE", str(tmp_path / "replies.db"))
    assert on_terminal(width, "cache", "stats").startswith("judge  replies  tokens in  tokens out  oldest  newest\n")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_verdict_on_a_judge_is_on_the_line_of_its_probe(width: int) -> None:
    lines = printed(width, probe_table("judge", [ProbeResult(probe, 15, 16, 1) for probe in PROBES]))

    assert max(map(len, lines)) <= width
    assert sum("15 of 16" in line and ("pass" in line or "FAIL" in line) for line in lines) == len(PROBES)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_result_of_a_check_and_the_best_model_fit(width: int, tmp_path: Path) -> None:
    for model, wins in (("base", 20), (NAME, 38)):
        write_run(tmp_path, toy_run(model, mixed(wins, 40 - wins)))

    gated = on_terminal(width, "gate", "--candidate", NAME, "--baseline", "base", "--results", str(tmp_path))
    best = on_terminal(width, "compare", "--best", "base", NAME, "--results", str(tmp_path))

    (check,) = [line for line in gated.splitlines() if line.startswith("arena_hard arena_hard ")]
    assert check.endswith(" safe")
    (row,) = [line for line in best.splitlines() if line.startswith("base ")]
    assert row.endswith(" worse than the best")
    assert max(map(len, (check, row))) <= width
    for text in (gated, best):
        assert ("not shown for lack of width" in text) == (width < 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_variants_of_a_recipe_keep_difference_and_verdict(width: int) -> None:
    board = variant_board(
        "toy",
        [one(name, seed, (seed, 2, 3, 4)) for name in (NAME, "dpo") for seed in (1, 2, 3)],
        baselines=["dpo"],
        preference=[NAME],
    )
    lines = printed(width, *rich_tables(board))

    assert max(map(len, lines)) <= width
    (difference,) = [line for line in lines if line.startswith("wrpo") and "not shown" in line]
    assert re.search(r" \+0\.000 .* 1\.000 +not shown$", difference)
    assert (NAME in difference) == (width == 200)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_plan_of_a_recipe_keeps_its_hours(width: int, tmp_path: Path) -> None:
    lines = printed(width, *plan_tables(shipped("wrpo-llama3-8b", tmp_path, 1500)))

    assert max(map(len, lines)) <= width
    assert re.search(r"all +56 .*423\.61$", "\n".join(lines), re.MULTILINE)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_trend_of_a_training_keeps_step_and_score(width: int) -> None:
    score = Score(value=7.25, ci_low=6.9, ci_high=7.6, se=0.18, n=80)
    point = HeadlinePoint(
        suite="mt_bench", metric="mt_bench", protocol="0" * 12, judge="judge", run_id="r", score=score
    )
    done = [
        EvaluatedCheckpoint(checkpoint=f"{NAME}-{step}", step=step, fingerprint="", asked="", points=(point,))
        for step in (100, 200)
    ]
    lines = printed(width, *trend_tables(WatchState(folder="training", done=tuple(done))))

    assert max(map(len, lines)) <= width
    assert sum(re.match(r" +[12]00  wrpo.*7\.25 \[6\.90, 7\.60\]", line) is not None for line in lines) == 2
