"""Serve a candidate and judge its answers in blocks until the verdict is safe: `harness gate --sequential --live`.

Pipeline and store are those of `harness run`: judgments are kept, and the same command resumes. A suite that stopped
early leaves an incomplete card, which is never ranked; `harness run` completes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from ...judging.jury import audit_rows, scored
from ...records import Prompt, ScoreCard
from ...records.errors import ConfigError
from ...records.facts import Tier
from ...records.protocols import RunRows
from ...running.card import score_card
from ...running.execute import KeptServer, end_sessions
from ...running.pipeline import ProgressCallback, SuiteRun, current_judgments, evaluate, waits
from ...running.plan import Plan, SuitePlan
from ...running.same_model import check_same_model
from ...store.provenance import provenance
from ...suites.scoring import question_sums
from ..comparison import differing_protocols
from ..finished_runs import Loaded, StoredRun, run_rows
from ..leaderboard import told_apart
from .decision import checks_of, judge_gate
from .evidence import GateOptions, suite_evidence
from .policy import Evidence, GateCheck, GatePolicy, GateReport, SequentialReport, Step
from .sequential import SequentialCheck, looks, order_of, settled, step, tier_sizes, watched


@dataclass
class LiveJudging:
    """The state of one suite's judging."""

    run: SuiteRun
    baseline: RunRows
    checks: list[SequentialCheck] | None
    """None: no early stop, all questions in one block."""
    order: list[Prompt]
    ends: Iterator[int]
    note: str | None = None
    """Why an early stop that was asked for is not possible."""
    judged: int = 0
    steps: dict[str, Step] = field(default_factory=dict)

    def next_block(self) -> SuiteRun | None:
        """Return a run of the next questions, or None after the last block."""
        end = next(self.ends, None)
        if end is None:
            return None
        start, self.judged = self.judged, end
        return self.run.only(self.order[start:end])

    @property
    def seen(self) -> tuple[Prompt, ...]:
        """Return the prompts of the blocks so far, in the suite's order, because a seeded bootstrap depends on it."""
        prompt_ids = {prompt.id for prompt in self.order[: self.judged]}
        return tuple(prompt for prompt in self.run.plan.prompts if prompt.id in prompt_ids)


def baselines_of(plan: Plan, baseline_runs: Sequence[StoredRun], *, force: bool) -> dict[str, RunRows]:
    """Return suite -> the baseline's run with the candidate's protocol.

    Raise ConfigError if there is none, before any call is made.
    """
    if plan.own_runners:  # they ask and score in one go, so nothing can be judged in blocks
        raise ConfigError(f"{plan.own_runners[0].name} runs by itself: use harness run, then gate it without --live")
    chosen = {}
    for suite_plan in plan.suites:
        suite = suite_plan.suite
        runs = [run for run in baseline_runs if (run.card.suite, run.card.suite_version) == (suite.name, suite.version)]
        apart = [_differences(run.card.protocol, suite_plan) for run in runs]
        alike = [run for run, differences in zip(runs, apart, strict=True) if not differences or force]
        if not runs:
            raise ConfigError(f"the baseline has no run of {suite.name} ({suite.version})")
        if not alike:
            raise ConfigError(f"{suite.name}: the baseline was measured differently: {'; '.join(apart[0])}")
        chosen[suite.name] = run_rows(alike[0])
    return chosen


def _differences(protocol: Mapping[str, JsonValue], suite_plan: SuitePlan) -> list[str]:
    """Return sentences on what differs, except the limit of a candidate if the baseline has none."""
    planned = dict(suite_plan.protocol)
    if "limit" not in protocol:
        # the common questions are compared, and the baseline has all that a limited candidate is asked
        planned.pop("limit", None)
    return differing_protocols(protocol, planned)


async def gate_live(
    plan: Plan,
    runs: Sequence[SuiteRun],
    baselines: Mapping[str, RunRows],
    policy: GatePolicy,
    options: GateOptions,
    *,
    on_progress: ProgressCallback = lambda _: None,
) -> GateReport:
    """Answer and judge in blocks, write the cards and return the report. Sessions are recorded even if interrupted."""
    checks = checks_of(policy, {suite: rows.card for suite, rows in baselines.items()})
    judgings = [_live_judging(run, baselines[run.plan.suite.name], checks, options) for run in runs]
    started = time.monotonic()
    await check_same_model(plan.backend, runs, assume_same=plan.spec.same_model)
    try:
        await _judge_in_blocks(plan, judgings, checks, policy, on_progress)
    finally:
        end_sessions(runs, time.monotonic() - started)
    environment = await asyncio.to_thread(provenance)
    evidence: dict[str, Evidence] = {}
    for judging in judgings:
        # the stored card counts all questions, so an early stop leaves it incomplete and never ranked
        judging.run.store.write_card(score_card(plan, judging.run, environment))
        seen = judging.run.only(judging.seen)  # later prompts are not missing
        card = score_card(plan, seen, environment)
        candidate, loaded = _rows(judging, card), Loaded(judging.run.plan.suite, judging.seen)
        so_far = suite_evidence(_seen(judging), candidate, loaded, options, population=policy.population)
        evidence[judging.run.plan.suite.name] = so_far.model_copy(update={"steps": dict(judging.steps)})
    run_id, baseline = runs[0].plan.folder.name, next(iter(baselines.values())).card
    names = told_apart([(plan.spec.model.label, run_id), (baseline.model, str(baseline.provenance.get("run_id", "")))])
    report = judge_gate(names[0], names[1], policy, evidence)
    return report.model_copy(
        update={"sequential": tuple(_sequential_report(judging, options.seed) for judging in judgings)}
    )


