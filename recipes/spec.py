"""Define the schema of a recipe's YAML file, and read a file as a `RecipeSpec`.

`base:` is filled in, sweeps are expanded, names are checked, and unknown keys are rejected. The resolved recipe is
written beside the run. Training keys (under `training`, `sft`, and in a variant) are those of TRL's SFTConfig and of
`training.trainer.WRPOConfig`, which extend transformers' TrainingArguments; `training.settings` checks them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, JsonValue, field_validator, model_validator

from harness.records import ModelRef, Record, Sampling
from harness.records.asking import is_empty
from harness.records.documents import read_yaml
from harness.records.errors import ConfigError, did_you_mean
from harness.records.facts import all_facts
from harness.records.settings import ServeSpec, checked

from .expansion import MOST_ROUNDS, MOST_SAMPLES, SAMPLES, expanded

Training = dict[str, JsonValue]
"""Keys of a trainer's configuration and their values."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy's generator accepts."""
Temperature = Annotated[float, Field(ge=0, le=2)]
"""Endpoints accept at most 2, and so does vLLM's API."""
Speed = Annotated[float, Field(gt=0)]
Method = Literal["preference", "sft", "infifpo", "fusesft", "fusepo", "distill"]
SaveDtype = Literal["float32", "bfloat16", "float16"]
WEIGHTED: tuple[Method, ...] = ("fusesft", "fusepo")
"""Methods trained on the answers of all sources by `training.weighted`; they need no pairs of the target's answers."""
PAIRED: tuple[Method, ...] = ("preference", "infifpo")
"""Methods trained on one prompt and three answers by `training.trainer`."""
SCORED_BY = ("vllm", "in_process", "transformers")
"""Backends of sources whose log-probabilities of given answers can be computed (`likelihood`)."""
RIVALS = ("best_source", "moa", "route")
"""Ensembles of the recipe's sources that `evaluate.models` may name."""
RESERVED = frozenset({"all", "best", "sft", "target", *RIVALS})
"""Names that a variant may not have."""
OF_TARGET = ("target_license", "chat_template", "pad_token", "chat_template_kwargs")
"""Keys that describe the target: a file that names another target does not inherit them."""
MERGE_KEYS = {
    "base": ("ties", "dare_ties", "model_stock", "sce"),
    "weights": ("linear", "ties", "dare_ties"),
    "density": ("ties", "dare_ties"),
    "topk": ("sce",),
}
"""Settings of a merge -> the methods that use them."""
CONFIGS = Path(__file__).parent / "configs"


def _decontaminating() -> tuple[str, ...]:
    return tuple(facts.name for facts in all_facts() if facts.decontaminates)


# Fields with `exclude_if` came after the first recipes: at their defaults they are left out of resolved recipes, so
# that those stay as they were.
class PromptsSpec(Record):
    """Section `prompts:`: which prompts to use, and how to split them."""

    dataset: str = ""
    """FILE.jsonl, .json or .parquet, `hf:ORG/NAME[@REVISION]`, or `module:NAME` of a function that returns rows."""
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
    """Share of the prompts for SFT; 0: no SFT. WRPO release, README: one third SFT, two thirds preferences."""
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


class SourceSpec(Record, allow_inf_nan=False):
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

    n: int = Field(default=SAMPLES, ge=1, le=MOST_SAMPLES)
    temperature: float = Field(default=0.8, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=4096, gt=0)
    seed: int | None = 42
    """Decides every answer. None: one request for all answers to a prompt, without a seed, which is faster in vLLM."""
    max_failed: float = Field(default=0.05, ge=0, le=1)
    """Share of answers that may fail or be empty before the stage stops as incomplete. The default is our choice."""

    def as_sampling(self, seed: int | None = None) -> Sampling:
        """Return the settings as backends take them, with another seed if one is given and answers have seeds."""
        settings = self.model_dump(exclude={"max_failed"})
        settings |= {} if seed is None or self.seed is None else {"seed": seed}
        return Sampling(**settings)


class RewardSpec(Record, allow_inf_nan=False):
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


