"""One `harness run`, from a RunSpec to score cards: which run this is, what it asks, and what the card says.

It decides identities and writes cards. Asking and judging are the pipeline's, scoring is the suite's.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import JsonValue

from .config import RunSpec
from .errors import ConfigError
from .pipeline import ProgressCallback, SuiteRun, current_judgments, evaluate
from .plugins import load_plugin
from .protocols import Backend, Judge, ServeOptions, Suite, SuiteOptions
from .provenance import provenance
from .records import Answer, JudgeSpec, Judgment, Prompt, Sampling, ScoreCard, digest
from .store import RunStore, run_dir, set_aside

MIN_SCORED = 0.9
"""A card with a smaller share scored is complete=False and never ranked (specs: 90 %)."""


@dataclass(frozen=True)
class Plan:
    """What a run will do, before anything is written."""

    spec: RunSpec
    suites: tuple[Suite, ...]
    judges: dict[str, Judge]
    prompts: dict[str, tuple[Prompt, ...]]
    backend: Backend
    identity: dict[str, JsonValue]

    def sampling(self, suite: Suite) -> Callable[[Prompt], Sampling]:
        """The suite's answer settings with the spec's deviations."""
        changed = {key: value for key, value in self.spec.sampling.model_dump().items() if value is not None}
        return lambda prompt: suite.sampling(prompt).model_copy(update=changed)


def plan(spec: RunSpec, log_dir: Path) -> Plan:
    """Loads data, judges and the backend (which checks the checkpoint); starts and writes nothing."""
    options = ServeOptions(log_dir=log_dir, seed=spec.seed, **spec.serve.model_dump())
    backend: Backend = load_plugin("backends", spec.backend)(spec.model, options)
    identity = backend.identity()
    generation = identity.get("generation_config")
    suite_options = SuiteOptions(
        edition=spec.edition,
        references=spec.references,
        mirror=spec.mirror,
        generation_config=generation if isinstance(generation, dict) else {},
    )
    suites = tuple(load_plugin("suites", name)(suite_options) for name in spec.suites)
    judges: dict[str, Judge] = {}
    made: dict[str, Judge] = {}
    for suite in suites:
        judge_spec = spec.judges[suite.name]
        judges[suite.name] = made.setdefault(judge_spec.model_dump_json(), load_judge(judge_spec))
    prompts = {suite.name: limited(suite.prompts(), spec.limit, spec.seed) for suite in suites}
    return Plan(spec, suites, judges, prompts, backend, identity)


def load_judge(spec: JudgeSpec) -> Judge:
    judge: Judge = load_plugin("judges", spec.kind)(spec)
    return judge


def limited(prompts: Sequence[Prompt], limit: int | None, seed: int) -> tuple[Prompt, ...]:
    """At most `limit` prompts in their own order, drawn by category in proportion (largest remainder), seeded."""
    if limit is None or limit >= len(prompts):
        return tuple(prompts)
    sizes = Counter(prompt.category for prompt in prompts)
    exact = {category: limit * size / len(prompts) for category, size in sizes.items()}
    share = {category: int(value) for category, value in exact.items()}
    for category in sorted(exact, key=lambda name: (share[name] - exact[name], name))[: limit - sum(share.values())]:
        share[category] += 1
    chosen: set[str] = set()
    for category in sorted(sizes):
        ids = [prompt.id for prompt in prompts if prompt.category == category]
        chosen.update(random.Random(f"{seed}:{category}").sample(ids, share[category]))
    return tuple(prompt for prompt in prompts if prompt.id in chosen)


# ----------------------------------------------------------------------------------------------------- identities


def protocol(made: Plan, suite: Suite) -> dict[str, JsonValue]:
    """Everything that makes two numbers comparable."""
    spec = made.spec
    judge = spec.judges[suite.name]
    deviations = {key: value for key, value in spec.sampling.model_dump().items() if value is not None}
    found: dict[str, JsonValue] = {
        "suite": suite.name,
        "suite_version": suite.version,
        **suite.protocol(),
        "judge": {"name": judge.name, "kind": judge.kind, "model": judge.model, "params": judge.params},
    }
    if deviations:
        found["sampling_deviation"] = deviations
    if len(made.prompts[suite.name]) < len(suite.prompts()):
        found["limit"] = {"n": len(made.prompts[suite.name]), "seed": spec.seed}
    return found


def manifest(made: Plan, suite: Suite) -> dict[str, JsonValue]:
    """What must be equal for a run to be resumed; its digest is the run's id."""
    return {
        "schema_version": 1,
        "model": str(made.spec.model) if made.spec.model.scheme != "path" else made.spec.model.label,
        "identity": made.identity,
        "protocol": protocol(made, suite),
        "seed": made.spec.seed,
    }


