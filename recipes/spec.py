"""The schema of a recipe's YAML file, and how a file becomes a `RecipeSpec`.

`base:` is filled in, sweeps are expanded, names are checked, and unknown keys are rejected. The resolved recipe is
written beside the run. Training keys (under `training`, `sft`, and in a variant) are those of TRL's SFTConfig and of
`training.trainer.WRPOConfig`, which extend transformers' TrainingArguments; `training.settings` checks them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue

from harness.records import Record, Sampling
from harness.records.asking import is_empty
from harness.records.documents import read_yaml
from harness.records.errors import ConfigError
from harness.records.facts import all_facts
from harness.records.settings import ServeSpec, checked

Training = dict[str, JsonValue]
"""Keys of a trainer's configuration and their values."""
Method = Literal["preference", "sft"]


SWEPT = ("alpha", "beta", "gamma", "learning_rate", "sources")
"""Keys of a variant that may be lists; they give one variant per value."""
RESERVED = frozenset({"all", "best", "sft", "target"})
"""Names that a variant may not have."""
CONFIGS = Path(__file__).parent / "configs"


def _decontaminating() -> tuple[str, ...]:
    return tuple(facts.name for facts in all_facts() if facts.decontaminates)


class PromptsSpec(Record):
    """Section `prompts:`: which prompts to use, and how to split them."""

    dataset: str
    """FILE.jsonl, FILE.parquet, `hf:ORG/NAME[@REVISION]`, or `module:NAME` of a function that returns rows."""
    split: str = "train"
    column: str = "prompt"
    """Column of the prompt's text or messages."""
    id_column: str | None = None
    """Column of the prompt's id. None: a digest of its text."""
    columns: tuple[str, ...] = ()
    """Further columns to keep, for reward functions."""
    limit: int | None = Field(default=None, gt=0)
    """Maximum number of prompts, drawn at random by `seed`."""
    sft_share: float = Field(default=1 / 3, ge=0, le=1)
    """Share of the prompts for SFT. WRPO release, README: one third SFT, two thirds preferences."""
    validation: int = Field(default=0, ge=0)
    """Number of prompts held out to choose the best variant."""
    test: int = Field(default=0, ge=0)
    """Number of prompts held out for the report."""
    max_prompt_length: int = Field(default=1800, gt=0)
    """In tokens of the target's tokenizer and template; longer prompts are dropped.

    1800: WRPO release, llama-3-8b-instruct-sft-wrpo.yaml.
    """
    decontaminate: tuple[str, ...] = Field(default_factory=_decontaminating)
    """Suites whose questions are removed from the prompts. Default: those whose facts say so."""
    edition: str = "official"
    """Edition of those suites."""
    seed: int = 42


class SourceSpec(Record):
    """One entry of `sources:`: a model to sample, or existing answers."""

    name: str = Field(pattern=r"^[\w.-]+$")
    model: str | None = None
    """Folder, hf:ORG/NAME@REVISION or endpoint:NAME@URL. Required unless there are `answers`."""
    answers: str | None = None
    """FILE.jsonl, or `hf:ORG/NAME[@REVISION]` in the format of the released data set."""
    backend: str = "vllm"
    serve: ServeSpec = ServeSpec()
    license: str | None = None
    """SPDX identifier, for the model card."""
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    """US dollars per million tokens, used by --dry-run."""


class SamplingSpec(Record):
    """Section `sampling:`: how sources and target are sampled.

    Defaults: WRPO release, README; max_tokens: SimPO's on_policy_data_gen.
    """

    n: int = Field(default=5, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=4096, gt=0)
    seed: int | None = 42
    """Decides every answer. None: one request for all answers to a prompt, without a seed, which is faster in vLLM."""
    max_failed: float = Field(default=0.05, ge=0, le=1)
    """Share of answers that may fail or be empty before the stage stops as incomplete."""

    def as_sampling(self, seed: int | None = None) -> Sampling:
        """Return the settings as backends take them, with another seed if one is given and answers have seeds."""
        settings = self.model_dump(exclude={"max_failed"})
        settings |= {} if seed is None or self.seed is None else {"seed": seed}
        return Sampling(**settings)


class RewardSpec(Record):
    """Section `reward:`: what scores answers."""

    kind: str
    """Entry point in `fusion_harness.rewards`: function, reward_model, armorm, pooling, judge."""
    model: str | None = None
    """Depends on the kind: a folder, hf:ORG/NAME@REVISION, `FILE.py:NAME` or `module:NAME`, or a judge's name."""
    url: str | None = None
    key_env: str | None = None
    batch_size: int = Field(default=8, ge=1)
    serve: ServeSpec = ServeSpec()
    params: dict[str, JsonValue] = {}
    overlong: Literal["fail", "drop"] = "fail"
    """If the reward model would have to truncate an answer: stop, or drop that answer and count it."""
    workers: int = Field(default=0, ge=0)
    """Number of Ray workers that score. 0: score in this process."""
    worker_cpus: float = Field(default=1.0, ge=0)
    worker_gpus: float | None = Field(default=None, ge=0)
    """CPUs and GPUs that Ray reserves per worker. GPUs None: one if the cluster has any; set 0 to score on CPUs."""


