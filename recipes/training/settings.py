"""Check the training keys of a recipe, fill in their defaults, and describe the jobs that they become.

Keys and types are those of the trainers' configuration classes (`trainer.WRPOConfig`, TRL's SFTConfig and ModelConfig,
hence transformers' TrainingArguments) and of `templates.Rendering`. Checking imports torch; merging does not. A
`TrainingJob` is everything a process needs to train one model, and is passed to other processes as a JSON file.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError

from harness.records import Record, digest
from harness.records.errors import ConfigError, one_line
from harness.records.judge_choice import choose_judges, suite_names
from harness.store.checkpoint import Fusion
from harness.store.files import file_sha256

from ..spec import (
    PAIRED,
    WEIGHTED,
    EvaluateEverySpec,
    Method,
    RecipeSpec,
    SaveDtype,
    Training,
    VariantSpec,
    launch_path,
)
from .ranges import DISTILL_RANGES, RANGES, check_range

SFT_DEFAULTS: Training = {
    # WRPO release, llama-3-8b-instruct-sft.yaml
    "learning_rate": 7e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "num_train_epochs": 1,
    "max_length": 2048,
}
PREFERENCE_DEFAULTS: Training = {
    # WRPO release, llama-3-8b-instruct-sft-wrpo.yaml; learning rate, beta and alpha are defaults of WRPOConfig
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "num_train_epochs": 1,
    "max_length": 2048,
}
LOSS_KEYS = frozenset(
    ("beta", "alpha", "alpha_schedule", "eval_alpha", "loss_type", "gamma", "label_smoothing", "fusion",
     "clip_sources", "official_compat")
)  # fmt: skip
"""Keys of WRPOConfig's loss. In the recipe's shared `training` they are for method preference only."""
INFIFPO_DEFAULTS: Training = PREFERENCE_DEFAULTS | {
    # InfiFPO release, run.sh: length-normalised beta 2.5, learning rate 1e-7, one epoch. That y_w is the sources' best
    # answer (alpha 1) is our choice.
    "loss_type": "infifpo",
    "learning_rate": 1e-7,
    "beta": 2.5,
    "alpha": 1.0,
    "alpha_schedule": "constant",
}
DISTILL_DEFAULTS: Training = PREFERENCE_DEFAULTS | {
    "lmbda": 0.0,  # off-policy; TRL's default mixes in the model's own answers, which a CPU samples slowly
}
DEFAULTS: dict[Method, Training] = {
    "preference": PREFERENCE_DEFAULTS,
    "sft": SFT_DEFAULTS,
    "infifpo": INFIFPO_DEFAULTS,
    "fusesft": SFT_DEFAULTS,
    "fusepo": PREFERENCE_DEFAULTS,
    "distill": DISTILL_DEFAULTS,
}
ALIASES = {"warmup_ratio": "warmup_steps", "torch_dtype": "dtype", "max_seq_length": "max_length"}
"""Key names of earlier library versions, still common in configuration files -> current names."""
RENDERING_KEYS = ("max_length", "overlong")
OWNED = {
    "output_dir": "set the recipe's `output_dir`",
    "seed": "set the recipe's `seeds`",
    "data_seed": "set the recipe's `seeds`",
    "model_name_or_path": "set the recipe's `target`",
    "model_revision": "set the recipe's `target` to hf:ORG/NAME@REVISION",
    "trust_remote_code": "training never runs code from a checkpoint",
    "resume_from_checkpoint": "running the same command again resumes",
    "max_prompt_length": "`prompts.max_prompt_length` drops long prompts before sampling",
    "chat_template_path": "set the recipe's `chat_template`",
    "pad_token": "set the recipe's `pad_token`",
    "eos_token": "the tokenizer sets it",
    "deepspeed": "`launch` names an accelerate configuration",
    "fsdp": "`launch` names an accelerate configuration",
    "fsdp_config": "`launch` names an accelerate configuration",
    **dict.fromkeys(
        ("teacher_model_name_or_path", "teacher_model_revision", "teacher_tokenizer_name_or_path",
         "teacher_model_init_kwargs"),
        "set the variant's `teacher`",
    ),
    "hub_token": "tokens are read from the environment only; use `harness train --push-to-hub`",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
        "use `harness train --push-to-hub`",
    ),
    **dict.fromkeys(("do_eval", "eval_packing"), "`eval_strategy` evaluates on the pairs of `pairs.held_out`"),
    **dict.fromkeys(
        ("completion_only_loss", "assistant_only_loss", "dataset_text_field", "dataset_kwargs", "remove_unused_columns",
         "label_names", "model_init_kwargs", "do_train", "do_predict", "local_rank"),
        "the recipe sets it",
    ),
}  # fmt: skip
"""Keys of the trainers that the recipe sets itself -> what to use instead."""
WITHOUT_EFFECT = frozenset({
    "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica",
    "disable_tqdm", "save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "ddp_timeout", "ddp_backend", "ddp_bucket_cap_mb", "use_cpu", "skip_memory_metrics",
})  # fmt: skip
"""Keys that do not affect the weights: changing one does not invalidate a finished step."""

OF_LORA = ("use_dora", "use_rslora")
OF_4BIT = ("bnb_4bit_quant_type", "bnb_4bit_quant_storage", "use_bnb_nested_quant")
OF_EVALUATION = (
    "eval_alpha", "eval_steps", "eval_delay", "eval_accumulation_steps", "eval_on_start", "per_device_eval_batch_size",
    "bf16_full_eval", "fp16_full_eval",
)  # fmt: skip
OF_BEST = ("metric_for_best_model", "greater_is_better")
BY_LENGTH = ("group_by_length", "batch_rebalance")
"""Values of `train_sampling_strategy` that read the lengths of `input_ids`."""
PLATEAU = ("reduce_lr_on_plateau", "greedy")
"""Values of `lr_scheduler_type` that follow `metric_for_best_model`."""
LIBRARY_ERRORS = (ValueError, TypeError, LookupError, AttributeError, ImportError, OSError, ArithmeticError)
"""What the libraries' configuration classes raise for values that they cannot use."""
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""Modes that torch.compile documents."""
MUON = "muon"
"""Value of `optim` that transformers does not have (`training.muon`)."""
CHECKPOINTS = "checkpoints"
"""Subfolder for the trainer's intermediate checkpoints."""
LOG = "training_log.jsonl"
ADAPTER = "adapter"


