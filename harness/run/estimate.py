"""What a run will ask and cost, before it asks: calls, those that are done or cached already, dollars.

It reads the suites' data, the run's own rows and the reply cache; it writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain

from pydantic import JsonValue

from ..judging.cache import kept
from ..judging.calls import Call, Calling
from ..judging.cost import OVERHEAD, TokenMeter, message_texts, meter, price, priced, token_limit, worst_case
from ..judging.jury import judge_label
from ..records import Answer, JudgeSpec, JudgeTask, Prompt
from ..records.errors import ConfigError
from ..records.protocols import Judge
from .pipeline import SuiteRun, suite_runs
from .plan import Plan

ANSWER = "word " * 300
"""Stands for an answer that is not there yet and has no baseline to go by: 1,500 characters, about 300 tokens."""
REPLY_TOKENS = 400
"""Of a verdict in words: the means of the official judges' replies are 200 to 900 tokens (specs)."""


@dataclass(frozen=True)
class Estimate:
    """What a suite would ask."""

    suite: str
    judge: str
    prompts: int
    generation_calls: int
    judge_calls: int
    """Anchors included. Of a run from nothing; re-asks and failures are not foreseen."""
    judge_calls_done: int
    """Whose verdict is in the run's folder."""
    judge_calls_cached: int
    """Of the others: whose reply is in the cache."""
    judge_cost: float | None
    """US dollars of all calls; None where a judge has no known price."""
    judge_cost_open: float | None
    """US dollars of the calls that are neither done nor cached."""
    tokens_by: str
    """How tokens were counted."""

    def as_dict(self) -> dict[str, JsonValue]:
        return asdict(self)


def estimate(made: Plan, *, exact: bool = True) -> list[Estimate]:
    """One a suite; `exact` False: by the rule of thumb alone, which takes no memory. Raises ConfigError where
    --max-cost could not be held to."""
    return [_estimate_one(made, run, exact=exact) for run in suite_runs(made)]


@dataclass
class _Sum:
    calls: int = 0
    done: int = 0
    cost: float = 0.0
    cost_open: float = 0.0
    """Of calls not done; what is cached is taken off at the end."""
    keys: dict[bytes, float] = field(default_factory=dict)
    """Calls not done -> dollars."""


def _estimate_one(made: Plan, run: SuiteRun, *, exact: bool) -> Estimate:
    judges = {judge.spec.name: judge for judge in run.judges}
    specs = {spec.name: spec for spec in made.spec.judges[run.suite.name]}
    meters = {name: meter(spec.model, exact=exact) for name, spec in specs.items()}
    answers = {row.key: row for row in run.store.answers.read() if row.error is None}
    done = {row.key for row in run.store.judgments.every() if row.verdict is not None}
    share = 0.5 if made.spec.transport == "batch" else 1.0  # harness.judging.batch would load the openai package
    again = {row.key for row in run.store.anchors.every() if row.verdict is not None}
    total = _Sum()
    asked = (_tasks(run, prompt, answers.get(f"{prompt.id}#{index}")) for prompt, index in run.draws())
    for task in chain(chain.from_iterable(asked), run.anchors):
        total.calls += 1
        call = _first_call(judges[task.judge], task)
        drawn = call is None and isinstance(judges[task.judge], Calling)
        dollars = 0.0 if drawn else _dollars(specs[task.judge], task, call, meters[task.judge])
        dollars *= share
        _hold_to_budget(made, specs[task.judge], call)
        total.cost += dollars
        if task.key in (again if task.anchor else done):
            total.done += 1
        else:
            total.cost_open += dollars
            if call is not None:
                total.keys[call.key] = dollars
    cached = kept(made.calls.cache.path, total.keys) if made.calls.cache.path is not None else set()
    known = all(map(priced, specs.values()))
    return Estimate(
        suite=run.suite.name,
        judge=judge_label(list(specs.values())),
        prompts=len(run.prompts),
        generation_calls=sum(len(prompt.turns) for prompt, _ in run.draws()),
        judge_calls=total.calls,
        judge_calls_done=total.done,
        judge_calls_cached=len(cached),
        judge_cost=total.cost if known else None,
        judge_cost_open=total.cost_open - sum(total.keys[key] for key in cached) if known else None,
        tokens_by=", ".join(dict.fromkeys(one.name for one in meters.values())),
    )


def _tasks(run: SuiteRun, prompt: Prompt, answer: Answer | None) -> Iterator[JudgeTask]:
    """What the judges are asked about the answer, or about one as long as the baseline's where there is none yet."""
    if answer is not None:
        return run.tasks(prompt, answer)
    guess = Answer(
        prompt_id=prompt.id,
        model="estimate",
        turns=tuple(f"{ANSWER}{turn}" for turn in range(len(prompt.turns))),
        finish=tuple("stop" for _ in prompt.turns),
    )
    first = next(iter(run.suite.tasks(prompt, guess)), None)
    if first is not None and first.baseline is not None and first.baseline.turns:
        texts = tuple(text + " ." for text in first.baseline.turns)  # not the same: equal answers may be a draw
        guess = guess.model_copy(update={"turns": texts, "finish": tuple("stop" for _ in texts)})
    return run.tasks(prompt, guess)


def _first_call(judge: Judge, task: JudgeTask) -> Call | None:
    return judge.first_call(task) if isinstance(judge, Calling) else None


def _dollars(spec: JudgeSpec, task: JudgeTask, call: Call | None, tokens: TokenMeter) -> float:
    """At list price; 0 where there is none. A judge that does not tell its request is taken to send the template."""
    template = task.template
    if call is not None:
        texts, limit = message_texts(call.body), token_limit(call.body)
    else:
        texts, limit = [template.system or "", template.user, *task.fields.values()], template.max_tokens
    asked = sum(tokens.count(text) + OVERHEAD for text in texts)
    return price(spec, asked, min(limit or REPLY_TOKENS, REPLY_TOKENS)) or 0.0


def _hold_to_budget(made: Plan, spec: JudgeSpec, call: Call | None) -> None:
    if made.calls.budget.limit is None or call is None:
        return
    if not priced(spec):
        raise ConfigError(
            f"--max-cost needs the price of judge {spec.name!r}: give price_in and price_out, US dollars per "
            "million tokens (0 for a server of your own), in its YAML file or under judges: in harness.yaml"
        )
    worst_case(spec, call.body)