class PairsSpec(Record, allow_inf_nan=False):
    """Section `pairs:`: how y_ws, y_wt and y_l are picked, or where existing pairs are. A text is a `dataset`."""

    dataset: str | None = Field(default=None, exclude_if=is_empty)
    """Your own pairs, in the forms of `prompts.dataset`: rows with `prompt`, `chosen` and `rejected` (see `trl_pairs`).

    The recipe then needs no sources, no reward and no SFT: variants are trained from the target itself.
    """
    split: str = Field(default="train", exclude_if=lambda split: split == "train")
    """Split of that data set."""
    held_out: int = Field(default=0, ge=0, exclude_if=is_empty)
    """Number of pairs that are not trained on but evaluated while training, for `eval_strategy`."""
    min_margin: float = Field(default=0.0, ge=0)
    """Minimum of the reward of y_wt less that of y_l. WRPO has no minimum, FuseChat-3.0 uses 0.01."""
    max_margin: float | None = Field(default=None, gt=0)
    """Maximum of the same difference. FuseChat-3.0 uses 0.1."""
    drop_truncated: bool = True
    """Drop answers that were truncated at max_tokens: training would teach to stop there."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"dataset": value} if isinstance(value, str) else value


class VariantSpec(Record):
    """One entry of `variants:`. Its `training` overrides the recipe's."""

    method: Method = "preference"
    answers: Literal["source", "target"] = "source"
    """Methods sft and distill: which answers of the pairs are learned, y_ws or y_wt."""
    teacher: str | None = Field(default=None, exclude_if=is_empty)
    """Method distill only: the source to learn from."""
    rounds: int = Field(default=1, ge=1, le=MOST_ROUNDS, exclude_if=lambda rounds: rounds == 1)
    """Train this often: the trained model samples again, pairs are rebuilt, and training continues from it.

    `wrpo: {rounds: 3}` gives the variants wrpo-round1, wrpo-round2 and wrpo-round3.
    """
    after: str | None = Field(default=None, exclude_if=is_empty)
    """The variant that this one continues from, instead of the SFT model. `rounds` sets it."""
    sources: Annotated[int, Field(ge=1)] | tuple[str, ...] | None = None
    """Pick y_ws from the first N sources only, or from those named. The SFT model is the same for all variants."""
    samples: int | None = Field(default=None, ge=1, exclude_if=is_empty)
    """Pick y_ws from the first N answers of each source only. The target's own samples are all used."""
    training: Training = {}


class SweepSpec(Record):
    """One entry of `sweeps:`, written out: variants that differ from one other in a single value.

    A file has `{of: wrpo, alpha: [0, 0.1]}`; besides training keys there are `sources` (the first N), `samples` (the
    first N answers of each source) and `leave_out` (one source each), for which `each` means every possible value.
    """

    of: str
    """The variant that the others are compared with."""
    key: str
    variants: dict[str, str | int | float | bool] = Field(min_length=1)
    """Value of the key by variant."""


class MergeSpec(Record, allow_inf_nan=False):
    """A variant with `method: merge`: its weights are merged from others by mergekit, without training."""

    merge: Literal["linear", "slerp", "ties", "dare_ties", "model_stock", "sce"] = "linear"
    """linear: weighted mean (a "soup" of seeds or variants); slerp: along the sphere between two models; ties: arXiv
    2306.01708; dare_ties: arXiv 2311.03099; model_stock: arXiv 2403.19522; sce: FuseChat, arXiv 2408.07990."""
    models: tuple[str, ...] = Field(min_length=1)
    """Variants, `sft`, `target`, or sources with weights of the target's architecture and vocabulary."""
    base: str | None = None
    """The model that the others started from: for ties, dare_ties, model_stock and sce. Default: `sft` if all models
    are variants, else `target`."""
    seeds: Literal["each", "all"] = "each"
    """each: one merge per seed. all: one merge of all seeds' checkpoints, in the folder of the first seed."""
    weights: tuple[float, ...] | None = None
    """linear, ties, dare_ties: one per model. Default: 1 each."""
    density: float | None = Field(default=None, gt=0, le=1)
    """ties, dare_ties: share of each model's changes that is kept. Default: mergekit's, all of them."""
    t: float = Field(default=0.5, ge=0, le=1)
    """slerp: how far from the first model to the second."""
    topk: float | None = Field(default=None, gt=0, le=1)
    """sce: share of the entries, those of the highest variance, that is merged. Default: mergekit's, all of them."""
    dtype: str | None = None
    """Of the arithmetic and the result, e.g. float32. Default: as stored."""

    @property
    def has_base(self) -> bool:
        return self.merge not in ("linear", "slerp")

    def problem(self, seeds: int) -> str | None:
        """Return what is wrong with these settings in a recipe of so many seeds, or None."""
        unused = [
            key for key, methods in MERGE_KEYS.items() if getattr(self, key) is not None and self.merge not in methods
        ]
        if unused:
            return f"`{unused[0]}` has no meaning for {self.merge}; leave it out"
        if self.merge == "slerp" and (len(self.models) != 2 or self.seeds == "all"):
            return "slerp merges two models of one seed; use linear for more"
        if len(self.models) * (seeds if self.seeds == "all" else 1) < 2:
            return "it has one model only; name more, or set `seeds: all` with several seeds"
        if self.weights is not None and len(self.weights) != len(self.models):
            return f"it has {len(self.weights)} weights for {len(self.models)} models"
        return None