class TrainingSettings(Record):
    """Training keys of one model, grouped by the class that reads them. Values are JSON."""

    trainer: Training = {}
    """Fields of WRPOConfig or SFTConfig."""
    model: Training = {}
    """Fields of ModelConfig: dtype, attn_implementation, use_peft, lora_r, …"""
    rendering: Training = {}
    """Fields of templates.Rendering."""

    def decisive(self) -> dict[str, JsonValue]:
        """Return the keys that affect the weights."""
        return {**decisive(self.trainer), **self.model, **self.rendering}


def sft_settings(spec: RecipeSpec) -> Training:
    """Return the keys of stage `sft`, with defaults filled in."""
    return SFT_DEFAULTS | renamed(spec.sft)


def variant_settings(spec: RecipeSpec, variant: VariantSpec) -> Training:
    """Return the keys of a variant: defaults, overridden by the recipe's `training`, then by the variant's.

    The recipe's `training` may set `beta` and the like for the WRPO family; in other losses they mean something else.
    Method fusesft is a first stage, so it has the keys of `sft` instead of those of `training`.
    """
    shared = renamed(spec.sft if variant.method == "fusesft" else spec.training)
    if variant.method not in ("preference", "sft"):
        shared = {key: value for key, value in shared.items() if key not in LOSS_KEYS}
    evaluated: Training = {}
    if variant.method in WEIGHTED:  # trained on answers, not on pairs, so none are held out
        shared.pop("eval_strategy", None)
    elif spec.pairs.held_out:
        evaluated = {"eval_strategy": "steps"}
    return DEFAULTS[variant.method] | evaluated | shared | renamed(variant.training)


def has_reference(method: Method, keys: Training) -> bool:
    """Return whether the loss uses log-probabilities of the model that training starts from. SFT and SimPO do not."""
    return method == "fusepo" or (method in PAIRED and keys.get("loss_type") != "simpo")


