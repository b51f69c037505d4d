"""From names to a gate's report: finds the runs of candidate and baseline, and shows the gate what they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..compare.comparison import Comparison, compare, differing
from ..compare.inputs import Found, Loaded, found_runs, run_rows, suite_of
from ..config import checked, read_yaml
from ..errors import ConfigError
from ..protocols import RunRows
from ..questions import question_sums, rules_of
from ..records import Judgment, ScoreCard
from ..store import find_cards, read_card
from .baselines import DEFAULT, baseline_folders
from .decision import checks_of, judge_gate
from .policy import GateCheck, GatePolicy
from .power import PowerRow, power_rows
from .records import Evidence, GateReport, SequentialReport
from .sequential import replay, tier_sizes, watched


@dataclass(frozen=True)
class GateOptions:
    """What the command line says besides the two runs."""

    results: Path
    force: bool = False
    sequential: bool = False
    seed: int = 0
    mirror: str | None = None


def read_policy(path: Path | None) -> GatePolicy:
    """The policy of a file; the default one for None. Raises ConfigError with the first thing wrong."""
    return GatePolicy() if path is None else checked(GatePolicy, read_yaml(path), str(path))


def baseline_runs(name: str | None, results: Path, suites: Sequence[str]) -> list[Found]:
    """The runs of a name in baselines.yaml, else a run, a card or a model; None: the baseline called "default"."""
    folders = baseline_folders(results, name or DEFAULT)
    if folders:
        found = [Found(read_card(folder / "card.json"), folder) for folder in folders]
        return [one for one in found if not suites or one.card.suite in suites]
    if name is None:
        raise ConfigError(
            f"no baseline: give --baseline RUN or MODEL, or name one with `harness gate promote` (no {DEFAULT!r} in "
            f"{results / 'baselines.yaml'})"
        )
    return found_runs(name, results, suites)


def gate_runs(candidate: str, baseline: str | None, policy: GatePolicy, options: GateOptions) -> GateReport:
    """The report on runs that are judged already."""
    suites = list(dict.fromkeys(check.suite for check in policy.checks))
    before = baseline_runs(baseline, options.results, suites)
    after = found_runs(candidate, options.results, suites)
    names = suites or [suite for suite in dict.fromkeys(one.card.suite for one in after) if _has(before, suite)]
    if not names:
        raise ConfigError(
            f"{candidate} and {baseline or DEFAULT} have no suite in common: {_listed(after)}; {_listed(before)}"
        )
    evidence: dict[str, Evidence] = {}
    reports: list[SequentialReport] = []
    checks = checks_of(policy, names)
    for suite in names:
        pair = _pair(before, after, suite)
        if pair is None:
            evidence[suite] = Evidence(comparison=None, baseline=None, candidate=None)
            continue
        if pair[0].folder is not None and pair[0].folder == pair[1].folder:
            raise ConfigError(f"{suite}: candidate and baseline are the same run, {pair[0].folder}")
        rows = run_rows(pair[0]), run_rows(pair[1])
        evidence[suite] = show_suite(*rows, suite_of(pair[0].card, options.mirror), options)
        if options.sequential:
            reports.append(replayed(*rows, checks, policy, options.seed))
    shown = after[0].card.model, before[0].card.model
    report = judge_gate(*shown, policy, evidence)
    return report.model_copy(update={"sequential": tuple(reports)})


def _has(runs: Sequence[Found], suite: str) -> bool:
    return any(one.card.suite == suite for one in runs)


def _listed(runs: Sequence[Found]) -> str:
    return ", ".join(sorted({one.card.suite for one in runs}))


def _pair(before: Sequence[Found], after: Sequence[Found], suite: str) -> tuple[Found, Found] | None:
    """The suite's two runs; of several those of one protocol. Raises ConfigError where that leaves several."""
    pairs = [(a, b) for a in before for b in after if a.card.suite == b.card.suite == suite]
    alike = [pair for pair in pairs if not differing(pair[0].card, pair[1].card)] or pairs
    if len(alike) > 1:
        listed = ", ".join(sorted({str(one.folder) for pair in alike for one in pair}))
        raise ConfigError(f"{suite}: more than one pair of runs could be meant; name two folders of: {listed}")
    return alike[0] if alike else None


def show_suite(first: RunRows, other: RunRows, loaded: Loaded, options: GateOptions) -> Evidence:
    """One suite's evidence. Runs that are not comparable are none, unless forced: the gate is then invalid."""
    apart = differing(first.card, other.card)
    if apart and not options.force:
        raise ConfigError(
            f"{first.card.suite}: baseline and candidate were not measured alike: {'; '.join(apart)}. "
            "--force gates them all the same"
        )
    comparison: Comparison = compare(first, other, prompts=loaded.prompts, suite=loaded.suite, seed=options.seed)
    return Evidence(
        comparison=comparison,
        baseline=first.card,
        candidate=other.card,
        drifted=drift_of(first.card, other.card),
        within=within_of(first, other),
    )


