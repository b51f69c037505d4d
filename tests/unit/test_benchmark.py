"""The table of the docs is made by one command, between two markers, and says what it cannot compare."""

from __future__ import annotations

import pytest

from benchmarks.official.lines import BEGIN, END, Line, between_markers, markdown
from tests import ROOT


def test_a_line_without_a_reference_time_claims_no_ratio() -> None:
    text = markdown([Line("a", 3, "0", 0.25), Line("b", 1, "0", 0.5, 1.0, "theirs")])

    assert "| a | 3 | 0 | 250 ms | - | - | - |" in text
    assert "| b | 1 | 0 | 500 ms | 1.00 s | 2.0 x | theirs |" in text


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    assert between_markers(f"top\n{BEGIN}\nold\n{END}\nend\n", "new\n") == f"top\n{BEGIN}\n\nnew\n\n{END}\nend\n"


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="the page has no"):
        between_markers("nothing", "new")


def test_the_docs_hold_a_table_of_all_three_benchmarks() -> None:
    page = (ROOT / "docs" / "official_numbers.md").read_text("utf-8")

    table = page.split(BEGIN)[1].split(END)[0]

    for name in ("MT-Bench", "AlpacaEval", "Arena-Hard"):
        assert f"| {name}" in table