def renamed(keys: Training) -> Training:
    """Return the keys under their current names (`ALIASES`)."""
    return {ALIASES.get(key, key): value for key, value in keys.items()}


def decisive(keys: Training) -> Training:
    """Return the keys that affect the weights. They are part of a step's settings."""
    return {key: value for key, value in keys.items() if key not in WITHOUT_EFFECT}


def check_training(spec: RecipeSpec, *, trains_here: bool = True) -> dict[str, TrainingSettings]:
    """Return the checked keys of the SFT model and of every variant, by the section of the recipe that sets them.

    Raise ConfigError for the first training key that is unknown, set by the recipe itself, has a wrong value or no
    effect, or if `evaluate_every` or `launch` names something that does not exist. `trains_here` is False if this
    machine only reads the recipe; keys that need a GPU are then not tried.
    """
    if spec.evaluate_every is not None:
        every = spec.evaluate_every
        choose_judges(suite_names(every.suite), every.judge, edition=every.edition, own_judges={})
    if spec.launch is not None:
        launch_path(spec.launch)
    for key in renamed(spec.training):
        _check_key(key, ("preference", "sft"), "training")
    _check_keys(spec.sft, "sft", "sft")
    trainings = {"sft": settings(sft_settings(spec), "sft", "sft", trains_here=trains_here)}
    for name, variant in spec.variants.items():
        section = f"variants.{name}.training"
        _check_keys(variant.training, variant.method, section)
        keys = variant_settings(spec, variant)
        if (keys.get("loss_type") == "infifpo") != (variant.method == "infifpo"):
            raise ConfigError(
                f"{section}: loss_type = {keys.get('loss_type')!r}; method infifpo and its loss go together"
            )
        common = "sft" if variant.method == "fusesft" else "training"
        shared = {key: common for key in keys if key not in renamed(variant.training)}
        trainings[section] = settings(keys, variant.method, section, shared=shared, trains_here=trains_here)
    _check_effect(spec)
    return trainings


def _check_effect(spec: RecipeSpec) -> None:
    """Raise ConfigError for a key that no training it applies to reads: its value would silently do nothing."""
    variants = {f"variants.{name}.training": variant for name, variant in spec.variants.items()}
    # A recipe's `training` has many readers, and one of them is enough for a key to have an effect.
    sections: dict[str, list[tuple[Method, Training]]] = {
        "sft": [("sft", sft_settings(spec))],
        "training": [(variant.method, variant_settings(spec, variant)) for variant in variants.values()],
        **{section: [(variant.method, variant_settings(spec, variant))] for section, variant in variants.items()},
    }
    written = {
        "sft": spec.sft,
        "training": spec.training,
        **{section: variant.training for section, variant in variants.items()},
    }
    for section, users in sections.items():
        for key, value in renamed(written[section]).items():
            if key == "eval_strategy" and value != "no" and (section == "sft" or not spec.pairs.held_out):
                raise ConfigError(
                    f"{section}: eval_strategy = {value!r} needs pairs to evaluate: set `pairs.held_out`, in "
                    "variants only"
                )
            unread = [reason for method, keys in users if (reason := _without_reader(key, value, method, keys))]
            if len(unread) == len(users):
                raise ConfigError(f"{section}: {key} = {value!r} has no effect: {unread[0]}")


def _without_reader(key: str, value: JsonValue, method: Method, keys: Training) -> str | None:
    """Return why a training does not read a key, or None if it reads the key or the value means "off"."""
    loss = keys.get("loss_type", "sigmoid")
    if not value and value != 0:
        return None
    if (reason := _switched_off(key, value, keys)) is not None:
        return reason
    if (
        _names_preference_loss(key, value, method)
        or key not in keys
        or not any(key in adapters for adapters in _readers(method).values())
    ):
        return f"method {method!r} does not read it"
    if method != "preference":
        return None
    if key in ("gamma", "gamma_beta_ratio") and value and loss != "simpo":
        return f"loss_type {loss!r} has no margin, only simpo has; remove it"
    if key == "label_smoothing_factor" and value:
        return "the preference losses read label_smoothing; use that"
    if key in ("fusion", "clip_sources"):
        return "only method infifpo has a fused reference; remove it"
    if key in ("alpha", "alpha_schedule", "eval_alpha") and value and loss == "unweighted":
        return "loss_type 'unweighted' has no alpha; remove it"
    if key == "label_smoothing" and value and loss == "ipo":
        return "loss_type 'ipo' is not smoothed; remove it"
    return None


