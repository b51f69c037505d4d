"""`python -m benchmarks.gate`: the tables of docs/gate.md, from the published judgments in HARNESS_PUBLISHED.

`--only NAME` prints one section, `--trials N` simulates N gates per pair and drop.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from benchmarks.sections import Section, main
from harness.analysis.gate.policy import GateCheck, GatePolicy, Step
from harness.analysis.gate.power import RunPair, power_rows
from harness.analysis.gate.sequential import SequentialCheck, look_result, looks, order_of, settled, step
from harness.pages.gate_text import POWER_HEAD, power_cells
from harness.pages.text import markdown_table
from harness.records.facts import facts_of
from harness.stats.intervals import FloatArray
from harness.stats.paired import correlation, detectable, paired_difference, ratio_estimate
from harness.suites.scoring import QuestionSums, common

from .direct import direct
from .published import FILES, Published, published, published_root
from .story import story

SEEDS = 5
LEFT = ("suite", "metric")
SEEN_HEAD = ("suite", "models", "questions", "correlation of neighbours", "seen paired", "seen unpaired")
LOOKS_HEAD = ("suite", "margin", "true drop", "pass", "undecided", "fail", "questions judged, mean", "of", "trials")
STOP_HEAD = ("suite", "margin", "pairs x orders", "stopped early", "questions judged, mean", "of")


def verdicts(trials: int) -> list[str]:
    rows = [
        [part.suite, *power_cells(row)]
        for part in map(published, FILES)
        for margin in (part.margin, part.margin / 2)
        for row in power_rows(part.neighbours(), margin, GatePolicy(), trials=trials)
    ]
    return markdown_table(("suite", *POWER_HEAD), rows, LEFT)


def visible(_: int) -> list[str]:
    return markdown_table(SEEN_HEAD, [seen(part) for part in map(published, FILES)], LEFT)


def early_looks(trials: int) -> list[str]:
    rows = [row for part in map(published, FILES) for row in sequential_rows(part, GatePolicy(), trials)]
    return markdown_table(LOOKS_HEAD, rows, LEFT)


def early_stops(_: int) -> list[str]:
    return markdown_table(STOP_HEAD, [stopping(part, GatePolicy()) for part in map(published, FILES)], LEFT)


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


def sequential_rows(part: Published, policy: GatePolicy, trials: int) -> list[list[str]]:
    """Return the verdicts and questions of `--sequential` at true drops of 0, the margin, and twice the margin."""
    rng, rows = np.random.default_rng(0), []
    pairs = [pair for pair in (RunPair(*common(pair)) for pair in part.neighbours()) if pair.room > 2 * part.margin]
    for times in (0.0, 1.0, 2.0):
        verdicts: Counter[str] = Counter()
        judged = []
        for pair in pairs:
            size = len(pair.first.ids)
            for _ in range(trials):
                verdict, questions = first_decided(
                    pair, pair.drawn(size, times * part.margin, rng), part.margin, policy
                )
                verdicts[verdict] += 1
                judged.append(questions)
        shares = [f"{100 * verdicts[verdict] / len(judged):.1f} %" for verdict in ("safe", "open", "worse")]
        counts = [f"{np.mean(judged):.0f}", str(max(judged)), str(len(judged))]
        rows.append([part.suite, f"{part.margin:g}", f"{times * part.margin:g}", *shares, *counts])
    return rows


def first_decided(pair: RunPair, questions: FloatArray, margin: float, policy: GatePolicy) -> tuple[Step, int]:
    """Return the verdict of the first look that has one, and the questions judged by then."""
    planned = len(questions)
    for count in looks(planned):
        verdict = look_result(pair.difference(questions[:count]), margin, look=(count, planned), policy=policy)
        if verdict != "open":
            return verdict, count
    return "open", planned


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
        look = (n, len(order))
        found = step(one, first.of(seen), other.of(seen), look=look, policy=policy, peers={"critical": 1})
        if settled([(check, found)]):
            return n
    return len(order)


SECTIONS = {
    "verdicts": Section("Verdicts of the default gate on known drops", verdicts),
    "looks": Section("Verdicts with --sequential on known drops", early_looks),
    "stops": Section("Early stops on the pairs as they are", early_stops),
    "visible": Section("What a comparison sees", visible),
    "direct": Section("Head to head, or over a third model", direct),
    "story": Section("A regression of three points, by design of the gate", story),
}

if __name__ == "__main__":
    published_root()
    main(SECTIONS, description=__doc__, option="--trials", simulations=100)
