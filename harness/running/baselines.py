"""`--baseline`: compare with another baseline than the benchmark's: a run, a file of answers, or a model asked once.

A model's answers are stored under `results/baselines/` and asked for only once: later runs, of any candidate, read
them. Everything downstream finds them in the run's own folder too (`baseline.jsonl`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from ..records import Answer, ModelRef, Prompt, digest
from ..records.asking import answers_digest
from ..records.errors import ConfigError, IncompleteError
from ..records.judge_choice import judged_as
from ..records.protocols import Backend, ServeOptions, Suite, TakesBaseline, load_plugin
from ..records.settings import RunSpec
from ..store import RunStore, read_card
from ..store.runs import BASELINE_ROWS, find_run, read_rows

log = logging.getLogger(__name__)
UNSAFE = {"allow_pickle": False, "trust_remote_code": False, "engine_args": ()}
"""Options of the candidate that do not extend to a model which a suite's file names."""


@runtime_checkable
class NamesBaseline(Protocol):
    """A suite whose file names its baseline, in the words of `--baseline`."""

    baseline_choice: str | None


@runtime_checkable
class WantsBaseline(Protocol):
    """A suite that may have no baseline of its own."""

    needs_baseline: bool
    """Whether nothing can be judged without one."""
    takes_baseline: bool
    """Whether it can be given one."""


@dataclass(frozen=True)
class BaselinePlan:
    """Another baseline than the benchmark's own."""

    text: str
    """As the user gave it."""
    answers: Mapping[str, Answer]
    """By prompt id; placeholders if `job` is not None."""
    official: str | None
    """The benchmark's own baseline, which it replaces; None: it has none."""
    job: BaselineJob | None = None
    """The model to ask first; None: the answers exist."""
    key: str | None = None
    """Of a model: which one answered with which settings, the same however many questions it was asked."""

    @property
    def name(self) -> str:
        return next(iter(self.answers.values())).model

    @property
    def sha(self) -> str:
        """Return what the protocol states of the answers, besides the baseline's name: 12 characters."""
        return self.key or answers_digest(list(self.answers.values()))

    def differences(self) -> tuple[str, ...]:
        """Return how the comparison differs from the benchmark's own."""
        return (
            () if self.official is None else (f"baseline {self.name} instead of the benchmark's own, {self.official}",)
        )


@dataclass(frozen=True)
class BaselineJob:
    """A model whose answers are asked for once, and stored."""

    suite: Suite
    prompts: tuple[Prompt, ...]
    """Those of this run."""
    model: ModelRef
    backend: Backend
    folder: Path
    concurrency: int
    manifest: Mapping[str, JsonValue]

    def stored(self) -> dict[str, Answer]:
        """Return the answers that exist, by prompt id."""
        if not (self.folder / "manifest.json").is_file():
            return {}
        answers, _ = read_rows(self.folder)
        return {answer.prompt_id: answer for answer in answers if answer.error is None}

    def missing(self) -> list[Prompt]:
        stored = self.stored()
        return [prompt for prompt in self.prompts if prompt.id not in stored]


def with_baseline(spec: RunSpec, suite: Suite, prompts: Sequence[Prompt]) -> tuple[Suite, BaselinePlan | None]:
    """Return the suite against the baseline that the command or its own file names, or itself and None.

    `prompts`: those of this run. Nothing is asked. Raise ConfigError if the suite compares with no baseline, or if one
    is needed and none is named.
    """
    choice = _choice(spec, suite)
    if choice is None:
        _refuse_without(suite)
        return suite, None
    if not isinstance(suite, TakesBaseline) or (isinstance(suite, WantsBaseline) and not suite.takes_baseline):
        if choice.is_for_all_suites and len(spec.suites) > 1:
            return suite, None  # --baseline is for the other suites; `check_used` refuses it if none takes it
        raise ConfigError(f"--baseline {choice.text!r}: {suite.name} does not compare with a baseline")
    source = _source(spec, suite, prompts, choice)
    _check_coverage(source.answers, suite, prompts, choice.text)
    against: Suite = suite.against(source.answers)
    if against is suite:
        return suite, None  # the benchmark's own baseline, by another way
    official = _listed(suite.protocol().get("baseline"))
    return against, BaselinePlan(choice.text, source.answers, official, source.job, source.key)


