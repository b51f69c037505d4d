"""Load a model folder for training and write one: weights, adapter, tokenizer, and the record of the fusion."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer

from harness.records import ModelRef
from harness.records.errors import ConfigError, one_line
from harness.store import dump_json, write_atomic
from harness.store.checkpoint import FILE as FUSION_FILE
from harness.store.checkpoint import Fusion, resolve
from harness.store.weights import LoadingReport, check_loaded

from .settings import ADAPTER, TrainingSettings, adapter_config, model_config

log = logging.getLogger(__name__)


def model_folder(target: str) -> Path:
    """Return the local folder of `DIR` or `hf:ORG/NAME[@REVISION]`, downloading it if needed.

    Raise ConfigError for an endpoint and CheckpointError if there is no such model.
    """
    ref = ModelRef.parse(target)
    if ref.scheme == "endpoint":
        raise ConfigError(f"target {target!r} is a server; training needs its weights: give a folder or hf:ORG/NAME")
    return resolve(ref)


def load_model(folder: Path, settings: TrainingSettings, pad_token_id: int) -> PreTrainedModel:
    """Load the model in the recipe's `dtype`.

    The default is float32, so that `bf16: true` affects the arithmetic and not the stored weights. Raise ConfigError
    if the folder cannot be loaded, CheckpointError if weights would stay random.
    """
    config = model_config(settings)
    kwargs: dict[str, Any] = {"dtype": config.dtype}
    if config.attn_implementation is not None:
        kwargs["attn_implementation"] = config.attn_implementation
    if config.load_in_4bit or config.load_in_8bit:
        from trl import get_quantization_config

        kwargs["quantization_config"] = get_quantization_config(config)
    try:
        model: PreTrainedModel
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{folder} cannot be loaded for training: {one_line(error)}") from None
    for sentence in check_loaded(folder, type(model).__name__, LoadingReport.of(info, model.config.to_dict())):
        log.warning("%s", sentence)
    model.config.get_text_config().pad_token_id = pad_token_id
    return model


def adapted(model: PreTrainedModel, settings: TrainingSettings) -> nn.Module:
    """Return the model, wrapped in a LoRA adapter if the recipe sets `use_peft`."""
    config = adapter_config(settings)
    if config is None:
        return model
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model)
    wrapped: nn.Module = get_peft_model(model, config)
    return wrapped


@dataclass(frozen=True)
class SavedAs:
    """What a trained model is saved with: the folder of its parent, its tokenizer, and the precision of its weights."""

    parent: Path
    tokenizer: PreTrainedTokenizerBase
    save_dtype: str | None = None
    """None: the parent's."""

    @property
    def dtype(self) -> torch.dtype:
        if self.save_dtype is not None:
            dtype: torch.dtype = getattr(torch, self.save_dtype)
            return dtype
        return AutoConfig.from_pretrained(self.parent).dtype or torch.float32


def write_weights(trainer: Trainer, folder: Path, saved_as: SavedAs) -> None:
    """Write the trainer's current weights as an ordinary, unsharded model folder. Only the main process writes.

    An adapter is written to `adapter/`, and merged into its parent's weights in the folder itself.
    """
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_world_process_zero():
        if hasattr(model, "peft_config"):
            model.save_pretrained(folder / ADAPTER, state_dict=state)
            merge_adapter(folder / ADAPTER, folder, saved_as)
        else:
            _save(folder, model, state, saved_as)
    trainer.accelerator.wait_for_everyone()


def merge_adapter(adapter: Path, folder: Path, saved_as: SavedAs) -> None:
    """Merge a LoRA adapter into its parent's weights and write the result as a model folder."""
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(saved_as.parent, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    _save(folder, merged, merged.state_dict(), saved_as)


def _save(folder: Path, model: PreTrainedModel, state: dict[str, Tensor], saved_as: SavedAs) -> None:
    dtype, parent = saved_as.dtype, saved_as.parent
    model.save_pretrained(folder, state_dict=_in_dtype(state, dtype))
    # save_pretrained writes the dtype of the training, in which the next training would read and save this checkpoint
    config = json.loads((folder / "config.json").read_text())
    write_atomic(folder / "config.json", dump_json(config | {"dtype": str(dtype).removeprefix("torch.")}))
    saved_as.tokenizer.save_pretrained(folder)
    # The parent's generation settings are copied byte for byte: save_pretrained would rewrite or reject them.
    if (parent / "generation_config.json").is_file():
        shutil.copyfile(parent / "generation_config.json", folder / "generation_config.json")


def _in_dtype(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    # Tied weights must stay one tensor, or they would be written twice.
    converted: dict[tuple[int, torch.Size], Tensor] = {}
    for value in state.values():
        key = (value.data_ptr(), value.shape)
        if key not in converted:
            converted[key] = value.to(dtype) if value.is_floating_point() else value
    return {name: converted[value.data_ptr(), value.shape] for name, value in state.items()}


def changed_share(parent: Path, folder: Path) -> float | None:
    """Return the share of a saved model's weights that differ from its parent's in the saved dtype, in [0, 1].

    None: the two have no tensor in common, e.g. because the parent is sharded under other names.
    """
    before = {name: file for file in parent.glob("*.safetensors") for name in _names(file)}
    changed = total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as saved:
            for name in saved.keys():  # noqa: SIM118  # not a mapping
                if name not in before:
                    continue
                with safe_open(before[name], framework="pt") as earlier:
                    old, new = earlier.get_tensor(name), saved.get_tensor(name)
                if old.shape == new.shape and new.is_floating_point():
                    changed += int((old.to(new.dtype) != new).sum())
                    total += new.numel()
    return changed / total if total else None


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())


def write_fusion(folder: Path, fusion: Fusion) -> None:
    write_atomic(folder / FUSION_FILE, dump_json(fusion.model_dump(mode="json")))


def free_memory() -> None:
    """Release the memory of the previous training's objects, on the device too."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()
