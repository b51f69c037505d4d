"""`python -m benchmarks.judges`: prints the tables of docs/judges.md and writes them there.

Needs HARNESS_PUBLISHED (recorded judgments), HARNESS_MIRROR (pinned files) and alpaca-eval; asks no judge.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.sections import filled
from harness.records.protocols import SuiteOptions

from .sections import SECTIONS, Sources

COMMAND = "python -m benchmarks.judges"
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
        page = filled(page, name, table, COMMAND)
    PAGE.write_text(page, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
