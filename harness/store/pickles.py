"""Refuse weights that a loader would unpickle, whatever lies beside them: a pickle can run code when it is loaded.

A safetensors file proves nothing: loaders look for certain names, and open `pytorch_model.bin` if only others are
there. vLLM is told to read safetensors alone (`--load-format`); transformers, PEFT and vLLM's adapters have no such
switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records.documents import parse_json
from ..records.errors import CheckpointError, ConfigError
from .weights import NOT_WEIGHTS

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INDEX = ".safetensors.index.json"
MODEL = ("model.safetensors", "model" + INDEX)
"""What transformers opens before pickles (modeling_utils._get_resolved_checkpoint_files)."""
ADAPTER = ("adapter_model.safetensors",)
"""What PEFT and vLLM (lora_model.py, from_local_checkpoint) open before `adapter_model.bin` and `.pt`."""


def refuse_pickles(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError if a loader would open a pickle in this folder. `config`: the content of config.json."""
    first = ADAPTER if (folder / "adapter_config.json").is_file() else MODEL
    if not any((folder / name).is_file() for name in first):
        for path in sorted(folder.iterdir()):
            is_index = path.name.endswith(".bin.index.json")
            if is_index or (path.suffix in SUFFIXES and not path.name.startswith(NOT_WEIGHTS)):
                raise CheckpointError(
                    f"{str(folder)!r} has pickled weights ({path.name}), which can run code when loaded, and no "
                    f"{' or '.join(first)} that would be loaded instead; {_ADVICE}"
                )
    for index in sorted(folder.glob("*" + INDEX)):
        for shard in _shards(index):
            if not shard.endswith(".safetensors") or "/" in shard or "\\" in shard:
                raise CheckpointError(
                    f"{str(index)!r} names {shard!r} as a part of the weights, which is not a safetensors file "
                    f"beside it; {_ADVICE}"
                )
    named = config.get("transformers_weights")
    if named is not None and not str(named).endswith((".safetensors", INDEX)):
        raise CheckpointError(
            f"{str(folder / 'config.json')!r} sets transformers_weights to {named!r}, which is not a safetensors file; "
            f"{_ADVICE}"
        )


_ADVICE = "convert them to safetensors, or trust them with --allow-pickle"


def _shards(index: Path) -> list[str]:
    try:
        content = parse_json(index.read_bytes(), repr(str(index)))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    return sorted({str(shard) for shard in shards.values()}) if isinstance(shards, dict) else []
