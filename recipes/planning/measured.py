"""Read from a recipe's files how many prompts there are, how long texts are, and how fast models were. Writes nothing.

Tokens are counted with the target's tokenizer if its file is on this machine, else estimated from the characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import JsonValue

from harness.config.specs import ServeSpec, read_yaml
from harness.errors import ConfigError, DataError
from harness.judging.tokens import CHARACTERS_PER_TOKEN
from harness.records import Answer, ModelRef
from harness.store import JsonlRows

from ..recipe import Recipe
from ..records import Part, PromptRow
from ..shipped import launch_path
from ..spec import PromptsSpec
from ..steps import DONE, StepRecord

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
    from ..prompts.dataset import PromptError, load_rows, prompt_in

    texts = []
    for row in load_rows(spec.dataset, spec.split):
        try:
            texts.append(prompt_in(row, spec.column)[1])
        except PromptError:
            continue
    if not texts:
        raise DataError(f"no row of {spec.dataset} has a prompt in column {spec.column!r}; set prompts.column")
    return texts, f"{Path(spec.dataset).name}, before any prompt is dropped"
