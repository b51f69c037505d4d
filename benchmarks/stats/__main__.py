"""`python -m benchmarks.stats`: the tables of docs/statistics.md, as Markdown. `--sets N` for a quicker look."""

from __future__ import annotations

import argparse

from .coverage import (
    COVERAGE,
    Share,
    false_alarms,
    look_errors,
    margin_errors,
    rank_coverage,
)
from .few import grid_lines
from .timing import timing_lines

SIZES = (80, 500)
"""Questions of MT-Bench and of Arena-Hard."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000, help="simulated data sets")
    sets = parser.parse_args().sets
    coverage = [share for study in COVERAGE for size in SIZES for share in study(sets, size)]
    show(f"Share of 95 % intervals that hold the truth, {sets} data sets", coverage)
    show("Looking early, true drop = margin", look_errors(sets, 500))
    show("Ranks of ten models", [share for size in SIZES for share in rank_coverage(max(50, sets // 10), size)])
    show(f"False alarms at 5 %, {sets} data sets", [share for size in SIZES for share in false_alarms(sets, size)])
    show("Gate, at the margin (5 % each)", [share for size in SIZES for share in margin_errors(sets, size)])
    for line in grid_lines(sets):
        print(line, flush=True)
    print("\n## Time\n")
    print("\n".join(timing_lines()))


def show(title: str, shares: list[Share]) -> None:
    print(f"## {title}\n\n| what | questions | share | its 95 % interval |\n| --- | ---: | ---: | --- |")
    print("\n".join(share.line() for share in shares), flush=True)
    print()


if __name__ == "__main__":
    main()