def folder_of(made: Plan, suite: Suite) -> Path:
    spec = made.spec
    run_id = digest(manifest(made, suite))[:12]
    return run_dir(spec.results, model=spec.model.slug, suite=suite.name, version=suite.version, run_id=run_id)


# -------------------------------------------------------------------------------------------------------- running


@contextmanager
def opened(made: Plan, *, fresh: bool) -> Iterator[list[SuiteRun]]:
    """Every suite's store, locked; all are closed again whatever happens."""
    stores: list[RunStore] = []
    try:
        runs = []
        for suite in made.suites:
            folder = folder_of(made, suite)
            if fresh:
                set_aside(folder)
            store = RunStore(folder).open(manifest(made, suite))
            stores.append(store)
            runs.append(
                SuiteRun(
                    suite=suite,
                    judge=made.judges[suite.name],
                    store=store,
                    prompts=made.prompts[suite.name],
                    sampling=made.sampling(suite),
                )
            )
        yield runs
    finally:
        for store in stores:
            store.close()


async def execute(
    made: Plan, runs: Sequence[SuiteRun], *, on_progress: ProgressCallback = lambda _: None
) -> list[ScoreCard]:
    """Asks, judges, scores; writes and returns one card a suite. Sessions are recorded even when it is stopped."""

    def serve() -> AbstractAsyncContextManager[Backend]:
        return made.backend

    started = time.monotonic()
    try:
        await evaluate(runs, serve, concurrency=made.spec.serve.concurrency, on_progress=on_progress)
    finally:
        for run in runs:
            if run.answering.rows or run.judging.rows:
                run.store.end_session(_session(run, time.monotonic() - started))
    facts = await asyncio.to_thread(provenance)
    cards = []
    for run in runs:
        card = score_card(made, run, facts)
        run.store.write_card(card)
        cards.append(card)
    return cards


def _session(run: SuiteRun, seconds: float) -> dict[str, JsonValue]:
    return {
        "seconds": round(seconds, 3),
        "answer_rows": run.answering.rows,
        "answer_seconds": round(run.answering.seconds, 3),
        "answer_prompt_tokens": run.answering.prompt_tokens,
        "answer_completion_tokens": run.answering.completion_tokens,
        "judgment_rows": run.judging.rows,
        "judgment_seconds": round(run.judging.seconds, 3),
        "judgment_prompt_tokens": run.judging.prompt_tokens,
        "judgment_completion_tokens": run.judging.completion_tokens,
        "judgment_cost": round(run.judging.cost, 6),
    }


# ---------------------------------------------------------------------------------------------------------- cards


def score_card(made: Plan, run: SuiteRun, facts: dict[str, JsonValue]) -> ScoreCard:
    """The card of what is in the store now."""
    suite, spec = run.suite, made.spec
    asked = {prompt.id for prompt in run.prompts}
    answers = [answer for answer in run.store.answers.all() if answer.prompt_id in asked]
    judgments = current_judgments(answers, run.store.judgments.all())
    found = suite.score(run.prompts, answers, judgments)
    if suite.headline not in found.scores:
        raise ConfigError(f"suite {suite.name!r} gave no score named {suite.headline!r}, its own headline")
    head = found.scores[suite.headline]
    complete = head.value is not None and head.n >= MIN_SCORED * (head.n + head.unscored)
    judge = spec.judges[suite.name]
    notes = [*found.notes, *([judge.note] if judge.note else [])]
    if not complete:
        notes.append(f"incomplete: {head.n} of {head.n + head.unscored} scored; never ranked")
    return ScoreCard(
        suite=suite.name,
        suite_version=suite.version,
        model=spec.model.label,
        judge=judge.name,
        headline=suite.headline,
        complete=complete,
        protocol=protocol(made, suite),
        sampling=_settings(run),
        scores=found.scores,
        by_category=found.by_category,
        counts=count(run.prompts, answers, judgments),
        notes=tuple(notes),
        provenance={
            **facts,
            "model": made.identity,
            "run_id": run.store.folder.name,
            "config": digest(spec.model_dump(mode="json"))[:12],
            "seed": spec.seed,
        },
        usage=_usage(run.store),
    )