def _names_preference_loss(key: str, value: JsonValue, method: Method) -> bool:
    """Return whether this is `loss_type` of the recipe's pairs. SFTConfig has a key of that name, with other values."""
    from .losses import LossType

    return key == "loss_type" and method not in PAIRED and value in typing.get_args(LossType)


def _switched_off(key: str, value: JsonValue, keys: Training) -> str | None:
    """Return which other key would have to be on for this one to have an effect; None if it has one."""
    if key in (*OF_LORA, *OF_4BIT, *OF_EVALUATION) and value is False:
        return None
    if (key.startswith("lora_") and key != "lora_task_type") or key in OF_LORA:
        return None if keys.get("use_peft") else "LoRA is off; set use_peft: true"
    if key in OF_4BIT:
        return None if keys.get("load_in_4bit") else "weights are not quantized; set load_in_4bit: true"
    if key in OF_EVALUATION:
        evaluates = keys.get("eval_strategy", "no") != "no"
        return None if evaluates else "no pairs are evaluated; set `pairs.held_out`, in variants only"
    if key in OF_BEST:
        follows = keys.get("load_best_model_at_end") or keys.get("save_strategy") == "best"
        follows = follows or keys.get("lr_scheduler_type") in PLATEAU
        return None if follows else "nothing follows the metric; set load_best_model_at_end: true"
    return None


def settings(
    keys: Training,
    method: Method,
    section: str,
    *,
    shared: Mapping[str, str] | None = None,
    trains_here: bool = True,
) -> TrainingSettings:
    """Return the keys grouped by reader, with values checked. Raise ConfigError for a wrong value.

    Errors name `section`, or for a key in `shared` the section there. Keys of the other method are left out, because a
    recipe's `training` applies to both methods.
    """
    sections = _Sections(section, shared or {}, keys)
    readers = _readers(method)
    by_reader: dict[str, dict[str, JsonValue]] = {"trainer": {}, "model": {}, "rendering": {}}
    for key, value in keys.items():
        if _names_preference_loss(key, value, method):
            continue
        for reader, adapters in readers.items():
            if key in adapters:
                by_reader[reader][key] = _checked(adapters[key], key, value, sections.of(key))
    parsed = TrainingSettings(**by_reader)
    # TrainingArguments rejects these on a machine without a GPU, which may only plan the training
    tried = {key: value for key, value in parsed.trainer.items() if trains_here or key not in ("bf16", "fp16", "tf32")}
    _check_values(parsed.model_copy(update={"trainer": tried}), method, sections)
    return parsed


@dataclasses.dataclass(frozen=True)
class _Sections:
    """The sections of a recipe in which the keys of one training are written."""

    default: str
    by_key: Mapping[str, str]
    keys: Training

    def of(self, key: str) -> str:
        return self.by_key.get(key, self.default)

    def of_sentence(self, sentence: str) -> str:
        """Return the section of the first key that the sentence names, else section and key of a value in it."""
        texts = {key: value for key, value in self.keys.items() if isinstance(value, str)}
        words = re.findall(r"[a-z][a-z0-9_]+", sentence)
        refused = next((key for key, text in texts.items() if _is_refused(text, sentence)), None)
        named = next((word for word in words if word in self.keys), None)
        if refused is None and named is not None:
            return self.of(named)
        quoted = (key for key, text in texts.items() if repr(text) in sentence or text in words)
        key = next(quoted, None) if refused is None else refused
        return self.default if key is None else f"{self.of(key)}: {key} = {self.keys[key]!r}"


def _is_refused(text: str, sentence: str) -> bool:
    """Whether this is the sentence of transformers' enumerations about the text."""
    return sentence.startswith(f"{text} is not a valid ".lstrip())