class SuitesSpec(Record):
    """Suites to run on a model, with options of `harness run`."""

    suite: str | None = None
    """As for `harness run --suite`. None: no suite is run."""
    edition: str = "official"
    judge: str | dict[str, str] | None = None
    limit: int | None = Field(default=None, gt=0)
    backend: str = "vllm"
    serve: ServeSpec = ServeSpec()


class MoaSpec(Record):
    """Section `evaluate.moa:`: the mixture of agents of all sources with a model."""

    aggregator: str = "target"
    """`target` or a source."""
    layers: int = Field(default=2, ge=2)
    template: str | None = Field(default=None, exclude_if=is_empty)
    """The aggregator's instructions, with `{answers}` once. None: our own wording."""

    @field_validator("template")
    @classmethod
    def _has_a_slot(cls, template: str | None) -> str | None:
        if template is not None and template.count("{answers}") != 1:
            raise ValueError(f"needs {{answers}} once, where the answers go, not {template.count('{answers}')} times")
        return template


class EvaluateSpec(SuitesSpec):
    """Section `evaluate:`: how variants are evaluated."""

    models: tuple[str, ...] = ("all",)
    """Models to run suites on: `all`, or a list of variants, `sft`, `target`, and `best` (by validation reward).

    Besides, as rows to compare with: sources by name, `best_source` (the source answer with the highest reward), `moa`
    (a mixture of agents) and `route` (the source to which the prompt is likeliest). They answer the held-out prompts
    too. `all` does not include them.
    """
    moa: MoaSpec = Field(default=MoaSpec(), exclude_if=lambda moa: moa == MoaSpec())
    temperatures: tuple[Temperature, ...] = Field(default=(0.0,), min_length=1)
    """Held-out prompts are answered and rewarded at each of these temperatures. 0: greedy."""
    samples: int = Field(default=1, ge=1)
    """Answers per held-out prompt at temperatures above 0."""
    baselines: tuple[str, ...] | None = None
    """Variants that all others are compared with, besides the SFT model and the target.

    None: dpo and sft-cont, if the recipe has them.
    """
    suite_seeds: Literal["first", "all"] = "first"
    """Seeds whose checkpoints are run on the suites."""


