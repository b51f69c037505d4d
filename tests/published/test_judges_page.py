"""docs/judges.md shows what its command prints."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.judges.__main__ import COMMAND, PAGE
from benchmarks.judges.sections import SECTIONS, Sources
from benchmarks.sections import filled
from harness.records.protocols import SuiteOptions

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")


@pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")),
    reason="set HARNESS_PUBLISHED and HARNESS_MIRROR to the folders of published judgments and pinned files",
)
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "prices"])  # prices are the judges' files'
def test_the_page_holds_the_figures_that_recorded_judgments_give(name: str) -> None:
    page = PAGE.read_text("utf-8")

    assert filled(page, name, SECTIONS[name](Sources(Path(str(PUBLISHED)), SuiteOptions())), COMMAND) == page


def test_a_page_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no"):
        filled("# Judges", "boards", "| a |", COMMAND)