def _check_keys(keys: Training, method: Method, section: str) -> None:
    for key in renamed(keys):
        _check_key(key, (method,), section)


def _check_key(key: str, methods: tuple[Method, ...], section: str) -> None:
    if key in OWNED:
        raise ConfigError(f"{section}: {key} cannot be set here: {OWNED[key]}")
    names = {name for method in methods for adapters in _readers(method).values() for name in adapters} - set(OWNED)
    if key in names:
        return
    near = difflib.get_close_matches(key, [*names, *ALIASES], n=3)
    readers = [method for method in DEFAULTS if any(key in adapters for adapters in _readers(method).values())]
    if len(methods) == 1 and readers:
        raise ConfigError(f"{section}: {key} is a key of method {readers[0]!r}, but the method is {methods[0]!r}")
    hint = f"did you mean {' or '.join(near)}?" if near else "see the fields of TRL's SFTConfig and of WRPOConfig"
    raise ConfigError(f"{section}: unknown key {key!r}; {hint}")


@cache
def _readers(method: Method) -> Mapping[str, Mapping[str, TypeAdapter[Any]]]:
    from trl import ModelConfig

    from .templates import Rendering

    trainer = _adapters(_config_class(method))
    rendering = {key: adapter for key, adapter in _adapters(Rendering).items() if key in RENDERING_KEYS}
    return {
        "trainer": {key: adapter for key, adapter in trainer.items() if key not in rendering},
        "model": _adapters(ModelConfig),
        "rendering": rendering,
    }


def _config_class(method: Method) -> type[Any]:
    from trl import SFTConfig

    from .trainer import WRPOConfig

    if method in PAIRED:
        return WRPOConfig
    if method in WEIGHTED:
        from .weighted import FuseRLConfig

        return FuseRLConfig
    kind: type[Any] = SFTConfig
    if method == "distill":
        with warnings.catch_warnings():  # that the module is experimental, and which versions of vLLM it is tested with
            warnings.simplefilter("ignore")
            from trl.experimental.gold import GOLDConfig

        kind = GOLDConfig
    return kind


def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(kind)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(kind)}


def _checked(adapter: TypeAdapter[Any], key: str, value: JsonValue, section: str) -> JsonValue:
    # Validation also converts: YAML reads 1e-6 as a string.
    if key.startswith("lora_") and isinstance(value, str) and value == "all-linear":
        value = [value]  # TRL's command line does the same
    try:
        parsed: JsonValue = adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError as error:
        raise ConfigError(f"{section}: {key} = {value!r}: {one_line(error)}") from None
    return parsed


def _check_values(keys: TrainingSettings, method: Method, sections: _Sections) -> None:
    # The configuration classes check combinations of values in __post_init__; constructing them writes nothing.
    ranges = DISTILL_RANGES if method == "distill" else RANGES
    for key, value in {**keys.rendering, **keys.trainer, **keys.model}.items():
        _construct(partial(check_range, key, value, ranges), sections)
    _check_trackers(keys.trainer.get("report_to"), sections.of("report_to"))
    _check_choices(keys, method, sections)
    _check_torch(keys.trainer, sections)
    _check_sampling(keys.trainer, method, sections)
    _check_best(keys.trainer, method, sections)
    for make in (lambda: trainer_config(keys, method, ".", seed=0), lambda: model_config(keys)):
        _construct(make, sections)


def _check_choices(keys: TrainingSettings, method: Method, sections: _Sections) -> None:
    # transformers checks a field's choices on its command line only; in a loop, an unknown one means the default
    from trl import ModelConfig

    for kind, values in ((_config_class(method), keys.trainer), (ModelConfig, keys.model)):
        for field in dataclasses.fields(kind):
            value, choices = values.get(field.name), field.metadata.get("choices")
            if value is not None and choices and value not in choices:
                raise ConfigError(
                    f"{sections.of(field.name)}: {field.name} = {value!r} is unknown; choose one of "
                    f"{', '.join(choices)}"
                )