@dataclass(frozen=True)
class _Choice:
    """The baseline that somebody named."""

    text: str
    by_flag: bool
    """By `--baseline`; otherwise by the suite's own file, whose author may be a stranger."""
    is_for_all_suites: bool = False
    """By a `--baseline` that names no suite."""


def _choice(spec: RunSpec, suite: Suite) -> _Choice | None:
    """Return the baseline that the command names for the suite, else its own file, or None if neither does."""
    name = judged_as(suite.name)
    flag = spec.baseline.get(name, spec.baseline.get(name.partition(":")[0], spec.baseline.get("*")))
    if flag:
        return _Choice(flag, by_flag=True, is_for_all_suites="*" in spec.baseline)
    text = suite.baseline_choice if isinstance(suite, NamesBaseline) else None
    return None if text is None else _Choice(text, by_flag=False)


def _refuse_without(suite: Suite) -> None:
    """Raise ConfigError if nothing of the suite can be judged without a baseline."""
    if isinstance(suite, WantsBaseline) and suite.needs_baseline:
        raise ConfigError(
            f"{suite.name} compares with a baseline and has none of its own: give --baseline RUN, FILE or MODEL"
        )


@dataclass(frozen=True)
class _Source:
    """Where a baseline's answers come from. The fields are those of `BaselinePlan`."""

    answers: Mapping[str, Answer]
    job: BaselineJob | None = None
    key: str | None = None


def _source(spec: RunSpec, suite: Suite, prompts: Sequence[Prompt], choice: _Choice) -> _Source:
    """Return the answers that exist, or stand-ins with the job of asking for them."""
    recorded = _recorded(choice.text, suite, spec.results)
    if recorded is not None:
        return _Source(recorded, key=_stated_key(Path(choice.text)))
    job = _job(spec, suite, prompts, choice.text, is_trusted=choice.by_flag)
    stored = job.stored()
    answers = {prompt.id: stored.get(prompt.id) or _placeholder(prompt, job.model.label) for prompt in prompts}
    return _Source(answers, job if job.missing() else None, job.folder.name)


def _stated_key(path: Path) -> str | None:
    """Return the key that a run states of its copy of the answers, or None. Both runs then have one protocol."""
    card = path.parent / "card.json"
    if path.name != BASELINE_ROWS or not card.is_file():
        return None
    stated = read_card(card).protocol.get("baseline_answers")
    return stated if isinstance(stated, str) else None


def _check_coverage(answers: Mapping[str, Answer], suite: Suite, prompts: Sequence[Prompt], text: str) -> None:
    """Raise ConfigError if no prompt has an answer, and warn if some have none."""
    missing = [prompt.id for prompt in prompts if prompt.id not in answers]
    if len(missing) == len(prompts):
        raise ConfigError(f"--baseline {text!r} has no answer to any question of {suite.name}")
    if missing:
        log.warning("baseline %r has no answer to %d of %d questions", text, len(missing), len(prompts))


def check_used(spec: RunSpec, plans: Iterable[BaselinePlan | None]) -> None:
    """Raise ConfigError if `--baseline` is given and no suite of the run takes one."""
    if "*" in spec.baseline and len(spec.suites) > 1 and all(plan is None for plan in plans):
        raise ConfigError(f"--baseline {spec.baseline['*']!r}: no suite of this run takes another baseline")


def placeholders(suite: Suite) -> Suite:
    """Return the suite against stand-in answers, to show what it would ask. Return itself if it needs none.

    A baseline that the suite's file names as a file is read.
    """
    choice = suite.baseline_choice if isinstance(suite, NamesBaseline) else None
    if not isinstance(suite, TakesBaseline) or not (isinstance(suite, WantsBaseline) and suite.needs_baseline):
        return suite
    if choice is not None and Path(choice).is_file():
        from ..suites.exchange import read_answer_file

        answers = read_answer_file(Path(choice), suite.prompts())
        missing = [prompt.id for prompt in suite.prompts() if prompt.id not in answers]
        if missing:
            raise ConfigError(f"{choice} has no answer to {len(missing)} prompts, e.g. {missing[0]!r}")
    else:
        answers = {prompt.id: _placeholder(prompt, choice or "baseline", words=0) for prompt in suite.prompts()}
    against: Suite = suite.against(answers)
    return against


