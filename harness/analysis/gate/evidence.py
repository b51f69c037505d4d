"""Gate finished runs: find those of candidate and baseline, collect the evidence of each suite, and judge it.

Evidence is a comparison, a sentence if the judge drifted, and the judge's own noise if judgments were repeated.
`results/baselines.yaml` states which run is the baseline of which suite, decided by whom, when and why:

baselines:
  default:                     # a name, used by --baseline NAME
    arena_hard@official-1:
      run: runs/model/arena_hard@official-1/0123456789ab
      model: model
      protocol: 0123456789ab
      by: a person
      when: 2026-01-31T12:00:00+00:00
      why: release 1.2
history: [...]                 # replaced baselines, oldest first
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml

from ...records import Judgment, Record, ScoreCard
from ...records.documents import read_yaml
from ...records.errors import ConfigError
from ...records.facts import higher_is_better
from ...records.protocols import RunRows
from ...records.settings import checked
from ...store import find_cards, locked, make_folder, read_card, write_atomic
from ...suites.scoring import common, question_sums, rules_of, run_sums
from ..comparison import Population, compare, differing
from ..finished_runs import (
    Loaded,
    StoredRun,
    covariate_runs,
    find_runs,
    refuse_different,
    run_rows,
    shown_names,
    suite_of,
)
from ..games import games_comparison, stored_games, suite_of_games
from ..population import on_these
from .decision import checks_of, judge_gate
from .policy import (
    Evidence,
    GateCheck,
    GatePolicy,
    GateReport,
    JudgeNoise,
    SequentialReport,
    refuse_unknown_metrics,
)
from .power import PowerRow, power_rows
from .sequential import Stop, replay, tier_sizes, watched

# ------------------------------------------------------------------------------------------------------------ baselines


DEFAULT = "default"


class Promoted(Record):
    """A run promoted to baseline."""

    run: str
    """Its folder, relative to the results folder if inside it."""
    model: str
    protocol: str
    by: str
    when: str
    """ISO 8601, UTC."""
    why: str


class Replaced(Promoted):
    name: str
    suite: str


class Baselines(Record):
    baselines: dict[str, dict[str, Promoted]] = {}
    """Name -> `suite@version` -> run."""
    history: tuple[Replaced, ...] = ()


def baselines_file(results: Path) -> Path:
    return results / "baselines.yaml"


def read_baselines(results: Path) -> Baselines:
    """Return the baselines, or none if the file does not exist. Raise ConfigError if it is invalid."""
    path = baselines_file(results)
    return checked(Baselines, read_yaml(path), str(path)) if path.exists() else Baselines()


def baseline_folders(results: Path, name: str) -> list[Path]:
    """Return the run folders of a named baseline, or none if there is no such name."""
    # an absolute path stays absolute
    return [results / run.run for run in read_baselines(results).baselines.get(name, {}).values()]


def promote(
    results: Path, runs: Sequence[tuple[ScoreCard, Path]], *, name: str, by: str, why: str, now: datetime | None = None
) -> Baselines:
    """Make these runs (card, folder) the baselines of their suites. Replaced ones move to the history.

    The file is replaced atomically. Raise ConfigError without a reason or if a run is incomplete or full of
    empty answers.
    """
    if not why.strip() or not by.strip():
        raise ConfigError("promoting a baseline needs --why and --by: the reason, and who decided")
    incomplete = next((card for card, _ in runs if not card.complete), None)
    if incomplete is not None:
        raise ConfigError(f"the run of {incomplete.model} on {incomplete.suite} is incomplete and cannot be a baseline")
    hollow = next((card for card, _ in runs if not card.is_mostly_text), None)
    if hollow is not None:
        raise ConfigError(
            f"{hollow.empty_share:.0%} of the answers of {hollow.model} on {hollow.suite} are empty, so it cannot be a "
            "baseline"
        )
    when = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    make_folder(results)
    with locked(results / ".baselines.lock"):  # a second promotion must read what the first one wrote
        current = read_baselines(results)
        table, history = dict(current.baselines.get(name, {})), list(current.history)
        for card, folder in runs:
            key, run = f"{card.suite}@{card.suite_version}", _relative(folder, results)
            if key in table:
                history.append(Replaced(name=name, suite=key, **table[key].model_dump()))
            table[key] = Promoted(run=run, model=card.model, protocol=card.protocol_sha, by=by, when=when, why=why)
        updated = Baselines(baselines={**current.baselines, name: table}, history=tuple(history))
        text = yaml.safe_dump(updated.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(baselines_file(results), text)
    return updated


def _relative(folder: Path, results: Path) -> str:
    resolved, root = folder.resolve(), results.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else str(resolved)


# ------------------------------------------------------------------------------------------------------------- evidence


@dataclass(frozen=True)
class GateOptions:
    """The options of the command line besides the two runs."""

    results: Path
    force: bool = False
    sequential: bool = False
    seed: int = 0
    mirror: str | None = None


def gate_runs(candidate: str, baseline: str | None, policy: GatePolicy, options: GateOptions) -> GateReport:
    """Return the report on runs that are already judged."""
    suites = policy.suites
    # games are between the answers of runs that were asked the games' questions
    base_suites = list(dict.fromkeys(suite_of_games(suite) or suite for suite in suites))
    baselines = baseline_runs(baseline, options.results, base_suites)
    candidates = find_runs(candidate, options.results, base_suites)
    refuse_unknown_metrics(policy, [run.card for run in (*baselines, *candidates)])
    names = suites or [name for name in _suites(candidates) if name in _suites(baselines)]
    if not names:
        raise ConfigError(
            f"{candidate} and {baseline or DEFAULT} have no suite in common: {', '.join(sorted(_suites(candidates)))}; "
            f"{', '.join(sorted(_suites(baselines)))}"
        )
    evidence: dict[str, Evidence] = {}
    reports: list[SequentialReport] = []
    cards = {run.card.suite: run.card for run in baselines}
    checks = checks_of(policy, {name: cards.get(name) for name in names})
    for suite in names:
        if suite_of_games(suite) is not None:
            if policy.population == "these":
                raise ConfigError(f"{suite}: games are judged for all questions of the kind: use `population: all`")
            evidence[suite] = games_evidence(suite, baselines, candidates, options)
            continue
        pair = _pair(baselines, candidates, suite)
        if pair is None:
            evidence[suite] = Evidence(comparison=None, baseline=None, candidate=None)
            continue
        rows = run_rows(pair[0]), run_rows(pair[1])
        _refuse_copy(*rows)
        loaded = suite_of(pair[0].card, options.mirror, folder=pair[0].folder)
        evidence[suite] = suite_evidence(*rows, loaded, options, population=policy.population)
        if options.sequential:
            reports.append(replayed(*rows, checks, policy, options.seed))
    names = shown_names([candidates[0], baselines[0]])
    report = judge_gate(names[0], names[1], policy, evidence)
    lacking = [] if suites else [suite for suite in _suites(baselines) if suite not in _suites(candidates)]
    notes = report.notes
    if lacking:
        notes = (*notes, f"not compared: {names[1]} has runs of {', '.join(lacking)}, {names[0]} has none")
    return report.model_copy(update={"sequential": tuple(reports), "notes": notes})


def _suites(runs: Sequence[StoredRun]) -> list[str]:
    return list(dict.fromkeys(run.card.suite for run in runs))


def read_policy(path: Path | None) -> GatePolicy:
    """Return the policy of a file, or the default one for None. Raise ConfigError if the file is empty or invalid."""
    if path is None:
        return GatePolicy()
    content = read_yaml(path)
    if not content:  # a truncated or forgotten file must not pass for a decision to use the defaults
        raise ConfigError(
            f"{path} is empty: write `checks: [{{suite: SUITE, margin: 5}}]` into it, or drop --policy for the defaults"
        )
    return checked(GatePolicy, content, str(path))


def baseline_runs(name: str | None, results: Path, suites: Sequence[str]) -> list[StoredRun]:
    """Return the runs of a name in baselines.yaml, else of a run, card or model. None means the baseline "default"."""
    folders = baseline_folders(results, name or DEFAULT)
    if folders:
        runs = [StoredRun(read_card(folder / "card.json"), folder) for folder in folders]
        return [run for run in runs if not suites or run.card.suite in suites]
    if name is None:
        raise ConfigError(
            f"no baseline: pass --baseline RUN or MODEL, or promote one with `harness gate promote` (no {DEFAULT!r} in "
            f"{results / 'baselines.yaml'})"
        )
    return find_runs(name, results, suites)


def _pair(
    baselines: Sequence[StoredRun], candidates: Sequence[StoredRun], suite: str
) -> tuple[StoredRun, StoredRun] | None:
    """Return the suite's two runs, preferring pairs of one protocol.

    Raise ConfigError if several pairs remain, or if both are the same run.
    """
    pairs = [(a, b) for a in baselines for b in candidates if a.card.suite == b.card.suite == suite]
    alike = [pair for pair in pairs if not differing(pair[0].card, pair[1].card)] or pairs
    if len(alike) > 1:
        listed = ", ".join(sorted({str(run.folder) for pair in alike for run in pair}))
        raise ConfigError(f"{suite}: more than one pair of runs matches; pass two of these folders: {listed}")
    if not alike:
        return None
    baseline, candidate = alike[0]
    # a run compared with itself would always pass
    if baseline.folder is not None and baseline.folder == candidate.folder:
        raise ConfigError(f"{suite}: candidate and baseline are the same run, {baseline.folder}")
    return baseline, candidate


def _refuse_copy(baseline: RunRows, candidate: RunRows) -> None:
    """Raise ConfigError if the candidate's run is a copy of the baseline's, which would always pass."""
    run_id = baseline.card.provenance.get("run_id")
    is_copy = run_id is not None and run_id == candidate.card.provenance.get("run_id")
    # the same model may have been run twice, with other calls
    if is_copy and baseline.judgments and baseline.judgments == candidate.judgments:
        raise ConfigError(
            f"{baseline.card.suite}: candidate and baseline are copies of one run, {run_id}: every verdict is the same"
        )


def games_evidence(
    suite: str, baselines: Sequence[StoredRun], candidates: Sequence[StoredRun], options: GateOptions
) -> Evidence:
    """Return the evidence of stored games, or how to play them. Raise ConfigError for several runs."""
    games = stored_games(suite, baselines, candidates, options.results)
    if len(games) > 1:
        listed = ", ".join(sorted(str(run.folder) for run in games))
        raise ConfigError(f"{suite}: {len(games)} runs of these games are stored; pass one as --candidate: {listed}")
    if not games:
        play = f"harness compare {baselines[0].card.model} {candidates[0].card.model} --suite {suite_of_games(suite)}"
        note = f"no games of these answers are stored: play them with `{play} --head-to-head --judge JUDGE`"
        return Evidence(comparison=None, baseline=None, candidate=None, note=note)
    rows = run_rows(games[0])
    return Evidence(comparison=games_comparison(rows, seed=options.seed), baseline=None, candidate=rows.card)


def suite_evidence(
    baseline: RunRows, candidate: RunRows, loaded: Loaded, options: GateOptions, *, population: Population = "all"
) -> Evidence:
    """Return one suite's evidence. Raise ConfigError for runs that are not comparable, unless forced.

    Raise it, too, for the population "these" if a question has one answer and one judgment.
    """
    refuse_different(baseline, candidate, ("baseline", "candidate"), force=options.force)
    comparison = compare(
        baseline,
        candidate,
        prompts=loaded.prompts,
        suite=loaded.suite,
        covariates=() if population == "these" else covariate_runs(baseline, candidate, options.results),
        seed=options.seed,
    )
    if population == "these":
        comparison = on_these(comparison, baseline, candidate, loaded.prompts)
    return Evidence(
        comparison=comparison,
        baseline=baseline.card,
        candidate=candidate.card,
        drifted=drift_of(baseline.card, candidate.card),
        # on these questions the judges' noise is part of the error, not a part of what other questions add
        noise={} if population == "these" else noise_of(baseline, candidate),
    )


def drift_of(baseline: ScoreCard, candidate: ScoreCard) -> str | None:
    """Return a sentence if the anchors of a run show that the judge moved since they were recorded."""
    moved = {
        f"{card.model}: {name}"
        for card in (baseline, candidate)
        for name in (card.judging.drifted if card.judging is not None else ())
    }
    if not moved:
        return None
    return f"{baseline.suite}: the judge has moved since its anchors were recorded ({', '.join(sorted(moved))})"


def noise_of(baseline: RunRows, candidate: RunRows) -> Mapping[str, JudgeNoise]:
    """Return metric -> the judges' part of a question's difference, if both runs were judged repeatedly."""
    runs = [(judge_variance(run), len({row.repeat for row in run.judgments})) for run in (baseline, candidate)]
    return {
        metric: JudgeNoise(
            single=sum(variances[metric] for variances, _ in runs),
            included=sum(variances[metric] / repeats for variances, repeats in runs),
        )
        for metric in runs[0][0].keys() & runs[1][0].keys()
    }


def judge_variance(run: RunRows) -> dict[str, float]:
    """Return metric -> mean over questions of the variance between repeats of the question's linearised score.

    In the metric's unit squared, for one repeat, not for their mean; empty if nothing was judged twice.
    """
    if run.audit is not None:
        return {}  # repeats of both judges would have to be told apart from the audit's own error
    by_repeat: dict[int, list[Judgment]] = defaultdict(list)
    for row in run.judgments:
        by_repeat[row.repeat].append(row)
    # one judgment per question says nothing about the judge's own noise
    if len(by_repeat) < 2:
        return {}
    variances = {}
    for rule in rules_of(run.card.suite, run.card.headline, run.judgments):
        tables = common([question_sums(rule, run.answers, rows) for rows in by_repeat.values()])
        if tables[0].ids:
            above, below = np.array([table.above for table in tables]), np.array([table.below for table in tables])
            # the terms whose spread is the error of the difference, where a clear win counts threefold
            scores = rule.scale * (above - above.sum() / below.sum() * below) / below.mean()
            variances[rule.metric] = float(scores.var(axis=0, ddof=1).mean())
    return variances


def replayed(
    baseline: RunRows, candidate: RunRows, checks: Sequence[GateCheck], policy: GatePolicy, seed: int
) -> SequentialReport:
    """Return what stopping early would have saved on completely judged runs."""
    suite, calls = baseline.card.suite, len(candidate.judgments)
    ready = watched([check for check in checks if suite in check.suites], baseline.card, baseline)
    if isinstance(ready, str) or not calls:
        reason = ready if isinstance(ready, str) else "the run has no judgments"
        note: str | None = f"no early stop: {reason}"
        stop, needed = Stop(0, 0, {}), calls
    else:
        note = None
        stop = replay(ready, baseline, candidate, policy=policy, peers=tier_sizes(checks), seed=seed)
        needed = round(calls * stop.questions / max(1, stop.of))
    return SequentialReport(
        suite=suite,
        questions=stop.questions,
        of=stop.of,
        steps=stop.steps,
        calls=needed,
        calls_saved=calls - needed,
        seed=seed,
        replayed=True,
        note=note,
    )


@dataclass(frozen=True)
class PowerOptions:
    """How often and with what the gate is tried."""

    trials: int
    """Simulated gates per drop and pair."""
    questions: int | None = None
    """Drawn per gate; None: as many as the runs have."""
    seed: int = 0


def power_of(
    baseline: str, candidates: Sequence[str], policy: GatePolicy, results: Path, options: PowerOptions
) -> list[PowerRow]:
    """Run the gate's self-test on pairs of real runs: one set of rows per check that is a sum over questions.

    If `candidates` is empty, use every other run of the baseline's protocol. Raise ConfigError without a pair
    or for a policy of the population "these".
    """
    if policy.population == "these":
        raise ConfigError("gate power resamples questions, so its policy must have `population: all`, not these")
    rows: list[PowerRow] = []
    runs_of_baseline = find_runs(baseline, results, policy.suites)
    refuse_unknown_metrics(policy, [run.card for run in runs_of_baseline])
    for baseline_run in runs_of_baseline:
        partners = _partners(baseline_run, candidates, results)
        if not partners:
            continue
        first = run_rows(baseline_run)
        rules = {rule.metric: rule for rule in rules_of(first.card.suite, first.card.headline, first.judgments)}
        baseline_sums = {name: run_sums(rule, first) for name, rule in rules.items()}
        runs = [run_rows(partner) for partner in partners]
        for check in checks_of(policy, {first.card.suite: first.card}):
            rule = rules.get(check.metric or first.card.headline)
            if check.suite != first.card.suite or rule is None or not higher_is_better(first.card, rule.metric):
                continue  # the drops put into the questions are drops
            pairs = [(baseline_sums[rule.metric], run_sums(rule, run)) for run in runs]
            if options.questions is not None and options.questions < check.min_questions:
                raise ConfigError(
                    f"{options.questions} questions decide nothing of {check.suite} {rule.metric}: its min_questions "
                    f"is {check.min_questions}. Draw as many, or lower it in the policy."
                )
            rows += power_rows(
                pairs, check.margin, policy, trials=options.trials, questions=options.questions, seed=options.seed
            )
    if not rows:
        raise ConfigError(f"no run under {results} can be paired with {baseline}; import or run one of its protocol")
    return rows


def _partners(baseline_run: StoredRun, candidates: Sequence[str], results: Path) -> list[StoredRun]:
    """Return the candidates' runs of the baseline's protocol, or every such run if none is named."""
    if candidates:
        runs = [run for name in candidates for run in find_runs(name, results)]
    else:
        runs = [StoredRun(read_card(file), file.parent) for file in find_cards(results)]
    return [run for run in runs if run.folder != baseline_run.folder and not differing(run.card, baseline_run.card)]