class PairsSpec(Record):
    """Section `pairs:`: how y_ws, y_wt and y_l are picked."""

    min_margin: float = Field(default=0.0, ge=0)
    """Minimum of the reward of y_wt less that of y_l. WRPO has no minimum, FuseChat-3.0 uses 0.01."""
    max_margin: float | None = Field(default=None, gt=0)
    """Maximum of the same difference. FuseChat-3.0 uses 0.1."""
    drop_truncated: bool = False
    """Drop answers that were truncated at max_tokens."""


class VariantSpec(Record):
    """One entry of `variants:`. Its `training` overrides the recipe's."""

    method: Method = "preference"
    answers: Literal["source", "target"] = "source"
    """Method sft only: which answers of the pairs are learned, y_ws or y_wt."""
    sources: int | None = Field(default=None, ge=1)
    """Pick y_ws from the first N sources only. The SFT model is the same for all variants."""
    training: Training = {}


class SuitesSpec(Record):
    """Suites to run on a model, with options of `harness run`."""

    suite: str | None = None
    """As for `harness run --suite`. None: no suite is run."""
    edition: str = "official"
    judge: str | dict[str, str] | None = None
    limit: int | None = Field(default=None, gt=0)
    backend: str = "vllm"
    serve: ServeSpec = ServeSpec()


class EvaluateSpec(SuitesSpec):
    """Section `evaluate:`: how variants are evaluated."""

    models: tuple[str, ...] = ("all",)
    """Models to run suites on: `all`, or a list of variants, `sft`, `target`, and `best` (by validation reward)."""
    temperatures: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    """Held-out prompts are answered and rewarded at each of these temperatures. 0: greedy."""
    samples: int = Field(default=1, ge=1)
    """Answers per held-out prompt at temperatures above 0."""
    baselines: tuple[str, ...] | None = None
    """Variants that all others are compared with, besides the SFT model and the target.

    None: dpo and sft-cont, if the recipe has them.
    """
    suite_seeds: Literal["first", "all"] = "first"
    """Seeds whose checkpoints are run on the suites."""


class RatesSpec(Record):
    """Section `rates:`: assumptions of --dry-run until the run has measured them. They do not affect any result."""

    prompts: int | None = Field(default=None, gt=0)
    """Number of prompts in the data set, if it cannot be counted on this machine."""
    prompt_tokens: float = Field(default=200.0, gt=0)
    """Mean tokens per prompt. The default is a guess."""
    answer_tokens: float = Field(default=500.0, gt=0)
    """Mean tokens per answer. The default is a guess: WRPO's beta of 0.01 suits answers of about this length."""
    generation: float | dict[str, float] | None = None
    """Generated tokens per second and device: one number for all models, or one per source (and `target`)."""
    reward: float | None = Field(default=None, gt=0)
    """Tokens per second and device that the reward model reads."""
    training: float | None = Field(default=None, gt=0)
    """Trained tokens per second and device, counting the prompt and every answer."""
    gpu_hour_price: float | None = Field(default=None, ge=0)
    """US dollars per GPU-hour."""
    start_minutes: float = Field(default=5.0, ge=0, exclude_if=lambda minutes: minutes == 5.0)
    """Minutes until a model is loaded and works. The default is a guess for models of tens of GB on a local disk."""


class EvaluateEverySpec(SuitesSpec):
    """Section `evaluate_every:`: suites to run on the current weights while SFT and variants are trained."""

    steps: int = Field(gt=0)
    """Optimiser steps between two evaluations."""
    suite: str
    edition: str = "pocket"
    backend: str = "in_process"


class RecipeSpec(Record):
    """One recipe file, with sweeps expanded."""

    name: str = Field(pattern=r"^[\w.-]+$")
    output_dir: Path
    target: str
    """The model to train: a folder or hf:ORG/NAME@REVISION."""
    target_license: str | None = None
    seeds: tuple[int, ...] = Field(default=(42,), min_length=1)
    """Each seed repeats everything after the sources: SFT, sampling from the target, pairs, variants."""
    prompts: PromptsSpec
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    sampling: SamplingSpec = SamplingSpec()
    target_backend: str = "vllm"
    """Backend that samples the SFT model and answers held-out prompts."""
    target_serve: ServeSpec = ServeSpec()
    reward: RewardSpec
    pairs: PairsSpec = PairsSpec()
    keep_reasoning: bool = Field(default=False, exclude_if=is_empty)
    """Train on the reasoning of answers too, in `<think>` marks before them. Rewards never see it."""
    sft: Training = {}
    training: Training = {}
    """Training keys of all variants."""
    variants: dict[str, VariantSpec] = Field(min_length=1)
    evaluate: EvaluateSpec = EvaluateSpec()
    rates: RatesSpec = RatesSpec()
    evaluate_every: EvaluateEverySpec | None = None
    launch: str | None = None
    """Train by `accelerate launch` with this configuration: a file, or the name of a shipped one (ddp, fsdp2, zero3).

    None: train in this process.
    """
    devices: int | None = Field(default=None, ge=1, exclude_if=is_empty)
    """GPUs that the steps share. None: all that the machine shows, and none for --dry-run."""
    chat_template: str | None = None
    pad_token: str | None = None


