"""`python -m benchmarks.gate`: the tables of docs/gate.md, from the published judgments in HARNESS_PUBLISHED."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from harness.analysis.gate.policy import GateCheck, GatePolicy
from harness.analysis.gate.power import power_rows
from harness.analysis.gate.sequential import SequentialCheck, looks, order_of, settled, step
from harness.pages.gate_text import POWER_HEAD, power_cells
from harness.pages.text import markdown_table
from harness.records.facts import facts_of
from harness.stats.paired import correlation, detectable, paired_difference, ratio_estimate
from harness.suites.scoring import QuestionSums, common

from .published import FILES, Published, published

SEEDS = 5
LEFT = ("suite", "metric")
SEEN_HEAD = ("suite", "models", "questions", "correlation of neighbours", "seen paired", "seen unpaired")
STOP_HEAD = ("suite", "margin", "pairs x orders", "stopped early", "questions judged, mean", "of")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="simulated gates a pair and drop")
    trials = parser.parse_args().trials
    root = os.environ.get("HARNESS_PUBLISHED")
    if not root:
        sys.exit("HARNESS_PUBLISHED is not set: it names the folder of published judgments")
    found = [published(Path(root), suite) for suite in FILES]
    policy = GatePolicy()
    rows = [
        [part.suite, *power_cells(row)]
        for part in found
        for margin in (part.margin, part.margin / 2)
        for row in power_rows(part.neighbours(), margin, policy, trials=trials)
    ]
    print("\n".join(markdown_table(("suite", *POWER_HEAD), rows, LEFT)))
    print()
    print("\n".join(markdown_table(SEEN_HEAD, [seen(part) for part in found], LEFT)))
    print()
    print("\n".join(markdown_table(STOP_HEAD, [stopping(part, policy) for part in found], LEFT)))


def seen(part: Published) -> list[str]:
    """What pairing gains on these pairs: the smallest drop seen (one-sided 5 %, power 80 %), means over pairs."""
    correlations, paired, unpaired = [], [], []
    for worse, better in part.neighbours():
        first, other = common([better, worse])
        both = paired_difference((other.above, other.below), (first.above, first.below), scale=first.scale)
        each = [ratio_estimate(one.above, one.below, scale=one.scale) for one in (first, other)]
        found = correlation(first.scores(), other.scores())
        if both is not None and each[0] is not None and each[1] is not None and found is not None:
            correlations.append(found)
            paired.append(detectable(both.se))
            unpaired.append(detectable((each[0].se ** 2 + each[1].se ** 2) ** 0.5))
    questions = max(len(one.ids) for one in part.models.values())
    numbers = [f"{np.mean(values):.2f}" for values in (correlations, paired, unpaired)]
    return [part.suite, str(len(part.models)), str(questions), *numbers]


def stopping(part: Published, policy: GatePolicy) -> list[str]:
    """How early `--sequential` would have stopped on these pairs, the better model as the baseline."""
    stops, total, early = [], 0, 0
    for worse, better in part.neighbours():
        first, other = common([better, worse])
        total = len(first.ids)
        for seed in range(SEEDS):
            stop = stopped(part, first, other, policy, seed)
            stops.append(stop)
            early += stop < total
    return [
        part.suite,
        f"{part.margin:g}",
        str(len(stops)),
        f"{early / len(stops):.0%}",
        f"{np.mean(stops):.0f}",
        str(total),
    ]


def stopped(part: Published, first: QuestionSums, other: QuestionSums, policy: GatePolicy, seed: int) -> int:
    check = GateCheck(suite=part.suite, metric=first.metric, margin=part.margin)
    one = SequentialCheck(check, facts_of(part.suite).rules[0])
    order = order_of(first.ids, part.suite, seed)
    for n in looks(len(order)):
        seen = order[:n]
        found = step(one, first.of(seen), other.of(seen), planned=len(order), policy=policy, peers={"critical": 1})
        if settled([(check, found)]):
            return n
    return len(order)


if __name__ == "__main__":
    main()
