"""`python -m benchmarks.gate`: the tables of docs/gate.md, from the published judgments in HARNESS_PUBLISHED.

`--only NAME` prints one section, `--trials N` simulates N gates per pair and drop (a fifth of refits).
"""

<<<<<<< HEAD
import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from harness.analysis.gate.policy import GateCheck, GatePolicy, Step, default_checks
from harness.analysis.gate.power import RunPair, power_rows
from harness.analysis.gate.sequential import SequentialCheck, look_result, looks, order_of, settled, step
from harness.pages.gate_text import POWER_HEAD, power_cells
from harness.pages.text import markdown_table
from harness.records.facts import facts_of
from harness.stats.combined import slope_between
from harness.stats.intervals import FloatArray
from harness.stats.paired import correlation, detectable, paired_difference, ratio_estimate
from harness.suites.scoring import QuestionSums, common

from .default_gate import (
    DEFAULT_HEAD,
    DROPS,
    POOLED_HEAD,
    POOLED_MARGIN,
    LengthBoard,
    SuiteTrials,
    default_rows,
    length_board,
    length_trials,
    pooled_rows,
    sum_trials,
    together,
)
from .published import FILES, Published, both_boards, published
from .subset import SUBSET_HEAD, subset_rows

SEEDS = 5
LEFT = ("suite", "metric", "with", "check", "unit")
SEEN_HEAD = ("suite", "metric", "models", "questions", "correlation of neighbours", "seen paired", "seen unpaired")
LOOKS_HEAD = ("suite", "margin", "true drop", "pass", "undecided", "fail", "questions judged, mean", "of", "trials")
SLOPES_HEAD = ("suite", "metric", "with", "models", "points per point", "logit correlation")
STOP_HEAD = ("suite", "margin", "pairs x orders", "stopped early", "questions judged, mean", "of")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100, help="simulated gates per pair and drop; a fifth of refits")
    trials = parser.parse_args().trials
    root = os.environ.get("HARNESS_PUBLISHED")
    if not root:
        sys.exit("HARNESS_PUBLISHED is not set: it names the folder of published judgments")
    policy = GatePolicy()
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(published, [Path(root)] * len(FILES), FILES))
        board = pool.submit(length_board, Path(root))
        powers = [pool.submit(power_table, part, policy, trials) for part in parts]
        looked = [pool.submit(sequential_rows, part, policy, trials) for part in parts]
        stops = [pool.submit(stopping, part, policy) for part in parts]
        subsets = [pool.submit(subset_rows, part, 15 * trials) for part in parts]
        drawn = [refitted_trials(pool, board.result(), max(4, trials // 5))]
        drawn += [summed_trials(pool, part, trials) for part in parts if part.metric == facts_of(part.suite).headline]
        drawn.sort(key=lambda suite: list(FILES).index(suite.suite))
        table("The default gate", DEFAULT_HEAD, default_rows(drawn, policy))
        table("Each check alone, at its margin and at half of it", ("suite", *POWER_HEAD), rows_of(powers))
        table("What pairing gains", SEEN_HEAD, [row for part in parts for row in seen(part)])
        table("Stopping early, known drops", LOOKS_HEAD, rows_of(looked))
        table("Stopping early, real pairs", STOP_HEAD, [stop.result() for stop in stops])
        table("Pooled", POOLED_HEAD, pooled_table(drawn, parts, trials, policy))
        table("How the boards move together", SLOPES_HEAD, slope_rows(both_boards(Path(root))))
        table("Judged on some of the questions, adjusted", SUBSET_HEAD, rows_of(subsets))


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"## {title}\n")
    print("\n".join(markdown_table(head, rows, LEFT)), end="\n\n", flush=True)


def rows_of(futures: Sequence[Future[list[list[str]]]]) -> list[list[str]]:
    return [row for future in futures for row in future.result()]


def power_table(part: Published, policy: GatePolicy, trials: int) -> list[list[str]]:
    return [
        [part.suite, *power_cells(row)]
        for margin in (part.margin, part.margin / 2)
        for row in power_rows(part.neighbours(), margin, policy, trials=trials)
    ]


def refitted_trials(pool: Executor, board: LengthBoard, trials: int) -> SuiteTrials:
    """Return draws of the length-controlled win rate, over the pairs that can lose twice its margin."""
    margin = default_checks(["alpaca_eval"])[0].margin
    pairs = board.neighbours(max(DROPS) * margin)
    jobs = [pool.submit(length_trials, pair, board.gamed, margin, trials, seed) for seed, pair in enumerate(pairs)]
    return SuiteTrials("alpaca_eval", "lc_win_rate", margin, together([job.result() for job in jobs]))


def summed_trials(pool: Executor, part: Published, trials: int) -> SuiteTrials:
    pairs = part.neighbours()
    jobs = [pool.submit(sum_trials, pair, part.margin, trials, seed) for seed, pair in enumerate(pairs)]
    return SuiteTrials(part.suite, part.metric, part.margin, together([job.result() for job in jobs]))


def pooled_table(
    drawn: Sequence[SuiteTrials], parts: Sequence[Published], trials: int, policy: GatePolicy
) -> list[list[str]]:
    """Return the sharpness of AlpacaEval and Arena-Hard alone and pooled: by fitted and by raw win rates."""
    refits, arena = (next(suite for suite in drawn if suite.suite == name) for name in ("alpaca_eval", "arena_hard"))
    raw = next(part for part in parts if part.suite == "alpaca_eval")
    sums = together([sum_trials(pair, POOLED_MARGIN, trials, 0) for pair in raw.neighbours()])
    slope = facts_of("arena_hard").metric("arena_hard").slope or 1.0
    games = ("arena_hard", arena.trials[0.0], slope)
    return [
        *pooled_rows([("lc_win_rate", refits.trials[0.0], 1.0), games], policy),
        *pooled_rows([("win_rate", sums[0.0], 1.0), games], policy),
    ]


def slope_rows(models: dict[str, tuple[float, float, float]]) -> list[list[str]]:
    """Return the slopes between the two official boards, by the estimate that `harness gate slopes` uses."""
    values = np.array(list(models.values()))
    rows = []
    for at, metric in enumerate(("lc_win_rate", "win_rate")):
        slope, correlation = slope_between(values[:, at], values[:, 2])
        rows.append(["alpaca_eval", metric, "arena_hard", str(len(models)), f"{slope:.2f}", f"{correlation:.2f}"])
    return rows


def seen(part: Published) -> list[list[str]]:
    """Return what pairing gains by the suite's metric, and by the one without threefold weights."""
    rows = [seen_row(part.suite, list(part.models.values()))]
    return [*rows, seen_row(part.suite, part.unweighted)] if part.unweighted else rows


def seen_row(suite: str, models: Sequence[QuestionSums]) -> list[str]:
    """What pairing gains on these pairs: the smallest drop seen (one-sided 5 %, power 80 %), means over pairs."""
    correlations, paired, unpaired = [], [], []
    for worse, better in pairwise(models):
        first, other = common([better, worse])
        both = paired_difference((other.above, other.below), (first.above, first.below), scale=first.scale)
        each = [ratio_estimate(one.above, one.below, scale=one.scale) for one in (first, other)]
        found = correlation(first.scores(), other.scores())
        if both is not None and each[0] is not None and each[1] is not None and found is not None:
            correlations.append(found)
            paired.append(detectable(both.se))
            unpaired.append(detectable((each[0].se ** 2 + each[1].se ** 2) ** 0.5))
    questions = max(len(one.ids) for one in models)
    numbers = [f"{np.mean(values):.2f}" for values in (correlations, paired, unpaired)]
    return [suite, models[0].metric, str(len(models)), str(questions), *numbers]


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
=======
from benchmarks.sections import main
>>>>>>> refs/heads/population

from .published import published_root
from .sections import SECTIONS

if __name__ == "__main__":
    published_root()
    main(SECTIONS, description=__doc__, option="--trials", simulations=100)
