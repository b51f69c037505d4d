"""Gate several candidates by their finished runs: which of them pass, and which of those may be the best.

Shipping any of k candidates gives a bad one k chances to pass, so p of "passes" (the largest p of its critical checks
and their floors, as all of them must hold) is adjusted by Holm over the candidates. Those that pass are then compared
with the best of them, simultaneously (`..best`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...records import Record
from ...records.errors import ConfigError
from ...stats.paired import holm
from ..best import BestOf, best_of_models
from ..finished_runs import PairOptions, find_runs, shown_names
from ..games import suite_of_games
from .evidence import GateOptions, gate_runs
from .policy import EXIT_CODES, GatePolicy, GateReport, Outcome

SEVERITY: tuple[Outcome, ...] = ("pass", "invalid", "fail", "inconclusive")
"""The outcome of all candidates together is the first of these that one of them has."""


class CandidatesReport(Record):
    """The verdict on each candidate, and what may be shipped."""

    schema_version: Literal[1] = 1
    baseline: str
    outcome: Outcome
    """pass if any candidate passes."""
    reports: tuple[GateReport, ...]
    """One per candidate, in the order in which they were named; `p_pass` after Holm over the candidates."""
    best: tuple[BestOf, ...] = ()
    """Per suite, those that pass compared with the best of them; empty if fewer than two pass."""
    shippable: tuple[str, ...] = ()
    """Those that pass and are shown to be worse than the best on no suite."""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


def gate_candidates(
    candidates: Sequence[str], baseline: str | None, policy: GatePolicy, options: GateOptions
) -> CandidatesReport:
    """Return the report on candidates whose runs are judged, each named once. Raise ConfigError as `gate_runs` does."""
    twice = next((name for name in candidates if candidates.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--candidates names {twice} twice: name each candidate once")
    if len(candidates) < 2:
        raise ConfigError("--candidates takes two or more names, as in --candidates a,b; one is --candidate a")
    labels = shown_names([find_runs(name, options.results)[0] for name in candidates])
    reports = [gate_runs(name, baseline, policy, options) for name in candidates]
    reports = [
        report.model_copy(update={"candidate": label})
        for report, label in zip(_adjusted(reports, policy), labels, strict=True)
    ]
    passing = {
        name: label for name, label, report in zip(candidates, labels, reports, strict=True) if report.outcome == "pass"
    }
    best: list[BestOf] = []
    if len(passing) > 1:
        checked = policy.suites or list(dict.fromkeys(check.suite for report in reports for check in report.checks))
        suites = [suite for suite in checked if suite_of_games(suite) is None]
        pair_options = PairOptions(suites, force=options.force, mirror=options.mirror, seed=options.seed)
        best = best_of_models(list(passing), options.results, pair_options, labels=list(passing.values()))
    return CandidatesReport(
        baseline=reports[0].baseline,
        outcome=next(outcome for outcome in SEVERITY if any(report.outcome == outcome for report in reports)),
        reports=tuple(reports),
        best=tuple(best),
        shippable=tuple(label for label in passing.values() if all(label in row.tied for row in best)),
    )


def _adjusted(reports: Sequence[GateReport], policy: GatePolicy) -> list[GateReport]:
    """Return the reports with p of passing after Holm. Those that pass only without it become inconclusive."""
    adjusted = holm([_p_pass(report) for report in reports])
    changed = []
    for report, p_value in zip(reports, adjusted, strict=True):
        update: dict[str, object] = {"p_pass": p_value}
        if report.outcome == "pass" and p_value > policy.alpha:
            reason = (
                f"passes alone, but not as one of {len(reports)} candidates: p {p_value:.2g} after Holm, "
                f"alpha {policy.alpha:g}"
            )
            update |= {"outcome": "inconclusive", "reasons": (reason, *report.reasons)}
        changed.append(report.model_copy(update=update))
    return changed


def _p_pass(report: GateReport) -> float:
    """Return p of "a critical check is not safe, or its floor not reached", or 0 if nothing is tested."""
    critical = [check for check in report.checks if check.tier == "critical"]
    tests = [check.p_safe for check in critical]
    tests += [check.p_floor for check in critical if check.floor is not None]
    return max((1.0 if p_value is None else p_value for p_value in tests), default=0.0)