def _seen(judging: LiveJudging) -> RunRows:
    """Return the baseline, after an early stop without the questions that the candidate was not asked any more.

    An adjustment for the missing ones would ignore that the verdict itself ended the judging.
    """
    if judging.judged == len(judging.order):
        return judging.baseline
    prompt_ids = {prompt.id for prompt in judging.seen}
    rows = judging.baseline
    return replace(
        rows,
        answers=tuple(answer for answer in rows.answers if answer.prompt_id in prompt_ids),
        judgments=tuple(row for row in rows.judgments if row.prompt_id in prompt_ids),
    )


def _live_judging(run: SuiteRun, baseline: RunRows, checks: Sequence[GateCheck], options: GateOptions) -> LiveJudging:
    suite_checks = [check for check in checks if run.plan.suite.name in check.suites]
    by_id = {prompt.id: prompt for prompt in run.plan.prompts}
    order = [by_id[prompt_id] for prompt_id in order_of(list(by_id), run.plan.suite.name, options.seed)]
    ready = watched(suite_checks, baseline.card, baseline) if options.sequential else None
    if isinstance(ready, list):
        return LiveJudging(run, baseline, ready, order, iter(looks(len(order))))
    note = None if ready is None else f"no early stop: {ready}"
    return LiveJudging(run, baseline, None, order, iter([len(order)]), note)


async def _judge_in_blocks(
    plan: Plan,
    judgings: Sequence[LiveJudging],
    checks: Sequence[GateCheck],
    policy: GatePolicy,
    on_progress: ProgressCallback,
) -> None:
    """Run rounds of one block per suite until every suite is settled, or one check is worse, which decides alone."""
    peers = tier_sizes(checks)
    active = list(judgings)
    # a judge that waits for the candidate's devices needs the candidate's server stopped after every block
    keeping = not any(waits(judge) for judging in judgings for judge in judging.run.plan.judges)
    async with AsyncExitStack() as stack:
        server = KeptServer(plan.backend, stack)
        await stack.enter_async_context(plan.calls.cache)
        while active:
            blocks = [(judging, block) for judging in active if (block := judging.next_block()) is not None]
            if not blocks:
                return
            await evaluate(
                [block for _, block in blocks],
                lambda: server if keeping else plan.backend,
                concurrency=plan.spec.serve.concurrency,
                on_progress=on_progress,
            )
            outcomes = [(judging, _current_steps(judging, policy, peers)) for judging, _ in blocks]
            if any(answer == "worse" for _, steps in outcomes for _, answer in steps):
                return
            active = [judging for judging, steps in outcomes if not settled(steps)]


def _current_steps(judging: LiveJudging, policy: GatePolicy, peers: Mapping[Tier, int]) -> list[tuple[GateCheck, Step]]:
    if judging.checks is None:
        return []
    candidate = _rows(judging, judging.baseline.card)
    steps: list[tuple[GateCheck, Step]] = []
    for check in judging.checks:
        before = question_sums(check.rule, judging.baseline.answers, judging.baseline.judgments)
        after = question_sums(check.rule, candidate.answers, candidate.judgments)
        look = (judging.judged, len(judging.order))
        answer = step(check, before, after, look=look, policy=policy, peers=peers)
        judging.steps[check.rule.metric] = answer
        steps.append((check.check, answer))
    return steps


def _rows(judging: LiveJudging, card: ScoreCard) -> RunRows:
    """Return the rows of the blocks so far, as those of a finished run."""
    # an earlier session may have stored rows of later blocks: a look must not see them before their turn
    prompt_ids = {prompt.id for prompt in judging.order[: judging.judged]}
    answers = [answer for answer in judging.run.store.answers.all() if answer.prompt_id in prompt_ids]
    current = current_judgments(answers, judging.run.store.judgments.all())
    current = [row for row in current if row.prompt_id in prompt_ids]
    protocol = judging.run.plan.protocol
    audit = audit_rows(current, protocol)
    return RunRows(card.model, card, tuple(answers), scored(current, protocol), audit=audit)


def _sequential_report(judging: LiveJudging, seed: int) -> SequentialReport:
    judged = {prompt.id for prompt in judging.order[: judging.judged]}
    stored = [row.prompt_id for row in judging.run.store.judgments.all() if row.error is None]
    calls = sum(prompt_id in judged for prompt_id in stored)
    # what earlier sessions judged beyond this look was not saved
    saved = max(0, round(calls * len(judging.order) / judging.judged) - len(stored)) if judging.judged else 0
    return SequentialReport(
        suite=judging.run.plan.suite.name,
        questions=judging.judged,
        of=len(judging.order),
        steps=dict(judging.steps),
        calls=calls,
        calls_saved=saved,
        seed=seed,
        replayed=False,
        note=judging.note,
    )
