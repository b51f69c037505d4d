"""A candidate that is served, asked and judged in blocks until the verdict is safe: `harness gate --sequential --live`.

The pipeline and its store are those of `harness run`: what is judged stays judged, and the same command goes on. A
suite that stopped early leaves an incomplete card, which is never ranked; `harness run` completes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from ..card import score_card
from ..compare.comparison import differing_protocols
from ..compare.inputs import Found, Loaded, run_rows
from ..errors import ConfigError
from ..judging.jury import combine, jury_of
from ..own import KeptServer
from ..pipeline import ProgressCallback, SuiteRun, current_judgments, evaluate, waits
from ..plan import Plan, protocol
from ..protocols import RunRows
from ..provenance import provenance
from ..questions import question_sums
from ..records import Answer, Judgment, Prompt
from ..run import session_usage
from .decision import checks_of, judge_gate
from .inputs import GateOptions, show_suite
from .policy import GateCheck, GatePolicy, Tier
from .records import Evidence, GateReport, SequentialReport, Step
from .sequential import Watched, looks, order_of, settled, step, tier_sizes, watched


@dataclass
class Judging:
    """One suite on its way to a verdict."""

    run: SuiteRun
    baseline: RunRows
    checks: list[Watched] | None
    """None: no early stop, all questions at once."""
    order: list[Prompt]
    ends: Iterator[int]
    asked: int = 0
    steps: dict[str, Step] = field(default_factory=dict)

    def next_block(self) -> SuiteRun | None:
        """The next questions; None after the last."""
        end = next(self.ends, None)
        if end is None:
            return None
        start, self.asked = self.asked, end
        return replace(self.run, prompts=tuple(self.order[start:end]))

    @property
    def seen(self) -> tuple[Prompt, ...]:
        """The prompts asked so far, in the suite's own order: a seeded bootstrap depends on it."""
        asked = {prompt.id for prompt in self.order[: self.asked]}
        return tuple(prompt for prompt in self.run.prompts if prompt.id in asked)


def baselines_of(made: Plan, found: Sequence[Found], *, force: bool) -> dict[str, RunRows]:
    """Suite -> the baseline's run, of the protocol that the candidate's will have. Raises ConfigError, before anything
    is asked, where there is none."""
    if made.own:
        raise ConfigError(f"{made.own[0].name} asks by itself: harness run it, then gate it without --live")
    chosen = {}
    for suite in made.suites:
        wanted = protocol(made, suite)
        runs = [one for one in found if one.card.suite == suite.name and one.card.suite_version == suite.version]
        apart = [differing_protocols(one.card.protocol, wanted) for one in runs]
        alike = [one for one, differences in zip(runs, apart, strict=True) if not differences or force]
        if not runs:
            raise ConfigError(f"the baseline has no run of {suite.name} ({suite.version})")
        if not alike:
            raise ConfigError(f"{suite.name}: the baseline was measured otherwise: {'; '.join(apart[0])}")
        chosen[suite.name] = run_rows(alike[0])
    return chosen


async def gate_live(
    made: Plan,
    runs: Sequence[SuiteRun],
    baselines: Mapping[str, RunRows],
    policy: GatePolicy,
    options: GateOptions,
    *,
    on_progress: ProgressCallback = lambda _: None,
) -> GateReport:
    """Asks and judges in blocks, writes the cards, and reports. Sessions are recorded even when it is stopped."""
    checks = checks_of(policy, list(baselines))
    judgings = [_judging(run, baselines[run.suite.name], checks, options) for run in runs]
    started = time.monotonic()
    try:
        await _work(made, judgings, checks, policy, on_progress)
    finally:
        for run in runs:
            if run.answering.rows or run.judging.rows:
                run.store.end_session(session_usage(run, time.monotonic() - started))
    facts = await asyncio.to_thread(provenance)
    evidence = {}
    for one in judgings:
        one.run.store.write_card(score_card(made, one.run, facts))
        card = score_card(made, replace(one.run, prompts=one.seen), facts)  # of what was asked: the rest is not missing
        answers, judgments = _rows(made, one)
        candidate = RunRows(card.model, card, tuple(answers), tuple(judgments))
        shown = show_suite(one.baseline, candidate, Loaded(one.run.suite, one.seen), options)
        evidence[one.run.suite.name] = _stepped(shown, one)
    names = made.spec.model.label, next(iter(baselines.values())).card.model
    report = judge_gate(*names, policy, evidence)
    return report.model_copy(update={"sequential": tuple(_report(one, options.seed) for one in judgings)})


