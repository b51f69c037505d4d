"""`python -m benchmarks.official`: prints the table and writes it into docs/official_numbers.md.

Needs HARNESS_PUBLISHED (published judgments) and HARNESS_MIRROR (pinned files), and fschat, alpaca-eval, scikit-learn.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from . import alpaca_eval, arena_hard, mt_bench
from .lines import between_markers, markdown

PAGE = Path(__file__).parents[2] / "docs" / "official_numbers.md"


def main() -> int:
    try:
        published, mirror = Path(os.environ["HARNESS_PUBLISHED"]), Path(os.environ["HARNESS_MIRROR"])
    except KeyError as error:
        sys.stderr.write(f"{error.args[0]} is not set: it names the folder of published or pinned files\n")
        return 2
    with tempfile.TemporaryDirectory() as work:
        suites = (mt_bench, alpaca_eval, arena_hard)
        lines = [line for suite in suites for line in suite.measure(published, mirror, Path(work))]
    table = markdown(lines)
    sys.stdout.write(table)
    PAGE.write_text(between_markers(PAGE.read_text("utf-8"), table), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
