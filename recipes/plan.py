"""The remaining work of one step, what it costs, and totals over several steps.

GPU-hours = tokens / (tokens per second and device) / 3600; wall-clock hours = GPU-hours / devices of the step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from harness.judging.cost import CHARACTERS_PER_TOKEN
from harness.records import Answer, ModelRef, Record
from harness.records.errors import ConfigError, DataError, IncompleteError
from harness.records.facts import facts_of
from harness.records.judge_choice import suite_names
from harness.records.protocols import Suite, SuiteOptions, load_plugin
from harness.records.settings import ServeSpec, read_yaml
from harness.store import JsonlRows

from .pipeline import all_steps
from .records import Part, PromptRow
from .spec import PromptsSpec, SourceSpec, Training, VariantSpec, launch_path
from .steps import DONE, STAGES, Recipe, StepRecord, check_span, is_done


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
class PlanContext:
    """What every estimate is computed from."""

    recipe: Recipe
    known: Measurements
    first: int
    """Index of the first stage that is rerun even if it is done (`--from`)."""

    def done(self, stage: str, folder: Path) -> bool:
        """Return whether a step is done and will not be rerun."""
        return STAGES.index(stage) < self.first and record_of(folder) is not None

    def left(self, stage: str, rows: Path, wanted: int) -> int:
        """Return how many of `wanted` rows are still missing from the file."""
        if STAGES.index(stage) >= self.first:
            return wanted
        return 0 if self.done(stage, rows.parent) else max(0, wanted - lines_of(rows))

    def timed(self, item: PlanItem, *times: DeviceTime) -> PlanItem:
        """Return the item with its device time, and with its cost in dollars if GPU-hours have a price."""
        hours = [(time.gpu_hours, time) for time in times]
        known = all(value is not None for value, _ in hours)
        gpu_hours = sum(value or 0.0 for value, _ in hours)
        price = self.recipe.spec.rates.gpu_hour_price or 0.0
        return item.model_copy(
            update={
                "gpu_hours": gpu_hours if known else None,
                "hours": sum((value or 0.0) / time.devices for value, time in hours) if known else None,
                "dollars": gpu_hours * price if known or not price else None,
                "rates": tuple(f"{time.work}: {time.rate.by}" for time in times if time.tokens and time.rate),
            }
        )


SUMS = ("calls", "calls_done", "prompt_tokens", "answer_tokens", "trained_tokens")
KNOWN = ("gpu_hours", "hours", "dollars")


def total(items: Iterable[PlanItem]) -> dict[str, JsonValue]:
    """Return sums over steps, as JSON. Unknown values are left out of a sum, and `…_unknown` counts them."""
    listed = list(items)
    out: dict[str, JsonValue] = {"steps": len(listed), "done": sum(item.done for item in listed)}
    for name in SUMS:
        out[name] = sum(getattr(item, name) for item in listed)
    for name in KNOWN:
        values = [getattr(item, name) for item in listed]
        out[name] = sum(value for value in values if value is not None)
        out[f"{name}_unknown"] = sum(value is None for value in values)
    return out


# ----------------------------------------------------------------------------------------------------
# Read from a recipe's files how many prompts there are, how long texts are, and how fast models were. Writes nothing.
# Tokens are counted with the target's tokenizer if its file is on this machine, else estimated from the characters.


SAMPLE = 500
"""Number of evenly spaced texts that a mean length is computed from."""
COUNT, WRITTEN, SECONDS = "answers", "session_completion_tokens", "session_seconds"
"""Names of counts in the record of a step that samples (`sampling`)."""


@dataclass(frozen=True)
class Mean:
    """Mean tokens per text, or tokens per second and device, and the origin of the number."""

    value: float
    by: str


@dataclass(frozen=True)
class Prompts:
    """Number of prompts in each part, and their mean length."""

    parts: dict[Part, int]
    tokens: Mean
    by: str

    def of(self, *parts: Part) -> int:
        """Return the number of prompts in these parts together."""
        return sum(self.parts[part] for part in parts)


def record_of(folder: Path) -> StepRecord | None:
    """Return the record of the finished step in a folder, or None if there is no readable record."""
    try:
        return StepRecord.model_validate_json((folder / DONE).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def lines_of(path: Path) -> int:
    """Return the number of lines of a file, 0 if it cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0


