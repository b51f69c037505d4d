"""Check the weights in a model folder: whether they are complete, whether they may be loaded, their digest.

Reads files only, without loading any; checkpoint.py reads the rest of the folder.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from .digests import file_sha256
from .errors import CheckpointError

PICKLES = (".bin", ".pt", ".pth")
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Prefixes of pickled files that a trainer leaves beside the weights."""
DIGESTED = (".safetensors", ".json", ".model", ".tiktoken", ".txt", ".jinja", ".py")
NOT_DIGESTED = (
    "trainer_state.json",
    "README.md",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "fusion.json",
    "step.json",  # a recipe's own records, which contain times
    "begun.json",
)
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself


def check_whole(folder: Path) -> None:
    """Raise CheckpointError if weights are missing or incomplete, whatever the rest of the folder is."""
    try:
        check_weights(folder, allow_pickle=True)
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise CheckpointError(f"{str(folder)!r} has no config.json yet")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(folder)!r} cannot be read as a checkpoint: {error}") from error


def check_weights(folder: Path, allow_pickle: bool) -> list[Path]:
    """Return the pickled weight files. Raise CheckpointError if there are no loadable weights."""
    safe = sorted(folder.glob("*.safetensors"))
    pickles = [p for p in sorted(folder.iterdir()) if p.suffix in PICKLES and not p.name.startswith(NOT_WEIGHTS)]
    for file in safe:
        _check_safetensors(file)
    _check_shards(folder)
    if not safe and not pickles:
        raise CheckpointError(f"{str(folder)!r} has no weights: no *.safetensors file in it")
    if not safe and not allow_pickle:
        raise CheckpointError(
            f"{str(folder)!r} has only pickled weights ({pickles[0].name}), which can run code when loaded; "
            "convert them to safetensors, or trust them with --allow-pickle"
        )
    return pickles


def _check_shards(folder: Path) -> None:
    index = read_object(folder / "model.safetensors.index.json")
    shards = set((index or {}).get("weight_map", {}).values())
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise CheckpointError(
            f"{str(folder)!r} is incomplete: {missing[0]} is missing ({len(missing)} of {len(shards)} shards); copy it"
        )


def _check_safetensors(file: Path) -> None:
    """Raise CheckpointError unless the header is readable and all tensors are inside the file.

    This catches broken copies and LFS pointers.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            raise CheckpointError(f"{str(file)!r} is a git-lfs pointer, not weights; run `git lfs pull` in its folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER + 1
        raw = stream.read(length) if length <= min(size, MAX_HEADER) else b""
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(
            f"{str(file)!r} is not a readable safetensors file (broken header); copy or save it again"
        ) from None
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise CheckpointError(
            f"{str(file)!r} has {size} bytes, but its header describes {wanted}: it is truncated; copy it again"
        )


def weights_digest(folder: Path, base: Path | None) -> str:
    """Return the hex sha256 of names and contents of weight, config and tokenizer files, the adapter's before the
    base's."""
    total = hashlib.sha256()
    for source in (folder, base):
        if source is None:
            continue
        safe = any(source.glob("*.safetensors"))
        for file in sorted(source.iterdir(), key=lambda path: path.name):
            pickled = file.suffix in PICKLES and not safe and not file.name.startswith(NOT_WEIGHTS)
            if file.is_file() and (pickled or (file.suffix in DIGESTED and file.name not in NOT_DIGESTED)):
                total.update(f"{file.name}\0{file_sha256(file)}\n".encode())
        total.update(b"\n")
    return total.hexdigest()


def read_object(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if there is no file. Raise CheckpointError for anything else."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(file)!r} is not a JSON object")
    return content
