"""A recipe as its YAML file says it. Unknown keys are rejected; what is resolved is written beside the run.

Training keys (under `training`, `sft`, and in a variant) are those of TRL's SFTConfig and of `wrpo.WRPOConfig`, which
are transformers' TrainingArguments and a few more; they are checked against those classes where training is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from harness.config.specs import ServeSpec
from harness.records import Record, Sampling

Training = dict[str, JsonValue]
"""Keys of a trainer's configuration and their values."""
Method = Literal["preference", "sft"]


class PromptsSpec(Record):
    """`prompts:`. Which prompts, and what each part of them is for."""

    dataset: str
    """FILE.jsonl, FILE.parquet, `hf:ORG/NAME[@REVISION]`, or `module:NAME` of a function that gives rows."""
    split: str = "train"
    column: str = "prompt"
    """Where the prompt's text (or its messages) is in a row."""
    id_column: str | None = None
    """Where its id is; None: a digest of its text."""
    columns: tuple[str, ...] = ()
    """Further columns that are kept, for reward functions."""
    limit: int | None = Field(default=None, gt=0)
    """At most so many, drawn by `seed`."""
    sft_share: float = Field(default=1 / 3, ge=0, le=1)
    """WRPO release, README: one third for SFT on the best source answer, two thirds for preferences."""
    validation: int = Field(default=0, ge=0)
    """Prompts held out to choose by."""
    test: int = Field(default=0, ge=0)
    """Prompts held out to report on."""
    max_prompt_length: int = Field(default=1800, gt=0)
    """Tokens by the target's tokenizer and template; longer ones are dropped. WRPO release, llama-3-8b-…-wrpo.yaml."""
    decontaminate: tuple[str, ...] = ("mt_bench", "alpaca_eval", "arena_hard")
    """Suites whose questions must not be trained on."""
    edition: str = "official"
    """Of those suites."""
    seed: int = 42


class SourceSpec(Record):
    """One entry of `sources:`: a model to sample, or answers that exist already."""

    name: str = Field(pattern=r"^[\w.-]+$")
    model: str | None = None
    """Folder, hf:ORG/NAME@REVISION or endpoint:NAME@URL; needed where there are no `answers`."""
    answers: str | None = None
    """FILE.jsonl, or `hf:ORG/NAME[@REVISION]` in the released data set's form."""
    backend: str = "vllm"
    serve: ServeSpec = ServeSpec()
    license: str | None = None
    """SPDX identifier, for the model card."""
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    """US dollars per million tokens, for --dry-run."""


class SamplingSpec(Record):
    """`sampling:`. WRPO release, README (sources and target alike); max_tokens: SimPO's on_policy_data_gen."""

    n: int = Field(default=5, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=4096, gt=0)
    seed: int = 42
    max_failed: float = Field(default=0.05, ge=0, le=1)
    """Share of the answers that may fail, empty ones among them, before the stage stops as incomplete."""

    def of(self, seed: int | None = None) -> Sampling:
        """The settings as backends take them."""
        settings = self.model_dump(exclude={"max_failed"}) | ({} if seed is None else {"seed": seed})
        return Sampling(**settings)


class RewardSpec(Record):
    """`reward:`. What scores answers."""

    kind: str
    """Entry point in `fusion_harness.rewards`: function, reward_model, armorm, pooling, judge."""
    model: str | None = None
    """What the kind asks for: a folder, hf:ORG/NAME@REVISION, `FILE.py:NAME` or `module:NAME`, a judge's name."""
    url: str | None = None
    key_env: str | None = None
    batch_size: int = Field(default=8, ge=1)
    serve: ServeSpec = ServeSpec()
    params: dict[str, JsonValue] = {}
    overlong: Literal["fail", "drop"] = "fail"
    """An answer that the reward model would have to cut: stop, or leave that answer out and count it."""
    workers: int = Field(default=0, ge=0)
    """Ray workers that score; 0: this process does."""
    worker_cpus: float = Field(default=1.0, ge=0)
    worker_gpus: float | None = Field(default=None, ge=0)
    """What Ray reserves for each. GPUs None: one where the cluster has any; 0 for a reward that runs on CPUs."""