def read_recipe(path: Path) -> RecipeSpec:
    """Return the recipe in a YAML file, with sweeps expanded. Raise ConfigError that names the wrong key.

    `base: NAME` or `base: FILE` adds the sections of another recipe that this file lacks.
    """
    sections = _with_base(path)
    if isinstance(sections.get("variants"), dict):
        sections["variants"] = _swept(sections["variants"], str(path))
    spec = checked(RecipeSpec, sections, str(path))
    _check_names(spec, str(path))
    return spec


def _with_base(path: Path) -> dict[str, Any]:
    sections = dict(read_yaml(path))
    base = sections.pop("base", None)
    if base is None:
        return sections
    below = recipe_path(str(base), path.parent)
    under = dict(read_yaml(below))
    if "base" in under:
        raise ConfigError(f"{path}: base {base!r} has a base itself; name that recipe instead")
    return {**under, **sections}


def _swept(variants: dict[str, Any], where: str) -> dict[str, Any]:
    """Expand lists: `wrpo: {training: {alpha: [0.1, 0.5]}}` gives wrpo-alpha0.1 and wrpo-alpha0.5."""
    out: dict[str, Any] = {}
    for name, entry in variants.items():
        for key, variant in _expanded(str(name), entry).items():
            if key in out:
                raise ConfigError(f"{where}: two variants are named {key!r}; rename one")
            out[key] = variant
    return out


def _expanded(name: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {name: entry or {}}
    training = entry.get("training") or {}
    if not isinstance(training, dict):
        return {name: entry}
    for key in SWEPT:
        section = entry if key == "sources" else training
        values = section.get(key)
        if isinstance(values, list):
            out: dict[str, Any] = {}
            for value in values:
                single = {**entry, key: value} if key == "sources" else {**entry, "training": {**training, key: value}}
                out |= _expanded(f"{name}-{key}{value}", single)
            return out
    return {name: entry}


def _check_names(spec: RecipeSpec, where: str) -> None:
    if len(set(spec.seeds)) < len(spec.seeds):
        raise ConfigError(f"{where}: seeds = {list(spec.seeds)} contains a seed twice; remove one")
    names = [source.name for source in spec.sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: two sources are named {twice[0]!r}; rename one")
    if taken := sorted(set(spec.variants) & RESERVED):
        raise ConfigError(f"{where}: a variant may not be named {taken[0]!r}: the name is reserved; rename it")
    for source in spec.sources:
        if (source.model is None) == (source.answers is None):
            raise ConfigError(f"{where}: source {source.name!r} needs exactly one of `model` and `answers`")
    known = (*spec.variants, "sft", "target")
    for name in (*(spec.evaluate.baselines or ()), *spec.evaluate.models):
        if name not in (*known, "all", "best"):
            raise ConfigError(f"{where}: evaluate names {name!r}, which is not a variant; models: {', '.join(known)}")
    generation = spec.rates.generation
    if isinstance(generation, dict) and (odd := sorted(set(generation) - {*names, "target"})):
        raise ConfigError(f"{where}: rates.generation names {odd[0]!r}; models are target, {', '.join(names)}")
    for name, variant in spec.variants.items():
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise ConfigError(
                f"{where}: variant name {name!r}: use letters, digits, `.`, `_` and `-`, not starting with `.`"
            )
        if variant.sources is not None and variant.sources > len(spec.sources):
            count = len(spec.sources)
            raise ConfigError(f"{where}: variant {name!r} needs {variant.sources} sources, but the recipe has {count}")


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes as name -> file, sorted by name."""
    return {file.stem: file for file in sorted(CONFIGS.glob("*.yaml"), key=lambda file: file.stem)}


def recipe_path(recipe: str, beside: Path = Path()) -> Path:
    """Return the file of a recipe: a path relative to `beside`, or the name of a shipped recipe.

    Raise ConfigError if it is neither.
    """
    path = beside / recipe
    if path.is_file():
        return path
    known = shipped_recipes()
    if recipe in known:
        return known[recipe]
    raise ConfigError(f"no recipe {recipe!r}: neither a file nor one of {', '.join(known)}")


def launch_path(launch: str) -> Path:
    """Return the accelerate configuration for `launch:`: a file, or the name of a shipped one (ddp, fsdp2, zero3).

    Raise ConfigError if it is neither.
    """
    path = Path(launch).expanduser()
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted((CONFIGS / "accelerate").glob("*.yaml"))}
    if launch in known:
        return known[launch]
    raise ConfigError(f"launch = {launch!r} is neither a file nor one of {', '.join(known)}")


def about(path: Path) -> str:
    """Return the first sentence of a recipe file's opening comment, or "" if there is no comment."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    sentence = " ".join(lines).partition(". ")[0]
    return sentence and sentence.rstrip(".") + "."