class RatesSpec(Record, allow_inf_nan=False):
    """Section `rates:`: assumptions of --dry-run until the run has measured them. They do not affect any result."""

    prompts: int | None = Field(default=None, gt=0)
    """Number of prompts in the data set, if it cannot be counted on this machine."""
    prompt_tokens: float = Field(default=200.0, gt=0)
    """Mean tokens per prompt. The default is a guess."""
    answer_tokens: float = Field(default=500.0, gt=0)
    """Mean tokens per answer. The default is a guess: WRPO's beta of 0.01 suits answers of about this length."""
    generation: Speed | dict[str, Speed] | None = None
    """Generated tokens per second and device: one number for all models, or one per source (and `target`)."""
    reading: Speed | dict[str, Speed] | None = Field(default=None, exclude_if=is_empty)
    """Tokens per second and device that a source reads to give their log-probabilities (method infifpo): one number, or
    one per source. None: until it is measured, as fast as generation, which is an upper bound of the time."""
    reward: float | None = Field(default=None, gt=0)
    """Tokens per second and device that the reward model reads."""
    training: float | None = Field(default=None, gt=0)
    """Trained tokens per second and device, counting the prompt and every answer."""
    gpu_hour_price: float | None = Field(default=None, ge=0)
    """US dollars per GPU-hour."""
    start_minutes: float = Field(default=5.0, ge=0, exclude_if=lambda minutes: minutes == 5.0)
    """Minutes until a model is loaded and works. The default is a guess for models of tens of GB on a local disk."""

    def of(self, kind: Literal["generation", "reading"], model: str) -> float | None:
        """Return the rate that the recipe states for a source or `target`, or None."""
        stated = self.generation if kind == "generation" else self.reading
        return stated.get(model) if isinstance(stated, dict) else stated


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
    models_from: str | None = Field(default=None, exclude_if=is_empty)
    """What to do if a folder of the recipe's models is missing, for that error: a command, or names on the Hub."""
    seeds: tuple[Seed, ...] = Field(default=(42,), min_length=1)
    """Each seed repeats everything after the sources: SFT, sampling from the target, pairs, variants."""
    prompts: PromptsSpec = PromptsSpec()
    sources: tuple[SourceSpec, ...] = ()
    sampling: SamplingSpec = SamplingSpec()
    target_backend: str = "vllm"
    """Backend that samples the SFT model and answers held-out prompts."""
    target_serve: ServeSpec = ServeSpec()
    reward: RewardSpec = RewardSpec(kind="")
    """These three are required, unless `pairs` names existing ones."""
    pairs: PairsSpec = PairsSpec()
    keep_reasoning: bool = Field(default=False, exclude_if=is_empty)
    """Train on the reasoning of answers too, in `<think>` marks before them. Rewards never see it."""
    sft: Training = {}
    training: Training = {}
    """Training keys of all variants."""
    variants: dict[str, VariantSpec] = Field(min_length=1)
    merges: dict[str, MergeSpec] = Field(default={}, exclude_if=is_empty)
    """The variants with `method: merge`, which a file lists among the others."""
    sweeps: tuple[SweepSpec, ...] = Field(default=(), exclude_if=is_empty)
    evaluate: EvaluateSpec = EvaluateSpec()
    rates: RatesSpec = RatesSpec()
    evaluate_every: EvaluateEverySpec | None = None
    launch: str | None = None
    """Train by `accelerate launch` with this configuration: a file, or the name of a shipped one (ddp, fsdp2, zero3).

    None: train in this process.
    """
    save_dtype: SaveDtype | None = Field(default=None, exclude_if=is_empty)
    """Precision of the checkpoints. None: the target's. In training, weights are float32 unless `dtype` says otherwise.

    At 16 bits, updates far below the precision of their weights are lost: a warning says so if most are.
    """
    devices: int | None = Field(default=None, ge=1, le=4096, exclude_if=is_empty)
    """GPUs that the steps share. None: all that the machine shows, and none for --dry-run."""
    chat_template: str | None = None
    """Jinja file that replaces the target's chat template."""
    pad_token: str | None = None
    """Token that pads batches. None: the tokenizer's, else its end token."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default={}, exclude_if=is_empty)
    """Values for variables of the target's chat template, e.g. `enable_thinking: false`.

    They are written into the template of every checkpoint, so that it is served as it was trained.
    """

    @property
    def has_own_pairs(self) -> bool:
        return self.pairs.dataset is not None

    @property
    def starts_at_target(self) -> bool:
        """Whether variants are trained from the target itself, without SFT."""
        return self.has_own_pairs or self.prompts.sft_share == 0


def read_recipe(path: Path, scale: str | None = None) -> RecipeSpec:
    """Return the recipe in a YAML file, with sweeps expanded. Raise ConfigError that names the wrong key.

    `base: NAME` or `base: FILE` adds the sections of another recipe that this file lacks. `scale` names an entry of
    `scales:`, whose keys replace those of the same section.
    """
    sections = _scaled(_with_base(path), scale, str(path))
    if isinstance(sections.get("variants"), dict):
        sections["variants"], merges, sweeps = expanded(sections, str(path))
        if merges:
            sections["merges"] = {**(sections.get("merges") or {}), **merges}
        if sweeps:
            sections["sweeps"] = sweeps
    spec = checked(RecipeSpec, sections, str(path))
    _check_sections(spec, str(path))
    _check_models(spec, str(path))
    _check_names(spec, str(path))
    _check_variants(spec, str(path))
    return _with_shipped_templates(spec)


def _scaled(sections: dict[str, Any], scale: str | None, file: str) -> dict[str, Any]:
    """Return the sections without `scales`, and with the keys of one of them if it is named."""
    scales = sections.pop("scales", None) or {}
    if not isinstance(scales, dict) or not all(isinstance(changes, dict) for changes in scales.values()):
        raise ConfigError(f"{file}: scales has sections of a recipe under a name each: `scales: {{full: {{...}}}}`")
    if scale is None:
        return sections
    if scale not in scales:
        raise ConfigError(f"{file} has no scale {scale!r}; scales: {', '.join(map(str, scales)) or 'none'}")
    for key, changes in scales[scale].items():
        before = sections.get(key)
        if isinstance(before, dict) and isinstance(changes, dict):
            changes = {**before, **changes}
        sections[key] = changes
    return sections


def scales_of(path: Path) -> tuple[str, ...]:
    """Return the names of a recipe's `scales:`, besides its own size."""
    return tuple(map(str, _with_base(path).get("scales") or ()))


