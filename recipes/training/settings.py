"""Training keys of a recipe: which there are, which the recipe owns, and what a step makes of them.

Keys and types are those of the trainers' own configuration classes (`wrpo.WRPOConfig`, TRL's SFTConfig and
ModelConfig, hence transformers' TrainingArguments) and of `rows.Rendering`. Checking imports torch; merging does not.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from harness.errors import ConfigError
from harness.records import Record

from ..shipped import launch_path
from ..spec import Method, RecipeSpec, Training, VariantSpec

SFT_DEFAULTS: Training = {
    # WRPO release, llama-3-8b-instruct-sft.yaml
    "learning_rate": 7e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "num_train_epochs": 1,
    "max_length": 2048,
}
PREFERENCE_DEFAULTS: Training = {
    # WRPO release, llama-3-8b-instruct-sft-wrpo.yaml; learning rate, beta and alpha are WRPOConfig's own defaults
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "num_train_epochs": 1,
    "max_length": 2048,
}
ALIASES = {"warmup_ratio": "warmup_steps", "torch_dtype": "dtype", "max_seq_length": "max_length"}
"""Names of earlier versions that configuration files still have -> today's."""
RENDERING_KEYS = ("max_length", "overlong")
OWNED = {
    "output_dir": "the recipe's `output_dir` says where everything goes",
    "seed": "the recipe's `seeds` are the seeds",
    "data_seed": "the recipe's `seeds` are the seeds",
    "model_name_or_path": "the recipe's `target` is the model",
    "model_revision": "the recipe's `target` is the model: hf:ORG/NAME@REVISION",
    "trust_remote_code": "checkpoints are loaded without code of their own",
    "resume_from_checkpoint": "the same command resumes by itself",
    "max_prompt_length": "`prompts.max_prompt_length` drops long prompts before anything is asked",
    "chat_template_path": "the recipe's `chat_template` names the template",
    "pad_token": "the recipe's `pad_token` names it",
    "eos_token": "the tokenizer names it",
    "deepspeed": "`launch` names an accelerate configuration",
    "fsdp": "`launch` names an accelerate configuration",
    "fsdp_config": "`launch` names an accelerate configuration",
    "hub_token": "keys come from the environment only; `harness train --push-to-hub` pushes",
    **dict.fromkeys(
        ("push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
        "`harness train --push-to-hub` pushes",
    ),
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "eval_on_start", "do_eval", "load_best_model_at_end", "eval_packing"),
        "`evaluate_every` evaluates while training",
    ),
    **dict.fromkeys(
        ("completion_only_loss", "assistant_only_loss", "dataset_text_field", "dataset_kwargs", "remove_unused_columns",
         "label_names", "model_init_kwargs", "do_train", "do_predict", "local_rank"),
        "the recipe sets it",
    ),
}  # fmt: skip
"""Keys of the trainers that the recipe sets itself -> where to say it instead."""
WITHOUT_EFFECT = frozenset({
    "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica",
    "disable_tqdm", "save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "ddp_timeout", "ddp_backend", "ddp_bucket_cap_mb", "use_cpu", "skip_memory_metrics",
})  # fmt: skip
"""Keys that change no weight: a finished step stays finished when they change."""

POSITIVE = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "logging_steps",
)


class TrainingSettings(Record):
    """Training keys of one model, sorted by who reads them. Values as JSON."""

    trainer: Training = {}
    """WRPOConfig's or SFTConfig's."""
    model: Training = {}
    """ModelConfig's: dtype, attn_implementation, use_peft, lora_r, …"""
    rendering: Training = {}
    """rows.Rendering's."""

    def decisive(self) -> dict[str, JsonValue]:
        """What decides the weights, for the step's settings."""
        kept = {key: value for key, value in self.trainer.items() if key not in WITHOUT_EFFECT}
        return {**kept, **self.model, **self.rendering}


def sft_settings(spec: RecipeSpec) -> Training:
    """The keys of stage `sft`, defaults filled in."""
    return SFT_DEFAULTS | renamed(spec.sft)


def variant_settings(spec: RecipeSpec, variant: VariantSpec) -> Training:
    """The keys of a variant: defaults, then the recipe's `training`, then its own."""
    defaults = PREFERENCE_DEFAULTS if variant.method == "preference" else SFT_DEFAULTS
    return defaults | renamed(spec.training) | renamed(variant.training)


def renamed(keys: Training) -> Training:
    return {ALIASES.get(key, key): value for key, value in keys.items()}


def decisive(keys: Training) -> Training:
    """Those that decide the weights, for a step's settings."""
    return {key: value for key, value in keys.items() if key not in WITHOUT_EFFECT}


# ---------------------------------------------------------------------------------- what needs the trainers' classes


def check_training(spec: RecipeSpec, *, trains_here: bool = True) -> None:
    """Raises ConfigError for the first training key of a recipe that is unknown, owned by the recipe, or wrong, and
    for an evaluation while training that names what is not there. `here`: whether this machine is to train."""
    if spec.evaluate_every is not None:
        from .evaluation import check_evaluation

        check_evaluation(spec.evaluate_every)
    if spec.launch is not None:
        launch_path(spec.launch)
    for key in renamed(spec.training):
        _check_key(key, ("preference", "sft"), "training")
    _check_keys(spec.sft, "sft", "sft")
    settings(sft_settings(spec), "sft", "sft", trains_here=trains_here)
    for name, variant in spec.variants.items():
        where = f"variants.{name}.training"
        _check_keys(variant.training, variant.method, where)
        settings(variant_settings(spec, variant), variant.method, where, trains_here=trains_here)


