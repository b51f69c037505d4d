"""`python -m benchmarks.fusion`: run the study, or resume it, and print the tables of docs/fusion_study.md.

Kill it at any time; the same command trains what is missing. `--write` puts the tables and the figure into docs/ and
the rewards into benchmarks/fusion/results.csv, from which `--tables` prints the tables without training anything.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process has one core; before numpy and torch are loaded

from benchmarks.sections import filled
from harness.records.errors import HarnessError
from harness.store import write_atomic

from .pages import SECTIONS, figure
from .results import read_results, write_results
from .study import Design, run_study

ROOT = Path(__file__).parents[2]
PAGE, FIGURE = ROOT / "docs" / "fusion_study.md", ROOT / "docs" / "images" / "fusion_study.svg"
RESULTS = Path(__file__).with_name("results.csv")
OUT = ROOT / "runs" / "fusion-study"
SEEDS = 8
SMOKE = Design(
    gaps={"better": 0.6}, sfts={"short": 10}, seeds=(1, 2), methods=("sft-cont", "dpo", "wrpo-0.5", "hybrid-dpo")
)
"""Seconds: shows that everything runs, and nothing about methods."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the study's rows (runs/fusion-study)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"repetitions of everything ({SEEDS}); at least 3")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one core each (2)")
    parser.add_argument("--smoke", action="store_true", help="one small world, in seconds, to see that all parts run")
    parser.add_argument("--write", action="store_true", help="write tables, figure and results into the project")
    parser.add_argument("--tables", action="store_true", help="print the tables from the committed results")
    flags = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    started = time.perf_counter()
    try:
        if flags.tables:
            rows = read_results(RESULTS)
        else:
            design = SMOKE if flags.smoke else default_design(flags.seeds)
            rows = run_study(design, flags.out, jobs=flags.jobs)
            logging.info("%d trainings in all; %.0f s for this call", len(rows), time.perf_counter() - started)
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    page = PAGE.read_text("utf-8") if flags.write else ""
    for name, section in SECTIONS.items():
        table = section(rows)
        sys.stdout.write(table + "\n")
        if flags.write:
            page = filled(page, name, table, "python -m benchmarks.fusion")
    if flags.write:
        write_results(RESULTS, rows)
        write_atomic(FIGURE, figure(rows) + "\n")
        write_atomic(PAGE, page)
    return 0


def default_design(seeds: int) -> Design:
    from .methods import METHODS

    return Design(seeds=tuple(range(1, 1 + seeds)), methods=tuple(METHODS))


if __name__ == "__main__":
    sys.exit(main())