def _listed(official: JsonValue) -> str | None:
    if isinstance(official, dict):
        return " and ".join(dict.fromkeys(map(str, official.values())))
    return official if isinstance(official, str) else None


def _placeholder(prompt: Prompt, model: str, words: int = 300) -> Answer:
    """Return a stand-in. By default it has about 1,500 characters per turn, for plans."""
    numbers = range(1, 1 + len(prompt.turns))
    turns = tuple(f"(the baseline's answer {number})" + " word" * words for number in numbers)
    return Answer(prompt_id=prompt.id, model=model, turns=turns, finish=tuple("stop" for _ in turns))


def _recorded(text: str, suite: Suite, results: Path) -> dict[str, Answer] | None:
    """Return the first draw of a run or file, by prompt id, or None if the text names a model that is to be asked.

    `run:NAME` is a run, even if there is a file or folder of that name.
    """
    if text.startswith(("endpoint:", "hf:")):
        return None
    is_run = text.startswith("run:")
    path = Path(text.removeprefix("run:")).expanduser()
    if not is_run and path.is_file() and path.name != "card.json":
        from ..suites.exchange import read_answer_file  # deferred: it needs numpy, which the help does not

        return read_answer_file(path, suite.prompts())
    if not is_run and (path / "config.json").is_file():
        return None
    data = suite.protocol().get("data")
    folder = find_run(text.removeprefix("run:"), results, (suite.name,), data)
    card = read_card(folder / "card.json")
    if card.protocol.get("data") != data or (data is None and card.suite != suite.name):
        raise ConfigError(
            f"--baseline {text!r}: {folder} is a run of {card.suite} on other questions: their ids, texts, references, "
            "categories or system prompts differ"
        )
    rows = [row for row in read_rows(folder)[0] if row.error is None and row.index == 0]
    return {row.prompt_id: row.model_copy(update={"model": card.model}) for row in rows}


def _job(spec: RunSpec, suite: Suite, prompts: Sequence[Prompt], text: str, *, is_trusted: bool) -> BaselineJob:
    model = ModelRef.parse(text)
    # a candidate behind an endpoint says nothing about how to serve a folder, so that is vLLM's
    name = "endpoint" if model.scheme == "endpoint" else "vllm" if spec.backend == "endpoint" else spec.backend
    serve = spec.serve.model_dump() | ({} if is_trusted else UNSAFE)
    backend: Backend = load_plugin("backends", name)(model, ServeOptions(log_dir=spec.log_dir, seed=spec.seed, **serve))
    # of all the suite's prompts, so that runs with another limit find the same answers
    shas = {digest(suite.sampling(prompt).model_dump(mode="json"))[:12] for prompt in suite.prompts()}
    manifest: dict[str, JsonValue] = {
        "schema_version": 1,
        "model": model.short if model.scheme == "path" else str(model),
        "identity": backend.identity(),
        "suite": suite.name,
        "suite_version": suite.version,
        "data": suite.protocol().get("data"),
        "sampling": digest(sorted(shas))[:12],
    }
    folder = spec.results / "baselines" / model.slug / f"{suite.name.replace(':', '_')}@{suite.version}"
    return BaselineJob(
        suite, tuple(prompts), model, backend, folder / digest(manifest)[:12], spec.serve.concurrency, manifest
    )


async def ask(job: BaselineJob) -> None:
    """Ask the model what is missing, and store its answers as they arrive.

    Raise IncompleteError if some fail; the same command asks those again.
    """
    store = RunStore(job.folder).open(dict(job.manifest))
    try:
        prompts = iter(job.missing())
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(job.backend)

            async def work() -> None:
                for prompt in prompts:
                    answer = await server.answer(prompt, job.suite.sampling(prompt).model_copy(update={"n": 1}))
                    store.answers.append(answer.model_copy(update={"model": job.model.label}))

            # one iterator for all workers: each takes the next prompt when it is free
            async with asyncio.TaskGroup() as group:
                for _ in range(job.concurrency):
                    group.create_task(work())
    finally:
        store.close()
    missing = job.missing()
    if missing:
        raise IncompleteError(
            f"the baseline {job.model.label} failed on {len(missing)} of {len(job.prompts)} questions, e.g. "
            f"{missing[0].id}; the same command asks them again"
        )