def _check_torch(keys: Training, sections: _Sections) -> None:
    """Raise ConfigError for what torch rejects in the first step, after everything else has been paid for."""
    import torch
    from accelerate.utils import DynamoBackend
    from torch.utils.checkpoint import checkpoint

    backends = [str(backend.value).lower() for backend in DynamoBackend]
    backend, mode = keys.get("torch_compile_backend"), keys.get("torch_compile_mode")
    if backend and str(backend).lower() not in backends:
        raise ConfigError(
            f"{sections.of('torch_compile_backend')}: torch_compile_backend = {backend!r} is unknown; choose one of "
            f"{', '.join(backends)}"
        )
    if mode and mode not in COMPILE_MODES:
        raise ConfigError(
            f"{sections.of('torch_compile_mode')}: torch_compile_mode = {mode!r} is unknown; choose one of "
            f"{', '.join(COMPILE_MODES)}"
        )
    savers: Any = keys.get("gradient_checkpointing_kwargs")
    if savers:
        key = f"{sections.of('gradient_checkpointing_kwargs')}: gradient_checkpointing_kwargs = {savers!r}"
        try:
            checkpoint(torch.neg, torch.zeros(1, requires_grad=True), **{"use_reentrant": False, **dict(savers)})
        except LIBRARY_ERRORS as error:
            raise ConfigError(f"{key}: {one_line(error)}") from None


def _check_sampling(keys: Training, method: Method, sections: _Sections) -> None:
    strategy = keys.get("train_sampling_strategy")
    if strategy in BY_LENGTH and method in (*PAIRED, *WEIGHTED):
        raise ConfigError(
            f"{sections.of('train_sampling_strategy')}: train_sampling_strategy = {strategy!r} needs rows of one "
            f"sequence, but those of method {method!r} have a prompt and several answers; use 'random' or 'sequential'"
        )


def _check_best(keys: Training, method: Method, sections: _Sections) -> None:
    """Raise ConfigError if there will be no metric to choose a checkpoint by: training would stop where it is read."""
    metric = keys.get("metric_for_best_model")
    if keys.get("save_strategy") == "best" and (metric is None or keys.get("eval_strategy", "no") == "no"):
        raise ConfigError(
            f"{sections.of('save_strategy')}: save_strategy = 'best' needs metric_for_best_model, and pairs to "
            "evaluate (`pairs.held_out`)"
        )
    if metric is None:
        return
    names = ["loss"]
    if method in PAIRED:
        import torch

        from .trainer import measures

        ones = torch.ones(3, 1)  # only the names matter
        names += ["loss_alpha_0", "loss_alpha_1", *measures(ones, ones, ones, 0.0)]
    if str(metric).removeprefix("eval_") not in names:
        raise ConfigError(
            f"{sections.of('metric_for_best_model')}: metric_for_best_model = {metric!r} is not measured; choose one "
            f"of {', '.join(names)}"
        )


def _check_trackers(report_to: JsonValue, section: str) -> None:
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    names = report_to if isinstance(report_to, list) else [report_to or "none"]
    for name in names:
        if name not in (*installed, "none", "all"):
            raise ConfigError(
                f"{section}: report_to = {name!r} is not installed; installed trackers: "
                f"{', '.join(installed) or 'none'}"
            )


def _construct(make: Callable[[], object], sections: _Sections) -> None:
    try:
        make()
    except ConfigError as error:
        raise ConfigError(f"{sections.of_sentence(str(error))}: {error}") from None
    except LIBRARY_ERRORS as error:
        if "bf16/gpu" in str(error):
            section = sections.of("bf16")
            raise ConfigError(f"{section}: bf16 = True needs a GPU; set bf16: false to train on CPUs") from None
        sentence = one_line(error)
        raise ConfigError(f"{sections.of_sentence(sentence)}: {sentence}") from None