@dataclass
class Measurements:
    """Counts, lengths and rates of one recipe, read from its files on first use."""

    recipe: Recipe

    @cached_property
    def prompts(self) -> Prompts:
        """Prompts of the finished stage, else of a local data set, else from `rates.prompts` or `prompts.limit`.

        Raise ConfigError if the number is unknown.
        """
        if record_of(self.recipe.prompts) is not None:
            return self._split()
        spec, rates = self.recipe.spec.prompts, self.recipe.spec.rates
        texts, by = _texts(spec)
        if texts is None:
            tokens = Mean(rates.prompt_tokens, "rates.prompt_tokens")
            count, by = (rates.prompts, "rates.prompts") if rates.prompts is not None else (spec.limit, "prompts.limit")
            if count is None:
                raise ConfigError(
                    f"the number of prompts in {spec.dataset} is unknown until it is loaded; give rates.prompts (or "
                    "prompts.limit), or run `harness train --until prompts` first"
                )
        else:
            count, tokens = len(texts), self.mean_tokens(texts)
        return Prompts(_parts(min(count, spec.limit or count), spec), tokens, by)

    def _split(self) -> Prompts:
        with (self.recipe.prompts / "prompts.jsonl").open("rb") as file:
            rows = [PromptRow.model_validate_json(line) for line in file]
        counts = Counter(row.part for row in rows)
        parts: dict[Part, int] = {part: counts[part] for part in ("sft", "preference", "validation", "test")}
        return Prompts(parts, self.mean_tokens([row.prompt.turns[0] for row in rows]), "the stage `prompts`")

    # ------------------------------------------------------------------------------------------------- lengths

    @cached_property
    def _count(self) -> tuple[Callable[[str], float], str]:
        file = tokenizer_file(self.recipe.spec.target)
        if file is None:
            return (lambda text: len(text) / CHARACTERS_PER_TOKEN), f"{CHARACTERS_PER_TOKEN:g} characters per token"
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        return (lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)), "the target's tokenizer"

    def mean_tokens(self, texts: Sequence[str]) -> Mean:
        """Return the mean tokens per text, estimated from a sample, without the chat template's tokens."""
        count, by = self._count
        chosen = texts[:: max(1, len(texts) // SAMPLE)]
        return Mean(sum(map(count, chosen)) / max(1, len(chosen)), by)

    def source_answer(self, name: str) -> Mean:
        """Return the mean tokens per answer of a source.

        It is measured on the source's answers, else on those of finished sources, else taken from the recipe.
        """
        exact = self._answer(self.recipe.source(name))
        if exact is not None:
            return exact
        means = [mean for source in self.recipe.spec.sources if (mean := self._answer(self.recipe.source(source.name)))]
        return _mean(means, "sources that are done") or self._default_answer

    @cached_property
    def target_answer(self) -> Mean:
        """Mean tokens per answer of the target, from finished seeds, else from the sources, else from the recipe."""
        target_means = [
            mean for seed in self.recipe.spec.seeds if (mean := self._answer(self.recipe.seed(seed) / "target"))
        ]
        source_means = [
            mean
            for source in self.recipe.spec.sources
            if (mean := self._answer(self.recipe.source(source.name))) is not None
        ]
        return (
            _mean(target_means, "the target's answers")
            or _mean(source_means, "the sources' answers")
            or self._default_answer
        )

    @property
    def _default_answer(self) -> Mean:
        # An answer cannot be longer than what is requested.
        spec = self.recipe.spec
        if spec.rates.answer_tokens > spec.sampling.max_tokens:
            return Mean(spec.sampling.max_tokens, "sampling.max_tokens")
        return Mean(spec.rates.answer_tokens, "rates.answer_tokens")

    def _answer(self, folder: Path) -> Mean | None:
        record = record_of(folder)
        if record is None:
            return None
        answers, tokens = number(record.counts, COUNT), number(record.counts, "completion_tokens")
        if answers and tokens:
            return Mean(tokens / answers, "existing answers")
        rows = JsonlRows(folder / "answers.jsonl", Answer).read()
        return self.mean_tokens([row.turns[0] for row in rows if row.error is None])

    # --------------------------------------------------------------------------------------------------- rates

    def generation(self, model: str, folders: Sequence[Path], serve: ServeSpec) -> Mean | None:
        """Return the tokens per second and device that a source or `target` generates: measured, else from `rates`."""
        measured = [
            Mean(number(record.counts, WRITTEN) / number(record.counts, SECONDS) / devices_of(serve), "measured")
            for folder in folders
            if (record := record_of(folder)) is not None
            and number(record.counts, WRITTEN)
            and number(record.counts, SECONDS)
        ]
        configured = self.recipe.spec.rates.generation
        rate = configured.get(model) if isinstance(configured, dict) else configured
        return _mean(measured, "measured") or (None if rate is None else Mean(rate, "rates.generation"))

    @cached_property
    def reward(self) -> Mean | None:
        """Tokens per second and device that the reward model reads: measured, else from `rates`."""
        spec = self.recipe.spec
        devices = devices_of(spec.reward.serve) * max(1, spec.reward.workers)
        records = [record_of(self.recipe.source_rewards(source.name)) for source in spec.sources]
        means = [
            Mean(number(record.counts, "session_tokens") / number(record.counts, SECONDS) / devices, "")
            for record in records
            if record is not None and number(record.counts, "session_tokens") and number(record.counts, SECONDS)
        ]
        configured = None if spec.rates.reward is None else Mean(spec.rates.reward, "rates.reward")
        return _mean(means, "measured") or configured

    @cached_property
    def training(self) -> Mean | None:
        """Trained tokens per second and device, measured on finished trainings, else from `rates`."""
        spec = self.recipe.spec
        folders = [
            folder
            for seed in spec.seeds
            for folder in (self.recipe.seed(seed) / "sft", *(self.recipe.variant(name, seed) for name in spec.variants))
        ]
        rates = [rate for folder in folders if (record := record_of(folder)) and (rate := _trained(record.counts))]
        configured = None if spec.rates.training is None else Mean(spec.rates.training, "rates.training")
        return _mean([Mean(rate, "") for rate in rates], "measured") or configured

    @cached_property
    def training_devices(self) -> int:
        """Number of processes in the accelerate configuration, or 1 if there is no configuration."""
        if self.recipe.spec.launch is None:
            return 1
        processes = read_yaml(launch_path(self.recipe.spec.launch)).get("num_processes", 1)
        return processes if isinstance(processes, int) and processes > 0 else 1


def devices_of(serve: ServeSpec) -> int:
    """Return the number of devices that a server uses."""
    return serve.tensor_parallel * serve.pipeline_parallel * serve.data_parallel


def number(counts: dict[str, JsonValue], key: str) -> float:
    """Return a count as a float, 0 if it is missing."""
    count = counts.get(key)
    return float(count) if isinstance(count, int | float) else 0.0


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


def _trained(counts: dict[str, JsonValue]) -> float:
    """Return the trained tokens per second and device of a finished training, 0 if they are unknown."""
    rows, seconds = number(counts, "rows"), number(counts, "train_seconds")
    if not rows or not seconds:
        return 0.0
    epochs = number(counts, "steps") * number(counts, "batch") / rows
    return number(counts, "tokens") * epochs / seconds / max(1.0, number(counts, "processes"))


def _mean(means: Sequence[Mean], by: str) -> Mean | None:
    return Mean(sum(mean.value for mean in means) / len(means), by) if means else None


def _parts(count: int, spec: PromptsSpec) -> dict[Part, int]:
    """Split the prompts as the stage `prompts` would if it dropped none."""
    held_out = min(count, spec.validation + spec.test)
    sft = round((count - held_out) * spec.sft_share)
    validation = min(spec.validation, held_out)
    return {
        "sft": sft,
        "preference": count - held_out - sft,
        "validation": validation,
        "test": held_out - validation,
    }


def _texts(spec: PromptsSpec) -> tuple[list[str] | None, str]:
    """Return the prompts of a local data set and its name, or (None, "") for a data set on the Hub."""
    if spec.dataset.startswith("hf:"):
        return None, ""
    from .prompts import PromptError, load_rows, prompt_in

    texts = []
    for row in load_rows(spec.dataset, spec.split):
        try:
            texts.append(prompt_in(row, spec.column)[1])
        except PromptError:
            continue
    if not texts:
        raise DataError(f"no row of {spec.dataset} has a prompt in column {spec.column!r}; set prompts.column")
    return texts, f"{Path(spec.dataset).name}, before any prompt is dropped"


# ----------------------------------------------------------------------------------------------------
# Estimates of the stages that sample and score answers: sources, rewards, target, evaluate.


WITHOUT_DEVICE = ("function", "judge", "pooling")
"""Kinds of reward that load no model on our devices, and so take no device time."""


def source_item(context: PlanContext, source: SourceSpec) -> PlanItem:
    """Estimate the answers of one source: device time, or dollars for an endpoint."""
    known, folder = context.known, context.recipe.source(source.name)
    item = PlanItem(
        stage="sources", name=f"sources/{source.name}", model=source.name, done=context.done("sources", folder)
    )
    if source.model is None:
        return item
    draws = known.prompts.of("sft", "preference") * context.recipe.spec.sampling.n
    left = context.left("sources", folder / "answers.jsonl", draws)
    item = item.model_copy(
        update={
            "calls": left,
            "calls_done": draws - left,
            "prompt_tokens": left * known.prompts.tokens.value,
            "answer_tokens": left * known.source_answer(source.name).value,
        }
    )
    if source.model.startswith("endpoint:"):
        return item.model_copy(update={"dollars": _list_price(item, source)})
    rate = known.generation(source.name, [folder], source.serve)
    return context.timed(item, DeviceTime(item.answer_tokens, rate, devices_of(source.serve), "generation"))


def _list_price(item: PlanItem, source: SourceSpec) -> float | None:
    if not item.calls:
        return 0.0
    if source.price_in is None or source.price_out is None:
        return None
    return (item.prompt_tokens * source.price_in + item.answer_tokens * source.price_out) / 1e6


def source_reward_item(context: PlanContext, source: SourceSpec) -> PlanItem:
    """Estimate the rewards of a source's answers.

    A source with existing answers has one per prompt, or as many as its file has if the file is on this machine.
    """
    spec, prompts = context.recipe.spec, context.known.prompts.of("sft", "preference")
    existing = lines_of(context.recipe.source(source.name) / "answers.jsonl")
    answers = max(prompts, existing) if source.model is None else prompts * spec.sampling.n
    folder, length = context.recipe.source_rewards(source.name), context.known.source_answer(source.name)
    return _rewarded(context, f"rewards/{source.name}", source.name, folder, answers=answers, length=length)


def target_items(context: PlanContext, seed: int) -> Iterator[PlanItem]:
    """Estimate a seed's samples of the SFT model, and their rewards."""
    known, folder = context.known, context.recipe.seed(seed)
    draws = known.prompts.of("preference") * context.recipe.spec.sampling.n
    left = context.left("target", folder / "target" / "answers.jsonl", draws)
    item = PlanItem(
        stage="target",
        name=f"seed-{seed}/target",
        seed=seed,
        model="sft",
        done=context.done("target", folder / "target"),
        calls=left,
        calls_done=draws - left,
        prompt_tokens=left * known.prompts.tokens.value,
        answer_tokens=left * known.target_answer.value,
    )
    yield context.timed(item, _by_target(context, item.answer_tokens))
    name, rewards_folder = f"seed-{seed}/target-rewards", folder / "target-rewards"
    rewarded = _rewarded(
        context, name, "sft", rewards_folder, answers=draws, length=known.target_answer, since="target"
    )
    yield rewarded.model_copy(update={"seed": seed})


def _rewarded(
    context: PlanContext, name: str, model: str, folder: Path, *, answers: int, length: Mean, since: str = "rewards"
) -> PlanItem:
    """Estimate one set of rewards. `since` is the stage whose rerun makes them obsolete."""
    left = context.left(since, folder / "rewards.jsonl", answers)
    item = PlanItem(
        stage="rewards",
        name=name,
        model=model,
        done=context.done(since, folder),
        calls=left,
        calls_done=answers - left,
        prompt_tokens=left * (context.known.prompts.tokens.value + length.value),
    )
    return context.timed(item, *_by_reward(context, item.prompt_tokens))


def _by_reward(context: PlanContext, tokens: float) -> list[DeviceTime]:
    spec = context.recipe.spec.reward
    if spec.kind in WITHOUT_DEVICE:
        return []
    return [DeviceTime(tokens, context.known.reward, devices_of(spec.serve) * max(1, spec.workers), "reward")]


def _by_target(context: PlanContext, tokens: float) -> DeviceTime:
    spec = context.recipe.spec
    folders = [context.recipe.seed(seed) / "target" for seed in spec.seeds]
    rate = context.known.generation("target", folders, spec.target_serve)
    return DeviceTime(tokens, rate, devices_of(spec.target_serve), "generation")


def held_out_item(context: PlanContext, seed: int, model: str) -> PlanItem:
    """Estimate answering the held-out prompts at every temperature, and rewarding the answers."""
    spec, known = context.recipe.spec, context.known
    each = sum(spec.evaluate.samples if temperature else 1 for temperature in spec.evaluate.temperatures)
    folder = context.recipe.held_out(model, seed)
    done = context.done("evaluate", folder)
    calls = 0 if done else known.prompts.of("validation", "test") * each
    read, written = calls * known.prompts.tokens.value, calls * known.target_answer.value
    item = PlanItem(
        stage="evaluate",
        name=f"seed-{seed}/held-out/{model}",
        seed=seed,
        model=model,
        done=done,
        calls=calls,
        prompt_tokens=read,
        answer_tokens=written,
    )
    return context.timed(item, _by_target(context, written), *_by_reward(context, read + written))


def suite_items(context: PlanContext) -> Iterator[PlanItem]:
    """Estimate the suites: one item per model and seed, and one for the target.

    Calls and dollars of judges are not included; `harness run --dry-run` estimates them.
    """
    evaluate = context.recipe.spec.evaluate
    if evaluate.suite is None:
        return
    turns = sum(_turns(suite, evaluate.edition, evaluate.limit) for suite in suite_names(evaluate.suite))
    everyone = ("target", "sft", *context.recipe.variants)
    models = everyone if "all" in evaluate.models else tuple(dict.fromkeys(evaluate.models))
    seeds = context.recipe.seeds if evaluate.suite_seeds == "all" else context.recipe.seeds[:1]
    for seed in seeds:
        for model in models:
            if model in (*everyone, "best") and (model != "target" or seed == context.recipe.seeds[0]):
                yield _suite_item(context, seed, model, turns)


def _suite_item(context: PlanContext, seed: int, model: str, turns: int) -> PlanItem:
    done = context.done("evaluate", context.recipe.suites(model, seed))
    calls = 0 if done else turns
    item = PlanItem(
        stage="evaluate",
        name=f"seed-{seed}/suites/{model}",
        seed=seed,
        model=model,
        done=done,
        calls=calls,
        prompt_tokens=calls * context.known.prompts.tokens.value,
        answer_tokens=calls * context.known.target_answer.value,
    )
    return context.timed(item, _by_target(context, item.answer_tokens))


def _turns(name: str, edition: str, limit: int | None) -> int:
    """Return the number of turns that a suite asks, of at most `limit` questions.

    The official edition's are known from the suite's facts, so that a plan does not download its files.
    """
    facts = facts_of(name)
    if edition == "official" and facts.questions is not None:
        return facts.turns * (facts.questions if limit is None else min(limit, facts.questions))
    suite: Suite = load_plugin("suites", facts.name)(SuiteOptions(edition=edition))
    return sum(len(prompt.turns) for prompt in suite.prompts()[:limit])


# ----------------------------------------------------------------------------------------------------
# Estimates of the stages that train, sft and align, and of the reference's log-probabilities.


FORWARD = 1 / 3
"""Cost of a forward pass relative to a training step: a backward pass is assumed to cost two forward passes."""
ANSWERS = 3
"""Answers per row: y_ws, y_wt, y_l."""


def sft_item(context: PlanContext, seed: int) -> PlanItem:
    """Estimate the SFT of a seed."""
    known = context.known
    tokens = known.prompts.of("sft") * (known.prompts.tokens.value + _source_length(context))
    tokens *= _epochs(context.recipe.spec.sft)
    return _training_item(
        context, "sft", f"seed-{seed}/sft", context.recipe.seed(seed) / "sft", tokens=tokens, seed=seed
    )


def reference_items(context: PlanContext, seed: int) -> Iterator[PlanItem]:
    """Estimate the reference's log-probabilities of a seed, once per set of pairs. SimPO and SFT need none."""
    needing: dict[int | None, list[str]] = {}
    for name, variant in context.recipe.variants.items():
        if variant.method == "preference" and _key(context, variant, "loss_type") != "simpo":
            needing.setdefault(variant.sources, []).append(name)
    for sources, names in needing.items():
        part = "" if sources is None else f"/sources-{sources}"
        done = all(context.done("align", context.recipe.variant(name, seed)) for name in names)
        tokens = 0.0 if done else _pairs(context, seed, sources) * _row(context)
        item = PlanItem(stage="align", name=f"seed-{seed}/reference{part}", seed=seed, model="reference", done=done)
        item = item.model_copy(update={"prompt_tokens": tokens})
        time = DeviceTime(tokens * FORWARD, context.known.training, context.known.training_devices, "training, forward")
        yield context.timed(item, time)


def align_item(context: PlanContext, seed: int, name: str, variant: VariantSpec) -> PlanItem:
    """Estimate the training of one variant."""
    pairs = _pairs(context, seed, variant.sources)
    keys = context.recipe.spec.training | variant.training
    if variant.method == "preference":
        tokens = pairs * _row(context)
    else:
        length = _source_length(context) if variant.answers == "source" else context.known.target_answer.value
        tokens = pairs * (context.known.prompts.tokens.value + length)
    folder = context.recipe.variant(name, seed)
    item = _training_item(
        context, "align", f"seed-{seed}/align/{name}", folder, tokens=tokens * _epochs(keys), seed=seed
    )
    return item.model_copy(update={"model": name})


def _training_item(context: PlanContext, stage: str, name: str, folder: Path, *, tokens: float, seed: int) -> PlanItem:
    done = context.done(stage, folder)
    left = 0.0 if done else tokens
    item = PlanItem(stage=stage, name=name, seed=seed, model=stage, done=done, trained_tokens=left)
    return context.timed(item, DeviceTime(left, context.known.training, context.known.training_devices, "training"))


def _row(context: PlanContext) -> float:
    """Return the tokens of one row: the prompt, counted once, and three answers."""
    known = context.known
    return known.prompts.tokens.value + _source_length(context) + (ANSWERS - 1) * known.target_answer.value


def _source_length(context: PlanContext) -> float:
    sources = context.recipe.spec.sources
    return sum(context.known.source_answer(source.name).value for source in sources) / len(sources)


def _pairs(context: PlanContext, seed: int, sources: int | None) -> int:
    """Return the number of pairs of the finished stage, else one per preference prompt."""
    folder = context.recipe.seed(seed) / "pairs"
    folder = folder if sources is None else folder / f"sources-{sources}"
    if context.done("pairs", folder):
        return lines_of(folder / "pairs.jsonl")
    return context.known.prompts.of("preference")


def _key(context: PlanContext, variant: VariantSpec, key: str) -> object:
    return (context.recipe.spec.training | variant.training).get(key)


def _epochs(keys: Training) -> float:
    epochs = keys.get("num_train_epochs", 1)
    return float(epochs) if isinstance(epochs, int | float) else 1.0


# ----------------------------------------------------------------------------------------------------
# `harness train --dry-run`: estimate the calls, tokens, GPU-hours and dollars that each step of a recipe still needs.
# Finished steps cost nothing. In a step that was interrupted, rows that exist already are not counted.


class RecipePlan(Record):
    """The remaining work of a recipe."""

    recipe: str
    items: tuple[PlanItem, ...]
    notes: tuple[str, ...]
    """What the estimates are based on, one sentence each."""

    def by_stage(self) -> dict[str, list[PlanItem]]:
        """Return the items of each stage that has any, in the order of the stages."""
        groups = {stage: [item for item in self.items if item.stage == stage] for stage in STAGES}
        return {stage: items for stage, items in groups.items() if items}

    def by_model(self, *stages: str) -> dict[str, list[PlanItem]]:
        """Return the items of these stages per source or variant, over all seeds."""
        groups: dict[str, list[PlanItem]] = {}
        for item in self.items:
            if item.stage in stages and item.model is not None:
                groups.setdefault(item.model, []).append(item)
        return groups

    def by_source(self) -> dict[str, list[PlanItem]]:
        """Return the items of each source: its answers and their rewards."""
        groups = self.by_model("sources", "rewards")
        return {
            name: seedless
            for name, items in groups.items()
            if (seedless := [item for item in items if item.seed is None])
        }

    @property
    def seeds(self) -> list[int]:
        return sorted({item.seed for item in self.items if item.seed is not None})

    def of_seed(self, seed: int) -> list[PlanItem]:
        return [item for item in self.items if item.seed == seed]

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the plan as printed by `--json`."""
        return {
            "recipe": self.recipe,
            "total": total(self.items),
            "by_stage": {stage: total(items) for stage, items in self.by_stage().items()},
            "by_seed": {str(seed): total(self.of_seed(seed)) for seed in self.seeds},
            "by_source": {name: total(items) for name, items in self.by_source().items()},
            "by_variant": {name: total(items) for name, items in self.by_model("align", "evaluate").items()},
            "steps": [item.model_dump(mode="json") for item in self.items],
            "notes": list(self.notes),
        }


def make_plan(recipe: Recipe, *, first: str | None = None, last: str | None = None) -> RecipePlan:
    """Return what `harness train` still has to do, rerunning everything from stage `first` and stopping after `last`.

    Raise ConfigError if the number of prompts is unknown or a finished step was made with other settings, and DataError
    if the data set cannot be read.
    """
    check_span(first, last)
    start = STAGES.index(first) if first else len(STAGES)
    _check_what_is_done(recipe, start)
    context = PlanContext(recipe, Measurements(recipe), start)
    until = len(STAGES) if last is None else STAGES.index(last) + 1
    # The target's rewards belong to the stage `rewards`, but need the answers of the later stage `target`.
    with_target = until > STAGES.index("target")
    items = tuple(
        item
        for item in _items(context)
        if STAGES.index(item.stage) < until and (with_target or item.stage != "rewards" or item.seed is None)
    )
    return RecipePlan(recipe=recipe.spec.name, items=items, notes=tuple(dict.fromkeys(_notes(context, items))))


def _check_what_is_done(recipe: Recipe, start: int) -> None:
    """Raise ConfigError if a finished step was made with other settings, because the run would stop there."""
    for step in all_steps(recipe):
        if STAGES.index(step.stage) < start:
            with suppress(IncompleteError):  # raised if an earlier step is not done; then this one is not done either
                is_done(step)


def _items(context: PlanContext) -> Iterator[PlanItem]:
    recipe = context.recipe
    yield PlanItem(stage="prompts", name="prompts", done=context.done("prompts", recipe.prompts))
    yield from (source_item(context, source) for source in recipe.spec.sources)
    yield from (source_reward_item(context, source) for source in recipe.spec.sources)
    for seed in recipe.seeds:
        yield sft_item(context, seed)
        yield from target_items(context, seed)
        for sources in sorted({variant.sources for variant in recipe.variants.values()}, key=lambda count: count or 0):
            name = f"seed-{seed}/pairs" if sources is None else f"seed-{seed}/pairs/sources-{sources}"
            yield PlanItem(stage="pairs", name=name, seed=seed, done=context.done("pairs", recipe.out / name))
        yield from reference_items(context, seed)
        yield from (align_item(context, seed, name, variant) for name, variant in recipe.variants.items())
        for model in ("target", "sft", *recipe.variants):
            if model != "target" or seed == recipe.seeds[0]:
                yield held_out_item(context, seed, model)
    yield from suite_items(context)
    yield PlanItem(stage="report", name="report", done=context.done("report", recipe.report))


def _notes(context: PlanContext, items: tuple[PlanItem, ...]) -> Iterator[str]:
    known, spec = context.known, context.recipe.spec
    parts = ", ".join(f"{count:,} {part}" for part, count in known.prompts.parts.items())
    yield f"prompts: {parts} (from {known.prompts.by}); {known.prompts.tokens.value:.0f} tokens each, " + (
        f"by {known.prompts.tokens.by}"
    )
    lengths = {known.source_answer(source.name) for source in spec.sources}
    for length in sorted(lengths, key=lambda mean: mean.value):
        yield f"a source's answer: {length.value:.0f} tokens, by {length.by}"
    yield f"the target's answer: {known.target_answer.value:.0f} tokens, by {known.target_answer.by}"
    yield f"training on {known.training_devices} device(s); reference log-probabilities as a third of a training pass"
    for rate in sorted({rate for item in items for rate in item.rates}):
        yield f"speed of {rate}"
    if any(item.gpu_hours is None for item in items):
        yield "the speed of some steps is unknown: set `rates:` in the recipe, or finish one such step first"
    if spec.rates.gpu_hour_price is None:
        yield "dollars cover endpoints only: set `rates.gpu_hour_price` to include devices"
    if spec.evaluate.suite is not None:
        yield "calls of the suites' judges are not counted: see `harness run --dry-run`"


# ----------------------------------------------------------------------------------------------------
# Render a plan as tables for a terminal: per stage, source, variant and seed.


class PlanColumn(NamedTuple):
    head: str
    key: str
    digits: int = 0


COLUMNS = (
    PlanColumn("calls", "calls"),
    PlanColumn("read", "prompt_tokens"),
    PlanColumn("written", "answer_tokens"),
    PlanColumn("trained", "trained_tokens"),
    PlanColumn("GPU-hours", "gpu_hours", 2),
    PlanColumn("hours", "hours", 2),
    PlanColumn("US $", "dollars", 2),
)


def plan_tables(plan: RecipePlan) -> list[RenderableType]:
    """Return a table per stage with totals, then per source, variant and seed if there are several, then the notes."""
    stages = [*plan.by_stage().items(), ("all", list(plan.items))]
    parts: list[tuple[str, Sequence[tuple[str, Sequence[PlanItem]]]]] = [
        (f"{plan.recipe}: remaining work per stage (read, written, trained: tokens)", stages)
    ]
    if len(by_source := list(plan.by_source().items())) > 1:
        parts.append(("per source: answers and their rewards", by_source))
    if by_variant := list(plan.by_model("align", "evaluate").items()):
        parts.append(("per model: training and evaluation, all seeds", by_variant))
    if len(plan.seeds) > 1:
        parts.append(("per seed", [(str(seed), plan.of_seed(seed)) for seed in plan.seeds]))
    tables: list[RenderableType] = [shown for name, rows in parts for shown in (Text(name), _table(rows))]
    return [*tables, Text("\n".join(f"- {note}" for note in plan.notes))]


def _table(rows: Sequence[tuple[str, Sequence[PlanItem]]]) -> Table:
    # Columns that are empty in every row are left out.
    sums = [total(items) for _, items in rows]
    cells = {column.head: [_cell(row_sums, column) for row_sums in sums] for column in COLUMNS}
    shown = {head: column for head, column in cells.items() if any(cell != "-" for cell in column)}
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for head in ("steps", "done", *shown):
        table.add_column(head, justify="right", no_wrap=True)
    for index, (label, items) in enumerate(rows):
        counts = (str(len(items)), str(sums[index]["done"] or "-"))
        table.add_row(Text(label), *counts, *(column[index] for column in shown.values()))
    return table


def _cell(sums: Mapping[str, JsonValue], column: PlanColumn) -> str:
    """Return `-` for zero, `?` for an unknown value, and `1.2 + ?` if only part of the sum is known."""
    value, unknown = sums[column.key], sums.get(f"{column.key}_unknown", 0)
    assert isinstance(value, int | float)
    shown = quantity(value, column.digits) if value else ""
    return " + ".join(part for part in (shown, "?" if unknown else "") if part) or "-"


def quantity(value: float, digits: int = 0) -> str:
    """Return a number with thousands separators, or from 100,000 with three digits and k, M or G."""
    if digits:
        return f"{value:,.{digits}f}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * (100 if unit == "k" else 1):
            return f"{value / size:,.3g} {unit}" if value < size * 1000 else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}"
