"""The sections of `make bench-gate`: the tables of docs/gate.md, docs/statistics.md and docs/jury.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from benchmarks.sections import Section
from harness.analysis.gate.policy import GateCheck, GatePolicy, Step, default_checks
from harness.analysis.gate.power import RunPair, power_rows
from harness.analysis.gate.sequential import SequentialCheck, look_result, looks, order_of, settled, step
from harness.pages.gate_text import POWER_HEAD, power_cells
from harness.pages.text import markdown_table
from harness.records.facts import facts_of
from harness.stats.combined import slope_between
from harness.stats.intervals import FloatArray
from harness.stats.paired import correlation, detectable, non_inferiority, paired_difference, ratio_estimate
from harness.suites.scoring import QuestionSums, common

from .audits import audit_lines
from .best import best_lines
from .default_gate import (
    DEFAULT_HEAD,
    DROPS,
    POOLED_HEAD,
    POOLED_MARGIN,
    SuiteTrials,
    default_rows,
    length_board,
    length_trials,
    pooled_rows,
    sum_trials,
    together,
)
from .direct import direct
from .few_lengths import few_length_lines
from .published import FILES, Published, both_boards, published, published_root
from .story import story
from .subset import SUBSET_HEAD, subset_rows

SEEDS = 5
EARLIER = {"mt_bench": 0.75, "alpaca_eval": 4.0, "arena_hard": 6.5}
"""Margins of version 0.2.0 of the metrics that can be tested early."""
LEFT = ("suite", "metric", "with", "check", "unit", "limited")
SEEN_HEAD = ("suite", "metric", "models", "questions", "correlation of neighbours", "seen paired", "seen unpaired")
LOOKS_HEAD = (
    *("suite", "margin", "true drop", "pass", "undecided", "fail", "questions judged, mean", "of", "trials"),
    *("all judged: pass", "fail"),
)
SLOPES_HEAD = ("suite", "metric", "with", "models", "points per point", "logit correlation")
STOP_HEAD = ("suite", "margin", "pairs x orders", "stopped early", "questions judged, mean", "of")


def default_gate(trials: int) -> list[str]:
    """Return the default gate's table and the pooled checks', which share the slow draws of refits."""
    drawn = drawn_trials(trials)
    lines = markdown_table(DEFAULT_HEAD, default_rows(drawn, GatePolicy()), LEFT)
    return [*lines, "", "### Pooled", "", *pooled(drawn, trials)]


def verdicts(trials: int) -> list[str]:
    rows = [row for part in map(published, FILES) for row in power_table(part, GatePolicy(), trials)]
    return markdown_table(("suite", *POWER_HEAD), rows, LEFT)


def visible(_: int) -> list[str]:
    return markdown_table(SEEN_HEAD, [row for part in map(published, FILES) for row in seen(part)], LEFT)


def early_looks(trials: int) -> list[str]:
    """Return the tables at today's margins and at those of 0.2.0, where they differ."""
    parts = [published(suite) for suite in FILES]
    earlier = [replace(part, margin=EARLIER[part.suite]) for part in parts if part.margin != EARLIER[part.suite]]
    tables = [
        [row for part in group for row in sequential_rows(part, GatePolicy(), trials)] for group in (parts, earlier)
    ]
    now, before = (markdown_table(LOOKS_HEAD, rows, LEFT) for rows in tables)
    return [*now, "", "### At the margins of 0.2.0", "", *before]


def early_stops(_: int) -> list[str]:
    return markdown_table(STOP_HEAD, [stopping(part, GatePolicy()) for part in map(published, FILES)], LEFT)


def pooled(drawn: Sequence[SuiteTrials], trials: int) -> list[str]:
    """Return the sharpness of AlpacaEval and Arena-Hard alone and pooled: by fitted and by raw win rates."""
    policy, raw = GatePolicy(), published("alpaca_eval")
    refits, arena = (next(suite for suite in drawn if suite.suite == name) for name in ("alpaca_eval", "arena_hard"))
    sums = together([sum_trials(pair, POOLED_MARGIN, trials, 0) for pair in raw.neighbours()])
    slope = facts_of("arena_hard").metric("arena_hard").slope or 1.0
    games = ("arena_hard", arena.trials[0.0], slope)
    rows = [
        *pooled_rows([("lc_win_rate", refits.trials[0.0], 1.0), games], policy),
        *pooled_rows([("win_rate", sums[0.0], 1.0), games], policy),
    ]
    return markdown_table(POOLED_HEAD, rows, LEFT)