def _with_shipped_templates(spec: RecipeSpec) -> RecipeSpec:
    """Return the recipe with the paths of chat templates that ship with the recipes filled in."""
    sources = list(spec.sources)
    for index, source in enumerate(sources):
        if source.serve.chat_template is not None:
            path = shipped_file(source.serve.chat_template)
            serve = source.serve.model_copy(update={"chat_template": path})
            sources[index] = source.model_copy(update={"serve": serve})
    return spec.model_copy(update={"sources": tuple(sources)})


def shipped_file(name: str) -> str:
    """Return the path of a file: as it is if there is one, else of the file of this name beside the shipped recipes."""
    if Path(name).expanduser().exists() or not (CONFIGS / name).is_file():
        return name
    return str(CONFIGS / name)


def _with_base(path: Path) -> dict[str, Any]:
    sections = dict(read_yaml(path))
    base = sections.pop("base", None)
    if base is None:
        return sections
    below = recipe_path(str(base), path.parent)
    under = dict(read_yaml(below))
    if "base" in under:
        raise ConfigError(f"{path}: base {base!r} has a base itself; name that recipe instead")
    if "variants" in sections:  # sweeps are of the base's variants
        under.pop("sweeps", None)
    if "target" in sections:  # these describe the base's target, not this one
        under = {key: value for key, value in under.items() if key not in OF_TARGET}
    if isinstance(pairs := sections.get("pairs"), str) or (isinstance(pairs, dict) and pairs.get("dataset")):
        under = {key: value for key, value in under.items() if key not in ("prompts", "sources", "reward")}
    return {**under, **sections}


def _check_merges(spec: RecipeSpec, file: str) -> None:
    if twice := sorted(set(spec.variants) & set(spec.merges)):
        raise ConfigError(f"{file}: two variants are named {twice[0]!r}; rename one")
    for name in (*spec.variants, *spec.merges):
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise ConfigError(
                f"{file}: variant name {name!r}: use letters, digits, `.`, `_` and `-`, not starting with `.`"
            )
    sources = [source.name for source in spec.sources if source.model is not None]
    models = (*spec.variants, "sft", "target", *sources)
    for name, merge in spec.merges.items():
        subject = f"{file}: merge {name!r}"
        for model in (*merge.models, *([merge.base] if merge.base is not None else [])):
            if model not in models:
                raise ConfigError(f"{subject} names {model!r}, which has no weights; models: {', '.join(models)}")
        if problem := merge.problem(len(spec.seeds)):
            raise ConfigError(f"{subject}: {problem}")


def _check_sections(spec: RecipeSpec, file: str) -> None:
    """Raise ConfigError if a section is missing, or was given although existing pairs replace it."""
    held_out = spec.prompts.validation + spec.prompts.test
    absent = {"prompts": not spec.prompts.dataset, "sources": not spec.sources, "reward": not spec.reward.kind}
    needed = ("prompts", "reward") if spec.has_own_pairs and held_out else () if spec.has_own_pairs else tuple(absent)
    for name in needed:
        if absent[name]:
            raise ConfigError(f"{file}: the section `{name}` is missing, or empty; see `harness train --list`")
    if spec.has_own_pairs and spec.sources:
        raise ConfigError(f"{file}: `sources` and existing `pairs` exclude each other; remove one")
    for name, variant in spec.variants.items():
        if spec.has_own_pairs and (variant.method not in ("preference", "sft") or variant.after is not None):
            raise ConfigError(f"{file}: variant {name!r} needs sources or new samples, but `pairs` names existing ones")


