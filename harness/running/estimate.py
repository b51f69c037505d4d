"""Estimate what a run will ask and cost: calls, those already done or cached, dollars.

It reads the suites' data, the run's own rows and the reply cache. It asks nothing and writes nothing. A run that
begins has its stores open already, so that their rows are read once.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import JsonValue

from ..judging.cache import cached_keys
from ..judging.calls import Call, Calling
from ..judging.cost import OVERHEAD, TokenMeter, is_free, message_texts, meter, price, priced, token_limit, worst_case
from ..records import Answer, JudgeSpec, JudgeTask, Prompt
from ..records.errors import ConfigError
from ..records.protocols import Judge
from ..store.runs import JudgmentRows
from .pipeline import SuiteRun, suite_runs
from .plan import Plan

log = logging.getLogger(__name__)

ANSWER = "word " * 300
"""Stands for a missing answer without a baseline to compare with: 1,500 characters, about 300 tokens."""
REPLY_TOKENS = 400
"""Tokens of a verdict in words; the official judges' replies have means of 200 to 900."""


@dataclass(frozen=True)
class JudgeShare:
    """One judge's part of a suite's calls."""

    calls: int
    cost: float | None
    """US dollars; None if it has no known price."""


@dataclass(frozen=True)
class Estimate:
    """What one suite will ask."""

    suite: str
    judge: str
    prompts: int
    generation_calls: int
    judge_calls: int
    """Calls of a run from scratch, anchors included. Second attempts and failures are not foreseen."""
    judge_calls_done: int
    """Calls whose verdict is in the run's folder."""
    judge_calls_cached: int
    """Of the remaining calls: those whose reply is in the cache."""
    judge_cost: float | None
    """US dollars of all calls; None if a judge has no known price."""
    judge_cost_open: float | None
    """US dollars of the calls that are neither done nor cached."""
    tokens_by: str
    """How tokens were counted."""
    by_judge: dict[str, JudgeShare] = field(default_factory=dict)
    """Judge -> its part, if judges do not all judge the same questions."""

    def as_dict(self) -> dict[str, JsonValue]:
        fields = asdict(self)
        return fields if self.by_judge else {name: value for name, value in fields.items() if name != "by_judge"}


def dry_run(plan: Plan) -> list[Estimate]:
    """Return one estimate per suite, with exact counts of tokens, and leave the runs' folders alone.

    Raise ConfigError if `--max-cost` is given and a judge has no price or no limit on its replies.
    """
    check_budget(plan)
    runs = suite_runs(plan)
    for run in runs:
        run.store.judgments.index()
        run.store.anchors.index()
    return estimate(plan, runs, exact=True)


def estimate(plan: Plan, runs: Sequence[SuiteRun], *, exact: bool = False) -> list[Estimate]:
    """Return one estimate per run of the plan, whose judgments are indexed.

    Without `exact`, tokens are 4 characters each, which loads no tokenizer.
    """
    return [_estimate_suite(plan, run, exact=exact) for run in runs]


def check_budget(plan: Plan) -> None:
    """Raise ConfigError if `--max-cost` is given and a judge has no price or no limit on its replies."""
    if plan.calls.budget.limit is None:
        return
    for run in suite_runs(plan):
        calling = _calling(run)
        for prompt in run.plan.prompts:
            for task in _tasks(run, prompt, None):
                for judge, repeat in run.plan.asked(prompt):
                    judge_calls = calling[judge.spec.name]
                    call = None if judge_calls is None else judge_calls.first_call(run.put_to(task, judge, repeat))
                    if call is not None:
                        _check_price(judge.spec, call)


@dataclass
class _Totals:
    plan: Plan
    run: SuiteRun
    meters: dict[str, TokenMeter]
    """By judge."""
    calling: Mapping[str, Calling | None]
    """By judge; None: it does not state its requests. Checked once, because a protocol of many methods takes long."""
    calls: int = 0
    done: int = 0
    cost: float = 0.0
    cost_open: float = 0.0
    """US dollars of the calls that are not done; those of cached replies are subtracted at the end."""
    calls_by: Counter[str] = field(default_factory=Counter)
    cost_by: dict[str, float] = field(default_factory=dict)
    """By judge."""
    keys: dict[bytes, float] = field(default_factory=dict)
    """Calls that are not done -> dollars."""

    def add(self, task: JudgeTask, asked: Iterable[tuple[Judge, int]], rows: JudgmentRows) -> None:
        """Count the calls of one task, per judge and repeat. The repeats of a call cost the same.

        `rows`: where its verdicts are.
        """
        sha = task.answer.sha
        dollars_by_judge: dict[str, float] = {}
        for judge, repeat in asked:
            name, calling, call = judge.spec.name, self.calling[judge.spec.name], None
            is_done = rows.succeeded(task.key_for(name, repeat, sha))
            if calling is not None and not (is_done and name in dollars_by_judge):
                call = calling.first_call(task if task.anchor else self.run.put_to(task, judge, repeat))
            if name not in dollars_by_judge:
                dollars_by_judge[name] = self._dollars(judge, task, call)
            self.calls += 1
            self.cost += dollars_by_judge[name]
            self.calls_by[name] += 1
            self.cost_by[name] = self.cost_by.get(name, 0.0) + dollars_by_judge[name]
            if is_done:
                self.done += 1
                continue
            self.cost_open += dollars_by_judge[name]
            if call is not None:
                self.keys[call.key] = dollars_by_judge[name]

    def _dollars(self, judge: Judge, task: JudgeTask, call: Call | None) -> float:
        """Return a task's cost at list price, or 0 if there is no price, or if the judge needs no call.

        If a judge does not state its request, assume that it sends the template.
        """
        template, tokens = task.template, self.meters[judge.spec.name]
        if not judge.spec.price_in and not judge.spec.price_out:
            return 0.0
        if call is not None:
            texts, limit = message_texts(call.body), token_limit(call.body)
        elif self.calling[judge.spec.name] is not None:
            return 0.0  # a draw without a call
        else:
            texts, limit = [template.system or "", template.user, *task.fields.values()], template.max_tokens
        prompt_tokens = sum(tokens.count(text) + OVERHEAD for text in texts)
        share = 0.5 if self.plan.spec.transport == "batch" else 1.0  # harness.judging.batch would load openai
        return share * (price(judge.spec, prompt_tokens, min(limit or REPLY_TOKENS, REPLY_TOKENS)) or 0.0)