def _settings(run: SuiteRun) -> dict[str, JsonValue]:
    """Answer settings in use: one entry where all prompts share them, else by category."""
    by_category = {prompt.category: run.sampling(prompt).model_dump(mode="json") for prompt in run.prompts}
    different = {digest(settings) for settings in by_category.values()}
    return next(iter(by_category.values())) if len(different) == 1 else dict(by_category)


def count(prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> dict[str, JsonValue]:
    """Asked, answered, truncated, and what failed by reason; a failure is counted, never scored."""
    unanswered = Counter(answer.error.reason for answer in answers if answer.error is not None)
    unjudged = Counter(row.error.reason for row in judgments if row.error is not None)
    flags = Counter(flag for row in judgments for flag in row.flags)
    return {
        "prompts": len(prompts),
        "answers": sum(answer.error is None for answer in answers),
        "truncated": sum(answer.truncated for answer in answers),
        "empty": sum(answer.error is None and not all(text.strip() for text in answer.turns) for answer in answers),
        "unanswered": dict(sorted(unanswered.items())),
        "judgments": sum(row.verdict is not None for row in judgments),
        "unjudged": dict(sorted(unjudged.items())),
        "flags": dict(sorted(flags.items())),
    }


def _usage(store: RunStore) -> dict[str, JsonValue]:
    """Sums over the sessions that ended; tokens per second of generation, by wall time."""
    total: Counter[str] = Counter()
    sessions = store.sessions()
    for session in sessions:
        total.update({key: value for key, value in session.items() if isinstance(value, int | float)})
    usage: dict[str, JsonValue] = {key: round(value, 3) for key, value in sorted(total.items())}
    usage["sessions"] = len(sessions)
    seconds = total["answer_seconds"]
    usage["tokens_per_second"] = round(total["answer_completion_tokens"] / seconds, 1) if seconds else None
    return usage


# -------------------------------------------------------------------------------------------------------- dry run


@dataclass(frozen=True)
class Estimate:
    """What a suite would ask. Judge tokens are guesses: 4 characters a token, 1,500 characters an answer turn."""

    suite: str
    judge: str
    prompts: int
    generation_calls: int
    judge_calls: int
    judge_cost: float | None
    """US dollars; None where the judge has no known price."""

    def as_dict(self) -> dict[str, JsonValue]:
        return asdict(self)


def estimate(made: Plan) -> list[Estimate]:
    """Numbers of calls of a run from nothing. Reads data only."""
    found = []
    for suite in made.suites:
        judge = made.spec.judges[suite.name]
        turns = calls = 0
        dollars = 0.0
        for prompt in made.prompts[suite.name]:
            turns += len(prompt.turns) * made.sampling(suite)(prompt).n
            answer = Answer(
                prompt_id=prompt.id,
                model="estimate",
                turns=tuple(f"{number} " + "x" * 1500 for number, _ in enumerate(prompt.turns)),
                finish=("stop",) * len(prompt.turns),
            )
            for task in suite.tasks(prompt, answer):
                calls += 1
                characters = sum(map(len, task.fields.values())) + len(
                    task.template.user + (task.template.system or "")
                )
                # 400 tokens a verdict: the mean of the official judges' replies is 200 to 900 (specs)
                reply = min(task.template.max_tokens, 400)
                dollars += (characters / 4 * (judge.price_in or 0) + reply * (judge.price_out or 0)) / 1e6
        priced = judge.price_in is not None and judge.price_out is not None
        cost = round(dollars, 2) if priced else None
        found.append(Estimate(suite.name, judge.name, len(made.prompts[suite.name]), turns, calls, cost))
    return found