def drift_of(first: ScoreCard, other: ScoreCard) -> str | None:
    """A sentence where the anchors of one of the runs say that the judge moved since they were recorded."""
    moved = {
        f"{card.model}: {name}"
        for card in (first, other)
        for name in (card.judging.drifted if card.judging is not None else ())
    }
    if not moved:
        return None
    return f"{first.suite}: the judge has moved since its anchors were recorded ({', '.join(sorted(moved))})"


def within_of(first: RunRows, other: RunRows) -> Mapping[str, float]:
    """Metric -> variance between repeats of a question's difference, where both runs were judged repeatedly."""
    mine, theirs = judge_variance(first), judge_variance(other)
    return {metric: value + theirs[metric] for metric, value in mine.items() if metric in theirs}


def judge_variance(run: RunRows) -> dict[str, float]:
    """Metric -> mean over questions of the variance between repeats of the question's linearised score, in the
    metric's unit squared; empty where nothing was judged twice. One repeat's variance, not that of their mean."""
    by_repeat: dict[int, list[Judgment]] = defaultdict(list)
    for row in run.judgments:
        by_repeat[row.repeat].append(row)
    if len(by_repeat) < 2:
        return {}
    found = {}
    for rule in rules_of(run.card.suite, run.card.headline, run.judgments):
        tables = [question_sums(rule, run.answers, rows) for rows in by_repeat.values()]
        shared = set.intersection(*(set(one.ids) for one in tables))
        ids = [one for one in tables[0].ids if one in shared]
        if ids:
            scores = np.array([part.of(ids).scores() for part in tables])
            found[rule.metric] = float(scores.var(axis=0, ddof=1).mean())
    return found


def replayed(
    first: RunRows, other: RunRows, checks: Sequence[GateCheck], policy: GatePolicy, seed: int
) -> SequentialReport:
    """What stopping early would have saved on runs that are judged whole."""
    own = [check for check in checks if check.suite == first.card.suite]
    ready = watched(own, first.card, first)
    calls = len(other.judgments)
    if ready is None or not calls:
        return SequentialReport(
            suite=first.card.suite,
            questions=0,
            of=0,
            steps={},
            calls=calls,
            calls_saved=0,
            seed=seed,
            replayed=True,
            note="no early stop: a deciding check is no sum over all questions (or the run has no judgments)",
        )
    stop = replay(ready, first, other, policy=policy, peers=tier_sizes(checks), seed=seed)
    needed = round(calls * stop.questions / max(1, stop.of))
    return SequentialReport(
        suite=first.card.suite,
        questions=stop.questions,
        of=stop.of,
        steps=stop.steps,
        calls=needed,
        calls_saved=calls - needed,
        seed=seed,
        replayed=True,
    )


def power_of(
    baseline: str,
    candidates: Sequence[str],
    policy: GatePolicy,
    results: Path,
    *,
    trials: int,
    questions: int | None,
    seed: int,
) -> list[PowerRow]:
    """The gate's self-test on pairs of real runs, one set of rows a check that is a sum over questions.

    `candidates` empty: every other run of the baseline's protocol. Raises ConfigError without a pair.
    """
    rows: list[PowerRow] = []
    for found in found_runs(baseline, results, [check.suite for check in policy.checks]):
        others = _partners(found, candidates, results)
        if not others:
            continue
        first = run_rows(found)
        rules = {rule.metric: rule for rule in rules_of(first.card.suite, first.card.headline, first.judgments)}
        mine = {name: question_sums(rule, first.answers, first.judgments) for name, rule in rules.items()}
        runs = [run_rows(one) for one in others]
        for check in checks_of(policy, [first.card.suite]):
            rule = rules.get(check.metric or first.card.headline)
            if check.suite != first.card.suite or rule is None:
                continue
            pairs = [(mine[rule.metric], question_sums(rule, run.answers, run.judgments)) for run in runs]
            rows += power_rows(pairs, check.margin, policy, trials=trials, questions=questions, seed=seed)
    if not rows:
        raise ConfigError(f"no run under {results} can be paired with {baseline}: import or run one of its protocol")
    return rows


def _partners(found: Found, candidates: Sequence[str], results: Path) -> list[Found]:
    if candidates:
        runs = [one for name in candidates for one in found_runs(name, results)]
    else:
        runs = [Found(read_card(file), file.parent) for file in find_cards(results)]
    return [one for one in runs if one.folder != found.folder and not differing(one.card, found.card)]