class PairsSpec(Record):
    """`pairs:`. How y_ws, y_wt and y_l are picked."""

    min_margin: float = Field(default=0.0, ge=0)
    """Reward of the target's best less its worst; pairs below are dropped. WRPO has none, FuseChat-3.0 0.01."""
    max_margin: float | None = Field(default=None, gt=0)
    """FuseChat-3.0: 0.1."""
    drop_truncated: bool = False
    """Leave answers out that were cut at max_tokens."""


class VariantSpec(Record):
    """One entry of `variants:`. `training` holds what differs from the recipe's `training`."""

    method: Method = "preference"
    answers: Literal["source", "target"] = "source"
    """method sft: which answers of the pairs are learned, y_ws or y_wt."""
    sources: int | None = Field(default=None, ge=1)
    """Only the first so many of `sources:` give y_ws; the SFT parent is the same for all."""
    training: Training = {}


class EvaluateSpec(Record):
    """`evaluate:`. What is measured of every variant."""

    suite: str | None = None
    """As `harness run --suite`; None: no suite is run."""
    edition: str = "official"
    judge: str | dict[str, str] | None = None
    limit: int | None = Field(default=None, gt=0)
    backend: str = "vllm"
    serve: ServeSpec = ServeSpec()
    models: tuple[str, ...] = ("all",)
    """Which go through the suites: `all`, or some of variants, `sft`, `target`, and `best` (by validation reward)."""
    temperatures: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    """Held-out prompts are answered at each, and rewarded. 0: greedy."""
    samples: int = Field(default=1, ge=1)
    """Answers a held-out prompt where the temperature is above 0."""
    baselines: tuple[str, ...] | None = None
    """Variants that all others are compared with; default: those of dpo and sft-cont that there are. The SFT model and
    the target always are."""
    suite_seeds: Literal["first", "all"] = "first"
    """Whose checkpoints go through the suites."""


class RatesSpec(Record):
    """`rates:`. What --dry-run reckons with where the recipe has not measured it yet. Decides nothing that is made."""

    prompts: int | None = Field(default=None, gt=0)
    """Prompts of the data set, where it is not here to be counted."""
    prompt_tokens: float = Field(default=200.0, gt=0)
    """Mean tokens of a prompt. A guess."""
    answer_tokens: float = Field(default=500.0, gt=0)
    """Mean tokens of an answer. A guess: WRPO's beta of 0.01 is for about so many."""
    generation: float | dict[str, float] | None = None
    """Tokens written a second and device: of all models, or by source (and `target`)."""
    reward: float | None = Field(default=None, gt=0)
    """Tokens read a second and device by the reward model."""
    training: float | None = Field(default=None, gt=0)
    """Tokens trained on a second and device, of the prompt and of every answer."""
    gpu_hour_price: float | None = Field(default=None, ge=0)
    """US dollars."""


class EvaluateEverySpec(Record):
    """`evaluate_every:`. Suites that the weights go through while SFT and variants are trained."""

    steps: int = Field(gt=0)
    """Optimiser steps between two evaluations."""
    suite: str
    """As `harness run --suite`."""
    edition: str = "pocket"
    judge: str | dict[str, str] | None = None
    limit: int | None = Field(default=None, gt=0)
    backend: str = "in_process"
    serve: ServeSpec = ServeSpec()


class RecipeSpec(Record):
    """One recipe file, sweeps written out."""

    name: str = Field(pattern=r"^[\w.-]+$")
    output_dir: Path
    target: str
    """The model that is trained: a folder or hf:ORG/NAME@REVISION."""
    target_license: str | None = None
    seeds: tuple[int, ...] = Field(default=(42,), min_length=1)
    """Each seed repeats everything after the sources: SFT, sampling of the target, pairs, variants."""
    prompts: PromptsSpec
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    sampling: SamplingSpec = SamplingSpec()
    target_backend: str = "vllm"
    """What samples the SFT model and answers held-out prompts."""
    target_serve: ServeSpec = ServeSpec()
    reward: RewardSpec
    pairs: PairsSpec = PairsSpec()
    sft: Training = {}
    training: Training = {}
    """Of all variants."""
    variants: dict[str, VariantSpec] = Field(min_length=1)
    evaluate: EvaluateSpec = EvaluateSpec()
    rates: RatesSpec = RatesSpec()
    evaluate_every: EvaluateEverySpec | None = None
    launch: str | None = None
    """An accelerate configuration, a file or the name of one of ours (`shipped.launch_path`): training runs by
    `accelerate launch` with it. None: in this process."""
    chat_template: str | None = None
    pad_token: str | None = None
