"""A calibration as tables: every measure has its words, failures and cost are shown, names are only names."""

from __future__ import annotations

from harness.pages.judge_text import grids, markdown_grid, remarks, side_by_side
from harness.records import Score
from tests.unit.test_calibration import calibration

USAGE = {"judgments": 4, "failed": 1, "prompt_tokens": 10, "completion_tokens": 2, "cost": 0.5, "paid": 0.25}


def test_measures_come_in_words_with_interval_and_failures_below() -> None:
    one = calibration(100)
    part = one.suites["mt_bench"].model_copy(update={"failures": {"parse": 3}})
    first = grids(one.model_copy(update={"suites": {"mt_bench": part}}))[0]

    assert first.title == "mt_bench: judge j, 100 comparisons, 412 votes; retired judge gpt-4"
    assert first.rows[0] == ("agrees with people (all votes)", "0.66 [0.61, 0.71]", "412", "0")
    assert first.rows[-1] == ("calls without a verdict: parse", "3", "", "")


def test_remarks_end_with_what_it_took() -> None:
    one = calibration(100).model_copy(update={"usage": USAGE})

    assert remarks(one) == [
        f"calibration {one.sha}: 4 judgments, 1 without a verdict, 10 + 2 tokens, $0.5 at list price, $0.25 paid"
    ]


def test_a_models_name_is_no_markdown() -> None:
    part = calibration(100).suites["mt_bench"]
    named = part.model_copy(update={"excess_by_model": {"<b>[x](y)|*": Score(value=0.1, n=3)}})
    found = grids(calibration(100).model_copy(update={"suites": {"mt_bench": named}}))

    assert "| &lt;b>\\[x\\](y)\\|\\* | 0.10 | 3 |" in markdown_grid(found[-1])


def test_judges_side_by_side_fit_100_columns() -> None:
    both = [calibration(100), calibration(100)]
    [table] = side_by_side(both)

    assert table.title == "mt_bench: judges compared"
    assert table.columns == ("judge", "people", "retired judge", "both orders", "longer", "$/1,000", "failed")
    assert len(table.rows) == 2
    interval, judge = len("0.66 [0.61, 0.71]"), 18
    assert judge + 3 * interval + len("-12.50") + len("$/1,000") + len("failed") + 2 * (len(table.columns) - 1) <= 100
