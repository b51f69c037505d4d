"""Estimate what a step still costs: calls, tokens, GPU-hours and dollars, from the lengths and rates measured so far.

A model that needs four GPUs and one that needs a single GPU share eight. One that needs all eight goes first:

>>> allot([Job("big", Gpus(unit=4), hours=9.0), Job("small", Gpus(unit=1), hours=9.0)], free=8, start_hours=0.1)
{'big': 4, 'small': 4}
>>> allot([Job("huge", Gpus(unit=8), hours=9.0), Job("small", Gpus(unit=1), hours=9.0)], free=8, start_hours=0.1)
{'huge': 8}

The arithmetic of a stage is beside its work, in `stages`; this module has what the stages share. GPU-hours are tokens /
(tokens per second and device) / 3600, and wall-clock hours are GPU-hours / devices. Rates and lengths are measured on
finished steps, else taken from `rates:` in the recipe. Tokens are counted with the target's tokenizer if its file is on
this machine, else estimated from the characters. Nothing is written.

The division of GPUs is here because `schedule`, which starts the processes, and `plan`, which works out the hours, must
agree on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from harness.backends.devices import assigned_devices, groups_of
from harness.judging.cost import CHARACTERS_PER_TOKEN
from harness.records import Answer, ModelRef, Record
from harness.records.errors import ConfigError, DataError
from harness.store import JsonlRows

from .layout import (
    ANSWERS,
    PARTS,
    PROMPTS,
    Counts,
    Part,
    PromptRow,
    Recipe,
    StepRecord,
    prompt_text,
    record_in,
    rows_in,
)
from .prompts import PromptError, load_rows, part_sizes, prompt_in
from .spec import PromptsSpec

# ----------------------------------------------------------------------------------------------------------------- GPUs


@dataclass(frozen=True)
class Gpus:
    """How many GPUs a step can use: `unit` for one replica of its model (0: none), times at most `replicas`."""

    unit: int = 0
    replicas: int | None = None
    """None: as many as fit."""

    def limit(self, free: int) -> int:
        """Return the most GPUs that the step can use if `free` are free."""
        if not self.unit:
            return 0
        replicas = free // self.unit
        return self.unit * (replicas if self.replicas is None else min(replicas, self.replicas))


@dataclass(frozen=True)
class Job:
    """A step and its remaining work in GPU-hours."""

    name: str
    gpus: Gpus
    hours: float
    alone: bool = False
    """Whether no other step may run at the same time."""
    after: tuple[str, ...] = ()
    """Names of the steps that must end before it starts."""


def starting(ready: Sequence[Job], free: int, running: Collection[Job], start_hours: float) -> dict[str, int]:
    """Return the jobs that start now, with their numbers of GPUs. A job with `alone` gets all, once nothing runs."""
    if any(job.alone for job in running):
        return {}
    together = [job for job in ready if not job.alone]
    shares = allot(together, free, start_hours)
    starts = {job.name: shares.get(job.name, 0) for job in together if job.name in shares or not job.gpus.unit}
    if starts or running:
        return starts
    return {job.name: free for job in [job for job in ready if job.alone][:1]}


def allot(ready: Sequence[Job], free: int, start_hours: float) -> dict[str, int]:
    """Return the number of GPUs for each job that starts now; the others wait. `free`: the GPUs that nobody uses.

    Jobs with the largest unit go first, and while one waits nothing narrower starts, so that it gets its GPUs as soon
    as the running jobs end. As many jobs start side by side as keep the GPUs busiest until the last one ends: a start
    costs `start_hours` on all GPUs of a job, and GPUs idle if one job ends long before another.
    """
    order = sorted((job for job in ready if job.gpus.unit), key=lambda job: (-job.gpus.unit, -job.hours))
    if not order or order[0].gpus.unit > free:
        return {}
    fitting: list[Job] = []
    for job in order:
        if sum(each.gpus.unit for each in fitting) + job.gpus.unit <= free:
            fitting.append(job)
    options = [_shared(fitting[:count], free) for count in range(1, len(fitting) + 1)]
    return max(reversed(options), key=lambda shares: _busy(fitting, shares, start_hours))  # the widest of equals


def _shared(jobs: Sequence[Job], free: int) -> dict[str, int]:
    """Give every job one unit, then each spare unit to the job that would end last."""
    shares = {job.name: job.gpus.unit for job in jobs}
    while True:
        spare = free - sum(shares.values())
        growing = [job for job in jobs if job.gpus.unit <= spare and shares[job.name] < job.gpus.limit(free)]
        if not growing:
            return shares
        last = max(growing, key=lambda job: job.hours / shares[job.name])
        shares[last.name] += last.gpus.unit


def _busy(jobs: Sequence[Job], shares: dict[str, int], start_hours: float) -> float:
    """Return the GPU-hours of work done per hour until the last of these jobs ends."""
    hours = {job.name: job.hours for job in jobs if job.name in shares}
    longest = max(start_hours + hours[name] / share for name, share in shares.items())
    return sum(hours.values()) / longest if longest else 0.0


@dataclass(frozen=True)
class PlannedStep:
    """When a step runs and on how many GPUs, by the plan. Times are in hours; the first steps start at 0."""

    name: str
    start: float
    hours: float
    devices: int
    gpu_hours: float
    """The work of the step, without the start of its model, during which the GPUs count as idle."""


def simulate(jobs: Sequence[Job], devices: int, start_hours: float) -> tuple[PlannedStep, ...]:
    """Return when each job runs if the scheduler divides the GPUs among them and each goes as fast as estimated.

    Every job needs at most `devices` GPUs. A job without GPUs takes no time. What runs `alone` uses one unit.
    """
    now, free = 0.0, devices  # hours since the start
    waiting, running, planned = list(jobs), dict[str, tuple[Job, PlannedStep]](), list[PlannedStep]()
    while waiting or running:
        names = {job.name for job in waiting} | set(running)
        ready = [job for job in waiting if not names.intersection(job.after)]
        shares = starting(ready, free, [job for job, _ in running.values()], start_hours)
        for job in ready:
            if job.name not in shares:
                continue
            count = job.gpus.unit if job.alone else shares[job.name]
            hours = start_hours + job.hours / count if count else 0.0
            running[job.name] = (job, PlannedStep(job.name, now, hours, count, job.hours if count else 0.0))
            waiting.remove(job)
        now = min(step.start + step.hours for _, step in running.values())
        for _, step in list(running.values()):
            if step.start + step.hours <= now:
                planned.append(running.pop(step.name)[1])
        free = devices - sum(step.devices for _, step in running.values())
    return tuple(sorted(planned, key=lambda step: step.start))


def replica_devices(unit: int) -> list[str | None]:
    """Return CUDA_VISIBLE_DEVICES of each replica, in groups of `unit` of this process's GPUs; [None] if none are set.

    >>> import os
    >>> os.environ["CUDA_VISIBLE_DEVICES"] = "4,5,6,7"
    >>> replica_devices(2)
    ['4,5', '6,7']
    >>> del os.environ["CUDA_VISIBLE_DEVICES"]
    """
    return [*groups_of(assigned_devices(), unit)] or [None]


# --------------------------------------------------------------------------------------------------------- the estimate


SAMPLE = 500
"""Number of evenly spaced texts that a mean length is computed from. If lengths vary by as much as their mean, 500
give it within 9 % (two standard errors)."""


class PlanItem(Record):
    """The remaining work of one step. It is 0 if the step is done."""

    stage: str
    name: str
    seed: int | None = None
    model: str | None = None
    """The source, the variant, `sft` or `target`."""
    done: bool = False
    calls: int = 0
    """Answers to sample or to reward, or questions of suites to ask."""
    calls_done: int = 0
    prompt_tokens: float = 0.0
    """Tokens that the answering model reads, or prompt and answer tokens that the reward model reads."""
    answer_tokens: float = 0.0
    """Tokens that the answering model generates."""
    trained_tokens: float = 0.0
    """Tokens of prompts and answers, times epochs."""
    gpu_hours: float | None = 0.0
    """None: the rate is unknown."""
    hours: float | None = 0.0
    """Wall-clock hours if the step runs alone."""
    dollars: float | None = 0.0
    """Endpoints by their prices, devices by `rates.gpu_hour_price` if it is set. None: unknown."""
    rates: tuple[str, ...] = ()
    """Rates that the time was estimated from, with their origin."""


@dataclass(frozen=True)
class Mean:
    """Mean tokens per text, or tokens per second and device, and the origin of the number."""

    value: float
    by: str


@dataclass(frozen=True)
class DeviceTime:
    """The time that devices need for a number of tokens."""

    tokens: float
    rate: Mean | None
    devices: int
    work: str
    """Shown in the plan: generation, reward or training."""

    @property
    def gpu_hours(self) -> float | None:
        if not self.tokens:
            return 0.0
        return None if self.rate is None else self.tokens / self.rate.value / 3600


@dataclass(frozen=True)
class Prompts:
    """Number of prompts in each part, and their mean length."""

    parts: dict[Part, int]
    tokens: Mean
    by: str

    def of(self, *parts: Part) -> int:
        """Return the number of prompts in these parts together."""
        return sum(self.parts[part] for part in parts)


@dataclass
class Estimator:
    """Counts, lengths and rates of one recipe, read from its files on first use."""

    recipe: Recipe
    kept: frozenset[str]
    """Names of the steps that are not rerun if they are done (all that `--from` does not name)."""
    _records: dict[Path, StepRecord | None] = field(default_factory=dict)

    def done(self, name: str, folder: Path) -> bool:
        """Return whether a step is done and will not be rerun."""
        return name in self.kept and self._record(folder) is not None

    def missing(self, item: PlanItem, rows: Path, total: int) -> int:
        """Return how many of `total` rows the step still has to write into the file."""
        if item.done:
            return 0
        return max(0, total - lines_of(rows)) if item.name in self.kept else total

    def timed(self, item: PlanItem, *times: DeviceTime) -> PlanItem:
        """Return the item with its device time, and with its cost in dollars if GPU-hours have a price."""
        hours = [(time.gpu_hours, time) for time in times]
        is_known = all(value is not None for value, _ in hours)
        gpu_hours = sum(value or 0.0 for value, _ in hours)
        price = self.recipe.spec.rates.gpu_hour_price or 0.0
        return item.model_copy(
            update={
                "gpu_hours": gpu_hours if is_known else None,
                "hours": sum((value or 0.0) / time.devices for value, time in hours) if is_known else None,
                "dollars": gpu_hours * price if is_known or not price else None,
                "rates": tuple(f"{time.work}: {time.rate.by}" for time in times if time.tokens and time.rate),
            }
        )

    def rate(
        self,
        kind: Literal["generation", "reading", "reward", "training"],
        configured: float | None,
        folders: Sequence[Path],
        measured: Callable[[Counts], float],
    ) -> Mean | None:
        """Return the tokens per second and device: the mean of what these folders' steps measured, else `configured`.

        `measured` returns the rate in a step's counts, 0 if it is unknown.
        """
        records = [record for folder in folders if (record := self._record(folder)) is not None]
        rates = [rate for record in records if (rate := measured(record.counts))]
        if rates:
            return Mean(sum(rates) / len(rates), "measured")
        return None if configured is None else Mean(configured, f"rates.{kind}")

    def _record(self, folder: Path) -> StepRecord | None:
        if folder not in self._records:
            try:
                self._records[folder] = record_in(folder)
            except ConfigError:  # a step that will be rerun may have a broken record
                self._records[folder] = None
        return self._records[folder]

    @cached_property
    def prompts(self) -> Prompts:
        """Prompts of the finished stage, else of a local data set, else from `rates.prompts` or `prompts.limit`.

        Raise ConfigError if the number is unknown or too small to be split.
        """
        spec, rates = self.recipe.spec.prompts, self.recipe.spec.rates
        if self._record(self.recipe.prompts) is not None:
            rows = list(rows_in(self.recipe.prompts / PROMPTS, PromptRow))
            counts = Counter(row.part for row in rows)
            parts: dict[Part, int] = {part: counts[part] for part in PARTS}
            return Prompts(parts, self.mean_tokens([prompt_text(row.prompt) for row in rows]), "the stage `prompts`")
        if (pairs := self.recipe.spec.pairs).dataset is not None:
            return self._own_pairs(pairs.dataset, pairs.split)
        if not spec.dataset.startswith("hf:"):
            texts = _texts(spec)
            count, by = len(texts), f"{Path(spec.dataset).name}, before any prompt is dropped"
            return Prompts(part_sizes(min(count, spec.limit or count), spec), self.mean_tokens(texts), by)
        guess, by = (spec.limit, "prompts.limit") if rates.prompts is None else (rates.prompts, "rates.prompts")
        if guess is None:
            raise ConfigError(
                f"the number of prompts in {spec.dataset} is unknown until it is loaded; give rates.prompts (or "
                "prompts.limit), or run `harness train --until prompts` first"
            )
        tokens = Mean(rates.prompt_tokens, "rates.prompt_tokens")
        return Prompts(part_sizes(min(guess, spec.limit or guess), spec), tokens, by)

    def _own_pairs(self, dataset: str, split: str) -> Prompts:
        """Count existing pairs as preference prompts, and what is held out to be answered."""
        spec, rates = self.recipe.spec.prompts, self.recipe.spec.rates
        parts: dict[Part, int] = dict.fromkeys(PARTS, 0) | {"validation": spec.validation, "test": spec.test}
        if not dataset.startswith("hf:"):
            parts["preference"] = len(load_rows(dataset, split))
            by = f"{Path(dataset).name}, before any pair is dropped"
        elif rates.prompts is not None:
            parts["preference"], by = rates.prompts, "rates.prompts"
        else:
            raise ConfigError(f"the number of pairs in {dataset} is unknown until they are loaded; give rates.prompts")
        return Prompts(parts, Mean(rates.prompt_tokens, "rates.prompt_tokens"), by)

    def mean_tokens(self, texts: Sequence[str]) -> Mean:
        """Return the mean tokens per text, estimated from a sample, without the chat template's tokens."""
        count, by = self._tokenizer
        chosen = texts[:: max(1, len(texts) // SAMPLE)]
        return Mean(sum(map(count, chosen)) / max(1, len(chosen)), by)

    @cached_property
    def _tokenizer(self) -> tuple[Callable[[str], float], str]:
        file = tokenizer_file(self.recipe.spec.target)
        if file is None:
            return (lambda text: len(text) / CHARACTERS_PER_TOKEN), f"{CHARACTERS_PER_TOKEN:g} characters per token"
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        return (lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)), "the target's tokenizer"

    def source_answer(self, name: str) -> Mean:
        """Return the mean tokens per answer of a source: measured on its own, else on other sources, else assumed."""
        lengths = self._lengths
        return lengths.get(name) or _mean(lengths.values(), "sources that are done") or self._assumed_answer

    @cached_property
    def any_source_answer(self) -> float:
        """Mean tokens per answer over all sources, which are assumed to be chosen equally often."""
        lengths = [self.source_answer(source.name).value for source in self.recipe.spec.sources]
        lengths = lengths or [self._assumed_answer.value]  # existing pairs
        return sum(lengths) / len(lengths)

    @cached_property
    def target_answer(self) -> Mean:
        """Mean tokens per answer of the target, from finished seeds, else from the sources, else assumed."""
        lengths = [length for seed in self.recipe.spec.seeds if (length := self._answer(self.recipe.target(seed)))]
        return (
            _mean(lengths, "the target's answers")
            or _mean(self._lengths.values(), "the sources' answers")
            or self._assumed_answer
        )

    @cached_property
    def _lengths(self) -> dict[str, Mean]:
        """Mean tokens per answer of each source that is done."""
        folders = {source.name: self.recipe.source(source.name) for source in self.recipe.spec.sources}
        return {name: length for name, folder in folders.items() if (length := self._answer(folder))}

    @property
    def _assumed_answer(self) -> Mean:
        # An answer cannot be longer than what is requested.
        spec = self.recipe.spec
        if spec.rates.answer_tokens > spec.sampling.max_tokens:
            return Mean(float(spec.sampling.max_tokens), "sampling.max_tokens")
        return Mean(spec.rates.answer_tokens, "rates.answer_tokens")

    def _answer(self, folder: Path) -> Mean | None:
        record = self._record(folder)
        if record is None:
            return None
        answers, tokens = number(record.counts, "answers"), number(record.counts, "completion_tokens")
        if answers and tokens:
            return Mean(tokens / answers, "existing answers")
        rows = JsonlRows(folder / ANSWERS, Answer).read()
        return self.mean_tokens([row.turns[0] for row in rows if row.error is None])


def lines_of(path: Path) -> int:
    """Return the number of lines of a file, 0 if it cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


def number(counts: Counts, key: str) -> float:
    """Return a count as a float, 0 if it is missing."""
    count = counts.get(key)
    return float(count) if isinstance(count, int | float) else 0.0


def replicas(counts: Counts) -> float:
    """Return how many servers or processes shared the work of a step's last session."""
    return number(counts, "session_replicas") or 1.0


def tokenizer_file(target: str) -> Path | None:
    """Return the target's tokenizer.json if it is on this machine, else None. Nothing is downloaded."""
    model = ModelRef.parse(target)
    if model.scheme == "path":
        file = Path(model.name).expanduser() / "tokenizer.json"
        return file if file.is_file() else None
    if model.scheme != "hf":
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cached = try_to_load_from_cache(model.name, "tokenizer.json", revision=model.revision)
    return Path(cached) if isinstance(cached, str) else None


def _mean(means: Collection[Mean], by: str) -> Mean | None:
    return Mean(sum(mean.value for mean in means) / len(means), by) if means else None


def _texts(spec: PromptsSpec) -> list[str]:
    texts = []
    for row in load_rows(spec.dataset, spec.split):
        try:
            talk = prompt_in(row, spec.column)
            texts.append("\n\n".join((*talk.turns, *talk.answered)))
        except PromptError:
            continue
    if not texts:
        raise DataError(f"no row of {spec.dataset} has a prompt in column {spec.column!r}; set prompts.column")
    return texts
