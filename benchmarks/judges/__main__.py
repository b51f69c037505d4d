"""`python -m benchmarks.judges`: prints the tables of docs/judges.md and writes them there.

Needs HARNESS_PUBLISHED (recorded judgments), HARNESS_MIRROR (pinned files) and alpaca-eval; asks no judge.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from harness.records.protocols import SuiteOptions

from .sections import SECTIONS, Sources

PAGE = Path(__file__).parents[2] / "docs" / "judges.md"


def main() -> int:
    if not os.environ.get("HARNESS_PUBLISHED"):
        sys.stderr.write("HARNESS_PUBLISHED is not set: it names the folder of recorded judgments\n")
        return 2
    sources = Sources(Path(os.environ["HARNESS_PUBLISHED"]), SuiteOptions())
    page = PAGE.read_text("utf-8")
    for name, section in SECTIONS.items():
        table = section(sources)
        sys.stdout.write(table + "\n")
        page = filled(page, name, table)
    PAGE.write_text(page, "utf-8")
    return 0


def filled(page: str, name: str, table: str) -> str:
    """The page with the table between its markers; raises ValueError without them."""
    begin, end = f"<!-- begin: python -m benchmarks.judges, {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n\n{table}\n{end}", page)


if __name__ == "__main__":
    sys.exit(main())