def settings(keys: Training, method: Method, where: str, *, trains_here: bool = True) -> TrainingSettings:
    """The keys by their reader, values checked; keys of the other method (a recipe's `training` is for both) are left
    out. Raises ConfigError for a wrong value."""
    readers = _readers(method)
    sorted_: dict[str, dict[str, JsonValue]] = {"trainer": {}, "model": {}, "rendering": {}}
    for key, value in keys.items():
        for part, adapters in readers.items():
            if key in adapters:
                sorted_[part][key] = _checked(adapters[key], key, value, where)
    parsed = TrainingSettings(**sorted_)
    without = {
        key: value for key, value in parsed.trainer.items() if trains_here or key not in ("bf16", "fp16", "tf32")
    }
    _try(parsed.model_copy(update={"trainer": without}), method, where)
    return parsed


def _check_keys(keys: Training, method: Method, where: str) -> None:
    for key in renamed(keys):
        _check_key(key, (method,), where)


def _check_key(key: str, methods: tuple[Method, ...], where: str) -> None:
    if key in OWNED:
        raise ConfigError(f"{where}: {key} is not a training key of a recipe: {OWNED[key]}")
    known = {name for method in methods for adapters in _readers(method).values() for name in adapters} - set(OWNED)
    if key in known:
        return
    near = difflib.get_close_matches(key, [*known, *ALIASES], n=3)
    other_method: Method = "sft" if methods == ("preference",) else "preference"
    if len(methods) == 1 and any(key in adapters for adapters in _readers(other_method).values()):
        raise ConfigError(f"{where}: {key} is a key of method {other_method!r}; this one is {methods[0]!r}")
    hint = f"did you mean {' or '.join(near)}?" if near else "keys are those of TRL's SFTConfig and of WRPOConfig"
    raise ConfigError(f"{where}: unknown key {key!r}; {hint}")


@cache
def _readers(method: Method) -> Mapping[str, Mapping[str, TypeAdapter[Any]]]:
    from trl import ModelConfig, SFTConfig

    from ..rows import Rendering
    from ..wrpo import WRPOConfig

    trainer = _adapters(WRPOConfig if method == "preference" else SFTConfig)
    rendering = {key: adapter for key, adapter in _adapters(Rendering).items() if key in RENDERING_KEYS}
    return {
        "trainer": {key: adapter for key, adapter in trainer.items() if key not in rendering},
        "model": _adapters(ModelConfig),
        "rendering": rendering,
    }


def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    hints = typing.get_type_hints(kind)
    return {field.name: TypeAdapter(hints[field.name]) for field in dataclasses.fields(kind)}


def _checked(adapter: TypeAdapter[Any], key: str, value: JsonValue, where: str) -> JsonValue:
    """The value in the key's type: YAML reads 1e-6 as a string."""
    if key.startswith("lora_") and isinstance(value, str) and value == "all-linear":
        value = [value]  # what TRL's command line makes of it
    try:
        parsed: JsonValue = adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError as error:
        raise ConfigError(f"{where}: {key} = {value!r}: {error.errors()[0]['msg']}") from None
    return parsed


def _try(keys: TrainingSettings, method: Method, where: str) -> None:
    """Makes the configuration objects once, for the checks that they make themselves; nothing is written."""
    for key in POSITIVE:
        value = keys.trainer.get(key, keys.rendering.get(key, 1))
        if isinstance(value, int | float) and not value > 0:
            raise ConfigError(f"{where}: {key} = {value!r} must be above 0")
    _check_trackers(keys.trainer.get("report_to"), where)
    for make in (lambda: trainer_config(keys, method, ".", seed=0), lambda: model_config(keys)):
        _made(make, where)


def _check_trackers(report_to: JsonValue, where: str) -> None:
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    names = report_to if isinstance(report_to, list) else [report_to or "none"]
    for name in names:
        if name not in (*installed, "none", "all"):
            raise ConfigError(
                f"{where}: report_to = {name!r} is not installed here; installed: {', '.join(installed) or 'none'}"
            )


def _made(make: Callable[[], object], where: str) -> None:
    try:
        make()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (ValueError, TypeError, ImportError) as error:
        if "bf16/gpu" in str(error):
            raise ConfigError(f"{where}: bf16 = True needs a GPU; set bf16: false to train on processors") from None
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None


def trainer_config(keys: TrainingSettings, method: Method, folder: str, *, seed: int) -> Any:
    """The trainer's configuration object, with what the recipe sets. On a device of its own (GPU), bf16 and gradient
    checkpointing are on unless the recipe says otherwise."""
    import torch
    from trl import SFTConfig

    from ..wrpo import WRPOConfig

    device = torch.accelerator.is_available() and not keys.trainer.get("use_cpu")
    defaults: dict[str, Any] = {
        "output_dir": folder,
        "seed": seed,
        "data_seed": seed,
        "bf16": bool(device and not keys.trainer.get("fp16")),
        "gradient_checkpointing": bool(device),
        "report_to": [],
        "disable_tqdm": True,
        "save_total_limit": 2,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": bool(device),
        "ddp_find_unused_parameters": False,
    }
    if method == "preference":
        return WRPOConfig(**{**defaults, **keys.trainer})
    defaults["max_length"] = keys.rendering.get("max_length")
    defaults["dataset_kwargs"] = {
        "skip_prepare_dataset": not keys.trainer.get("packing", False)
    }  # rows come with labels
    return SFTConfig(**{**defaults, **keys.trainer})


def model_config(keys: TrainingSettings) -> Any:
    from trl import ModelConfig

    return ModelConfig(**keys.model)