def _judging(run: SuiteRun, baseline: RunRows, checks: Sequence[GateCheck], options: GateOptions) -> Judging:
    own = [check for check in checks if check.suite == run.suite.name]
    by_id = {prompt.id: prompt for prompt in run.prompts}
    order = [by_id[one] for one in order_of(list(by_id), run.suite.name, options.seed)]
    ready = watched(own, baseline.card, baseline) if options.sequential else None
    return Judging(run, baseline, ready, order, iter(looks(len(order)) if ready is not None else [len(order)]))


async def _work(
    made: Plan,
    judgings: Sequence[Judging],
    checks: Sequence[GateCheck],
    policy: GatePolicy,
    on_progress: ProgressCallback,
) -> None:
    """Rounds of one block a suite, until each is settled or one is worse, which fails the candidate whatever else."""
    peers = tier_sizes(checks)
    going = list(judgings)
    # a judge that waits for the candidate's devices needs its server gone after every block
    keeping = not any(waits(judge) for one in judgings for judge in one.run.judges)
    async with AsyncExitStack() as stack:
        kept = KeptServer(made.backend, stack)
        await stack.enter_async_context(made.calls.cache)
        while going:
            blocks = [(one, block) for one in going if (block := one.next_block()) is not None]
            if not blocks:
                return
            await evaluate(
                [block for _, block in blocks],
                lambda: kept if keeping else made.backend,
                concurrency=made.spec.serve.concurrency,
                on_progress=on_progress,
            )
            looked = [(one, _looked(made, one, policy, peers)) for one, _ in blocks]
            if any(answer == "worse" for _, found in looked for _, answer in found):
                return
            going = [one for one, found in looked if not settled(found)]


def _looked(made: Plan, one: Judging, policy: GatePolicy, peers: Mapping[Tier, int]) -> list[tuple[GateCheck, Step]]:
    """What the sequences of a suite's checks say now."""
    if one.checks is None:
        return []
    answers, judgments = _rows(made, one)
    found: list[tuple[GateCheck, Step]] = []
    for check in one.checks:
        before = question_sums(check.rule, one.baseline.answers, one.baseline.judgments)
        after = question_sums(check.rule, answers, judgments)
        answer = step(check, before, after, planned=len(one.order), policy=policy, peers=peers)
        one.steps[check.rule.metric] = answer
        found.append((check.check, answer))
    return found


def _rows(made: Plan, one: Judging) -> tuple[list[Answer], list[Judgment]]:
    """Answers and judgments of what was asked, a jury's combined."""
    asked = {prompt.id for prompt in one.order[: one.asked]}
    answers = [answer for answer in one.run.store.answers.all() if answer.prompt_id in asked]
    judgments = current_judgments(answers, one.run.store.judgments.all())
    judgments = [row for row in judgments if row.prompt_id in asked]
    jury = jury_of(protocol(made, one.run.suite))
    return answers, judgments if jury is None else list(combine(judgments, jury).judgments)


def _stepped(shown: Evidence, one: Judging) -> Evidence:
    return shown.model_copy(update={"steps": dict(one.steps)})


def _report(one: Judging, seed: int) -> SequentialReport:
    calls = one.run.store.judgments.count_succeeded
    saved = round(calls * (len(one.order) / one.asked - 1)) if one.asked else 0
    note = None if one.checks is not None else "no early stop: a deciding check is no sum over all questions"
    return SequentialReport(
        suite=one.run.suite.name,
        questions=one.asked,
        of=len(one.order),
        steps=dict(one.steps),
        calls=calls,
        calls_saved=saved,
        seed=seed,
        replayed=False,
        note=note,
    )