def _check_models(spec: RecipeSpec, file: str) -> None:
    for key, text in (("target", spec.target), *((f"source {each.name!r}", each.model) for each in spec.sources)):
        if text is not None and ModelRef.parse(text, key=f"{file}: {key}").is_ensemble:
            raise ConfigError(f"{file}: {key}: {text!r} is a team of models; give a folder or hf:ORG/NAME")


def _check_names(spec: RecipeSpec, file: str) -> None:
    if len(set(spec.seeds)) < len(spec.seeds):
        raise ConfigError(f"{file}: seeds = {list(spec.seeds)} contains a seed twice; remove one")
    names = [source.name for source in spec.sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{file}: two sources are named {twice[0]!r}; rename one")
    if taken := sorted({*spec.variants, *spec.merges} & RESERVED):
        raise ConfigError(f"{file}: a variant may not be named {taken[0]!r}: the name is reserved; rename it")
    for source in spec.sources:
        if (source.model is None) == (source.answers is None):
            raise ConfigError(f"{file}: source {source.name!r} needs exactly one of `model` and `answers`")
    models = [source.name for source in spec.sources if source.model is not None]
    if spec.evaluate.moa.aggregator not in ("target", *models):
        raise ConfigError(f"{file}: evaluate.moa.aggregator = {spec.evaluate.moa.aggregator!r} cannot be asked")
    evaluated = (*spec.variants, *spec.merges, "sft", "target", *models, *RIVALS)
    for name in (*(spec.evaluate.baselines or ()), *spec.evaluate.models):
        if name not in (*evaluated, "all", "best"):
            raise ConfigError(
                f"{file}: evaluate names {name!r}, which is not a variant; models: {', '.join(evaluated)}"
            )
    for key, stated in (("generation", spec.rates.generation), ("reading", spec.rates.reading)):
        if isinstance(stated, dict) and (odd := sorted(set(stated) - {*names, "target"})):
            raise ConfigError(f"{file}: rates.{key} names {odd[0]!r}; models are target, {', '.join(names)}")


def _check_variants(spec: RecipeSpec, file: str) -> None:
    _check_merges(spec, file)
    for name, variant in spec.variants.items():
        _check_selection(spec, variant, f"{file}: variant {name!r}")
        _check_method(spec, name, f"{file}: variant {name!r}")
    for sweep in spec.sweeps:
        if odd := [name for name in (sweep.of, *sweep.variants) if name not in (*spec.variants, *spec.merges)]:
            raise ConfigError(f"{file}: a sweep names {odd[0]!r}, which is not a variant")


def _check_selection(spec: RecipeSpec, variant: VariantSpec, subject: str) -> None:
    names, chosen = [source.name for source in spec.sources], variant.sources
    if isinstance(chosen, int) and chosen > len(names):
        raise ConfigError(f"{subject} needs {chosen} sources, but the recipe has {len(names)}")
    if isinstance(chosen, tuple):
        if odd := [name for name in chosen if name not in names]:
            raise ConfigError(f"{subject}: {odd[0]!r} is not a source; sources: {', '.join(names)}")
        if not chosen or len(set(chosen)) < len(chosen):
            raise ConfigError(f"{subject}: sources = {list(chosen)} is empty or has a source twice; name each once")
    sampled = all(source.model is not None for source in sources_used(spec, variant))
    if variant.samples is not None and sampled and variant.samples > spec.sampling.n:
        raise ConfigError(f"{subject} needs {variant.samples} samples per source, but sampling.n is {spec.sampling.n}")


def _check_method(spec: RecipeSpec, name: str, subject: str) -> None:
    """Raise ConfigError if a variant's method lacks something, or has something that only another method uses."""
    variant = spec.variants[name]
    earlier = list(spec.variants)[: list(spec.variants).index(name)]
    if variant.after is not None and variant.after not in earlier:
        raise ConfigError(f"{subject} comes after {variant.after!r}, which is not a variant listed above it")
    if variant.after is not None and variant.method == "fusesft":
        raise ConfigError(f"{subject}: method {variant.method} starts from the target itself; leave out `after`")
    if variant.teacher is not None and variant.method != "distill":
        raise ConfigError(f"{subject}: only method distill has a `teacher`, not {variant.method}; leave it out")
    if variant.method == "distill":
        names = [source.name for source in spec.sources]
        if variant.teacher not in names:
            raise ConfigError(
                f"{subject}: teacher = {variant.teacher!r} is not a source; give one of {', '.join(names)}"
            )
    for source in sources_loaded(spec, variant):
        model = None if source.model is None else ModelRef.parse(source.model)
        if model is None or model.scheme == "endpoint":
            kind = "answers only" if model is None else "an endpoint"
            raise ConfigError(
                f"{subject}: method {variant.method} needs the weights of source {source.name!r}, which is {kind}; "
                "give `model: FOLDER` or hf:ORG/NAME, or use fewer `sources`"
            )
        if variant.method == "infifpo" and source.backend not in SCORED_BY:
            raise ConfigError(
                f"{subject}: source {source.name!r} has backend {source.backend!r}, which returns no log-probabilities "
                f"of given answers; use {', '.join(SCORED_BY[:-1])} or {SCORED_BY[-1]}"
            )


def sources_used(spec: RecipeSpec, variant: VariantSpec) -> tuple[SourceSpec, ...]:
    """Return the variant's sources, in the recipe's order: its first `sources`, those named, or all."""
    if isinstance(variant.sources, tuple):
        return tuple(source for source in spec.sources if source.name in variant.sources)
    return spec.sources[: variant.sources]


class Selection(NamedTuple):
    """Which answers of the sources a variant learns from. Variants with equal selections share their pairs."""

    sources: tuple[str, ...]
    samples: int | None
    """The first answers of each source; None: all."""

    @classmethod
    def of(cls, spec: RecipeSpec, variant: VariantSpec) -> Selection:
        return cls(tuple(source.name for source in sources_used(spec, variant)), variant.samples)

    def folder(self, spec: RecipeSpec) -> str:
        """Return the subfolder for what is made from the selection, "" for one of everything."""
        every = tuple(source.name for source in spec.sources)
        out = [name for name in every if name not in self.sources]
        if not out:
            parts = []
        elif self.sources == every[: len(self.sources)]:
            parts = [f"sources-{len(self.sources)}"]
        else:
            parts = [f"without-{'+'.join(out)}" if len(out) < len(self.sources) else f"only-{'+'.join(self.sources)}"]
        return "/".join([*parts, *([] if self.samples is None else [f"samples-{self.samples}"])])


def sources_loaded(spec: RecipeSpec, variant: VariantSpec) -> tuple[SourceSpec, ...]:
    """Return the sources whose weights the variant's method reads, beyond their answers."""
    if variant.method == "infifpo":
        return sources_used(spec, variant)
    return tuple(source for source in spec.sources if variant.method == "distill" and source.name == variant.teacher)


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes as name -> file, sorted by name."""
    return {file.stem: file for file in sorted(CONFIGS.glob("*.yaml"), key=lambda file: file.stem)}


def recipe_path(recipe: str, folder: Path = Path()) -> Path:
    """Return the file of a recipe: a path relative to `beside`, or the name of a shipped recipe.

    Raise ConfigError if it is neither.
    """
    path = folder / recipe
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if recipe in shipped:
        return shipped[recipe]
    raise ConfigError(
        f"no recipe {recipe!r}{did_you_mean(recipe, shipped)}: neither a file nor one of {', '.join(shipped)}"
    )


def launch_path(launch: str) -> Path:
    """Return the accelerate configuration for `launch:`: a file, or the name of a shipped one (ddp, fsdp2, zero3).

    Raise ConfigError if it is neither.
    """
    path = Path(launch).expanduser()
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted((CONFIGS / "accelerate").glob("*.yaml"))}
    if launch in shipped:
        return shipped[launch]
    raise ConfigError(f"launch = {launch!r} is neither a file nor one of {', '.join(shipped)}")


def about(path: Path) -> str:
    """Return the first sentence of a recipe file's opening comment, or "" if there is no comment."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    sentence = " ".join(lines).partition(". ")[0]
    return sentence and sentence.rstrip(".") + "."