def slopes(_: int) -> list[str]:
    return markdown_table(SLOPES_HEAD, slope_rows(both_boards(published_root())), LEFT)


def subsets(trials: int) -> list[str]:
    rows = [row for part in map(published, FILES) for row in subset_rows(part, 15 * trials)]
    return markdown_table(SUBSET_HEAD, rows, LEFT)


def power_table(part: Published, policy: GatePolicy, trials: int) -> list[list[str]]:
    return [
        [part.suite, *power_cells(row)]
        for margin in (part.margin, part.margin / 2)
        for row in power_rows(part.neighbours(), margin, policy, trials=trials)
    ]


def drawn_trials(trials: int) -> list[SuiteTrials]:
    """Return draws of the default gate's critical checks, in the order of the suites."""
    headlines = [suite for suite in FILES if published(suite).metric == facts_of(suite).headline]
    drawn = [refitted_trials(trials), *(summed_trials(suite, trials) for suite in headlines)]
    return sorted(drawn, key=lambda suite: list(FILES).index(suite.suite))


def refitted_trials(trials: int) -> SuiteTrials:
    """Return draws of the length-controlled win rate, over the pairs that can lose twice its margin."""
    board, count = length_board(published_root()), max(4, trials // 5)
    margin = default_checks(["alpaca_eval"])[0].margin
    pairs = board.neighbours(max(DROPS) * margin)
    draws = [length_trials(pair, board.gamed, margin, count, seed) for seed, pair in enumerate(pairs)]
    return SuiteTrials("alpaca_eval", "lc_win_rate", margin, together(draws))


def summed_trials(suite: str, trials: int) -> SuiteTrials:
    part = published(suite)
    draws = [sum_trials(pair, part.margin, trials, seed) for seed, pair in enumerate(part.neighbours())]
    return SuiteTrials(part.suite, part.metric, part.margin, together(draws))


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
    """Return the verdicts and questions of `--sequential` at true drops of 0, the margin, and twice the margin.

    The last two columns are the ordinary test's on all questions of the same draws: no early stop can see more.
    """
    rng, rows = np.random.default_rng(0), []
    pairs = [pair for pair in (RunPair(*common(pair)) for pair in part.neighbours()) if pair.room > 2 * part.margin]
    for times in (0.0, 1.0, 2.0):
        verdicts: Counter[str] = Counter()
        of_all: Counter[str] = Counter()
        judged = []
        for pair in pairs:
            size = len(pair.first.ids)
            for _ in range(trials):
                questions = pair.drawn(size, times * part.margin, rng)
                verdict, count = first_decided(pair, questions, part.margin, policy)
                verdicts[verdict] += 1
                of_all[non_inferiority(pair.difference(questions), part.margin, alpha=policy.alpha).answer] += 1
                judged.append(count)
        shares = [f"{100 * verdicts[verdict] / len(judged):.1f} %" for verdict in ("safe", "open", "worse")]
        counts = [f"{np.mean(judged):.0f}", str(max(judged)), str(len(judged))]
        whole = [f"{100 * of_all[verdict] / len(judged):.1f} %" for verdict in ("safe", "worse")]
        rows.append([part.suite, f"{part.margin:g}", f"{times * part.margin:g}", *shares, *counts, *whole])
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
    "default": Section("The default gate, and pooled checks", default_gate),
    "verdicts": Section("Each check alone, at its margin and at half of it", verdicts),
    "visible": Section("What pairing gains", visible),
    "looks": Section("Stopping early, known drops", early_looks),
    "stops": Section("Stopping early, real pairs", early_stops),
    "slopes": Section("How the boards move together", slopes),
    "subsets": Section("Judged on some of the questions, adjusted", subsets),
    "direct": Section("Head to head, or over a third model", direct),
    "story": Section("A regression of three points, by design of the gate", story),
    "best": Section("Which of several may be the best", best_lines),
    "lengths": Section("Length-controlled, with few instructions", few_length_lines),
    "audits": Section("Audits by an expensive judge, and a cyclic jury", audit_lines),
}