def trainer_config(keys: TrainingSettings, method: Method, folder: str, *, seed: int) -> Any:
    """Return the trainer's configuration object: our defaults, overridden by the recipe's keys.

    On a GPU, bf16 and gradient checkpointing default to on. Every training logs and leaves checkpoints while it runs.
    """
    import torch

    # CheckedTrainer makes Muon, which is not a value of `optim` that transformers has
    written = {key: value for key, value in keys.trainer.items() if (key, value) != ("optim", MUON)}
    if len(written) < len(keys.trainer) and written.get("optim_args"):
        raise ConfigError(f"optim_args = {written['optim_args']!r} has no effect: optim {MUON!r} takes none; remove it")
    device = torch.accelerator.is_available() and not keys.trainer.get("use_cpu")
    defaults: dict[str, Any] = {
        "output_dir": folder,
        "seed": seed,
        "data_seed": seed,
        "bf16": bool(device and not keys.trainer.get("fp16")),
        "gradient_checkpointing": bool(device),
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 10,
        "save_steps": 0.1,  # a share of all steps: a kill loses a tenth of the training at most, however short it is
        "save_total_limit": 2,
        "eval_steps": 0.1,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": bool(device),
        "ddp_find_unused_parameters": False,
    }
    if method in (*PAIRED, *WEIGHTED):
        return _config_class(method)(**{**defaults, **written})
    defaults["max_length"] = keys.rendering.get("max_length")
    # Rows already have labels, so TRL must not prepare them; its packing is part of that preparation.
    defaults["dataset_kwargs"] = {"skip_prepare_dataset": not keys.trainer.get("packing", False)}
    return _config_class(method)(**{**defaults, **written})


def model_config(keys: TrainingSettings) -> Any:
    """Return TRL's ModelConfig for the recipe's model keys."""
    from trl import ModelConfig

    return ModelConfig(**keys.model)


def adapter_config(keys: TrainingSettings) -> Any:
    """Return PEFT's LoraConfig for the recipe's model keys, or None without `use_peft`."""
    from trl import get_peft_config

    config = get_peft_config(model_config(keys))
    modules = keys.model.get("lora_target_modules")
    if config is not None and isinstance(modules, list) and modules != ["all-linear"]:
        config.target_modules = set(modules)  # TRL makes a list of one a string, which PEFT reads as a pattern
    return config


class Evaluation(Record):
    """Suites to run while training, and where their results go."""

    spec: EvaluateEverySpec
    results: Path
    label: str
    """The board lists the weights of step N as LABEL-stepN."""
    seed: int


class TrainingJob(Record):
    """One training whose checkpoint is written to `folder`.

    Paths are local to this machine, so a job never enters the digest of a step.
    """

    method: Method
    name: str
    """Used in messages."""
    model: Path
    """Folder of the weights that training starts from."""
    rows: Path
    """Folder of the rendered rows (`rows.Rows`)."""
    answer: Literal["source", "target"] = "source"
    """Methods sft and distill: whose answers are learned."""
    reference: Path | None = None
    """File of the reference's log-probabilities, which may not exist yet; None if the loss has no reference."""
    pairs: Path | None = None
    """Methods infifpo and distill: file of the pairs that the rows were rendered from."""
    logps: tuple[Path, ...] = ()
    """Method infifpo only: each source's `logps.jsonl`."""
    teacher: Path | None = None
    """Method distill only: folder of the model to learn from."""
    folder: Path
    settings: TrainingSettings
    seed: int = Field(ge=0)
    chat_template: str | None = None
    """Jinja file that replaces the tokenizer's chat template."""
    pad_token: str | None = None
    template_kwargs: dict[str, JsonValue] = {}
    save_dtype: SaveDtype | None = None
    """Precision of the saved weights; None: that of `model`."""
    held_out: int = Field(default=0, ge=0)
    """Number of rows that are evaluated and not trained on; the same ones for all variants."""
    fusion: Fusion
    evaluation: Evaluation | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def digest(self) -> str:
        """First 16 hex characters over everything that affects the losses. Training resumes only if it is unchanged.

        Paths, logging and evaluation are left out.
        """
        facts: dict[str, JsonValue] = {
            "method": self.method,
            "rows": self.rows.name,
            "answer": self.answer,
            "settings": self.settings.decisive(),
            "seed": self.seed,
        }
        if self.held_out:
            facts["held_out"] = self.held_out
        if self.logps:
            facts["logps"] = [file_sha256(path) for path in self.logps]
        if self.teacher is not None:
            facts["teacher"] = self.teacher.name
        return digest(facts)[:16]