def _estimate_suite(plan: Plan, run: SuiteRun, *, exact: bool) -> Estimate:
    suite_plan = run.plan
    specs = [judge.spec for judge in suite_plan.judges]
    meters = {spec.name: meter(spec.model, exact=exact) for spec in specs}
    totals = _totals(plan, run, meters)
    cached = cached_keys(plan.calls.cache.path, totals.keys) if plan.calls.cache.path is not None else set()
    known = {spec.name: priced(spec) or is_free(spec) for spec in specs}
    has_prices = all(known.values())
    shares = {
        spec.name: JudgeShare(
            totals.calls_by[spec.name], totals.cost_by.get(spec.name, 0.0) if known[spec.name] else None
        )
        for spec in specs
        if suite_plan.audit is not None or suite_plan.turns
    }
    return Estimate(
        suite=suite_plan.suite.name,
        judge=suite_plan.judge_label,
        prompts=len(suite_plan.prompts),
        generation_calls=sum(len(prompt.turns) for prompt, _ in run.draws()),
        judge_calls=totals.calls,
        judge_calls_done=totals.done,
        judge_calls_cached=len(cached),
        judge_cost=totals.cost if has_prices else None,
        judge_cost_open=totals.cost_open - sum(totals.keys[key] for key in cached) if has_prices else None,
        tokens_by=", ".join(dict.fromkeys(token_meter.name for token_meter in meters.values())),
        by_judge=shares,
    )


def _totals(plan: Plan, run: SuiteRun, meters: dict[str, TokenMeter]) -> _Totals:
    answers = {row.key: row for row in run.store.answers.read() if row.error is None}
    totals = _Totals(plan, run, meters, _calling(run))
    for prompt, index in run.draws():
        for task in _tasks(run, prompt, answers.get(f"{prompt.id}#{index}")):
            totals.add(task, run.plan.asked(prompt), run.store.judgments)
    for task in run.plan.anchor_tasks:
        totals.add(task, [(run.judge_of(task), task.repeat)], run.store.anchors)
    return totals


def _calling(run: SuiteRun) -> dict[str, Calling | None]:
    return {judge.spec.name: judge if isinstance(judge, Calling) else None for judge in run.plan.judges}


def _tasks(run: SuiteRun, prompt: Prompt, answer: Answer | None) -> Iterable[JudgeTask]:
    if answer is not None:
        return run.plan.suite.tasks(prompt, answer)
    guess = Answer(
        prompt_id=prompt.id,
        model="estimate",
        turns=tuple(f"{ANSWER}{turn}" for turn in range(len(prompt.turns))),
        finish=tuple("stop" for _ in prompt.turns),
    )
    first = next(iter(run.plan.suite.tasks(prompt, guess)), None)
    if first is not None and first.baseline is not None and first.baseline.turns:
        texts = tuple(text + " ." for text in first.baseline.turns)  # not the same: equal answers may be a draw
        guess = guess.model_copy(update={"turns": texts, "finish": tuple("stop" for _ in texts)})
    return run.plan.suite.tasks(prompt, guess)


def _check_price(spec: JudgeSpec, call: Call) -> None:
    if not priced(spec):
        raise ConfigError(
            f"--max-cost needs the price of judge {spec.name!r}: give price_in and price_out, US dollars per "
            "million tokens (0 for a server of your own), in its YAML file or under judges: in harness.yaml"
        )
    worst_case(spec, call.body)  # raises ConfigError if the reply has no limit


def totals_of(estimates: Sequence[Estimate], runs: Sequence[SuiteRun]) -> dict[tuple[str, str], int]:
    """Return (suite, stage) -> open rows; for judgments an upper bound, because failed answers are not judged."""
    from ..running.same_model import earlier_answers  # deferred: it needs numpy, which the help does not

    calls = {row.suite: row.judge_calls for row in estimates}
    totals: dict[tuple[str, str], int] = {}
    for suite_run in runs:
        name = suite_run.plan.suite.name
        totals[name, "answers"] = suite_run.answers_open
        totals[name, "judgments"] = calls[name] - suite_run.store.judgments.count_succeeded
        totals[name, "judgments"] -= len(suite_run.plan.anchor_tasks) - len(suite_run.anchors_open)
        answered = len(suite_run.plan.prompts) - suite_run.answers_open
        if sentence := earlier_answers(suite_run):
            log.warning("%s", sentence)
        elif answered > 0:
            judged = len(suite_run.store.judgments)
            log.info("%s: resuming, %d answers and %d judgments exist already", name, answered, judged)
    return totals
