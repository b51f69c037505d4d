"""Find out what this machine has for servers, and decide which server gets which GPUs and how much memory for cache.

>>> disjoint_devices(("0", "1", "2", "3", "4"), unit=2, count=2)
['0,1', '2,3']

>>> kv_cache_gib(free=16 * GIB, weights=2 * GIB, useful=None)
6
>>> kv_cache_gib(free=16 * GIB, weights=2 * GIB, useful=GIB // 4)
1
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..records.errors import CheckpointError, ConfigError
from ..records.settings import ServeSpec
from ..store.weights import read_header, read_object, weight_files

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices_of(serve: ServeSpec) -> int:
    """Return the number of devices that a server uses."""
    return serve.tensor_parallel * serve.pipeline_parallel * serve.data_parallel


def assigned_devices() -> tuple[str, ...]:
    """Return the GPUs in CUDA_VISIBLE_DEVICES; () if it is not set."""
    return tuple(name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip())


def visible_devices() -> tuple[str, ...]:
    """Return the GPUs of this machine: those in CUDA_VISIBLE_DEVICES if it is set, else all that nvidia-smi lists."""
    if VISIBLE in os.environ:
        return assigned_devices()
    try:
        listed = subprocess.run(("nvidia-smi", "-L"), capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(map(str, range(len(lines)))) if listed.returncode == 0 else ()


def gpu_bytes() -> int | None:
    """Return the memory of this machine's largest GPU by nvidia-smi, or None if it lists none."""
    command = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    try:  # torch would occupy memory of every GPU for the answer
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(line) for line in listed.stdout.split() if line.isdigit()]
    return max(sizes) * 2**20 if sizes and listed.returncode == 0 else None


def groups_of(devices: Sequence[str], unit: int) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES of each whole group of `unit` devices.

    >>> groups_of(("4", "5", "6"), 2)
    ['4,5']
    """
    return [",".join(devices[start : start + unit]) for start in range(0, len(devices) - unit + 1, unit)]


def disjoint_devices(devices: Sequence[str], *, unit: int, count: int) -> list[str]:
    """Return CUDA_VISIBLE_DEVICES of `count` servers with `unit` GPUs each, none of them shared.

    Raise ConfigError if there are too few.
    """
    groups = groups_of(devices, unit)
    if len(groups) < count:
        names = ", ".join(devices) or "none; on CPUs models run one after the other"
        raise ConfigError(
            f"--parallel-models {count} needs {count * unit} GPUs, {unit} per model, but {len(devices)} are visible "
            f"({names})"
        )
    return groups[:count]


# --------------------------------------------------------------------------------------------------------------- memory
# vLLM's KV cache on CPUs wants whole GiB, and allocates them at its start. More cache than all requests in flight can
# fill is of no use, and half of what the weights leave stays free, since other programs, such as a judge, run on the
# same machine.


GIB = 2**30
SERVER = 2 * GIB
"""What vLLM itself takes on CPUs: with 1 GiB of KV cache it took 2.6 GiB for a tiny model."""
SHARE = 0.5
"""Share of the memory left by weights and server."""
BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a stored type that is converted when it is loaded; others, of quantized weights, stay as they are."""


def kv_cache_gib(*, free: int | None, weights: int, useful: int | None) -> int:
    """Return the GiB of KV cache: at least 1, at most what is useful. Sizes are in bytes, or None if unknown."""
    if free is None:
        return 1
    room = SHARE * (free - weights - SERVER) / GIB
    wanted = math.inf if useful is None else math.ceil(useful / GIB)
    return max(1, int(min(room, wanted)))


def loaded_bytes(folder: Path, dtype: str) -> int:
    """Return the bytes of a folder's weights in memory, loaded as `dtype`; 0 if its files cannot be read."""
    size = 0
    try:
        for file in weight_files(folder):
            for entry in read_header(file).values():
                start, end = entry["data_offsets"]
                size += (end - start) * BYTES.get(dtype, 4) // STORED.get(entry["dtype"], BYTES.get(dtype, 4))
    except (OSError, CheckpointError, KeyError, TypeError, ValueError):
        return 0
    return size


def kv_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int | None:
    """Return the bytes of keys and values per token of a decoder, or None if its config.json does not say.

    Two tensors per layer with `num_key_value_heads` heads each. Models that compress their cache need less.

    >>> kv_bytes_per_token({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, "float32")
    1024
    """
    text = config.get("text_config")
    section = text if isinstance(text, Mapping) else config
    try:
        layers, heads = int(section["num_hidden_layers"]), int(section["num_attention_heads"])
        size = int(section.get("head_dim") or section["hidden_size"] // heads)
        return 2 * layers * int(section.get("num_key_value_heads") or heads) * size * BYTES.get(dtype, 4)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def kv_cache_space(folder: Path, dtype: str, *, tokens: int | None, workers: int, free: int | None) -> int:
    """Return the GiB of KV cache of each worker that serves the model in `folder`.

    `tokens`: the most that requests in flight can have together, or None if unknown.
    """
    per_token = kv_bytes_per_token(read_object(folder / "config.json") or {}, dtype)
    useful = None if per_token is None or tokens is None else per_token * tokens
    share = None if free is None else free // workers
    return kv_cache_gib(free=share, weights=loaded_bytes(folder, dtype), useful=useful)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that programs can still get, also of this container's limit, or None if unknown."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text("utf-8"), re.M)
    except OSError:
        return None
    amounts = [int(match[1]) * 1024] if match else []
    return min([*amounts, *_container_room(root)], default=None)


def _container_room(root: Path) -> list[int]:
    """Return the bytes left below the memory limit of the control group, version 2 or 1, or nothing without a limit."""
    for limit, used, idle in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "inactive_file"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            most, now = (int((root / name).read_text()) for name in (limit, used))
            # cached files count as used but are given up when memory is needed
            stat = re.search(rf"^{idle} (\d+)", (root / limit).with_name("memory.stat").read_text(), re.M)
        except (OSError, ValueError):  # "max" is not a number
            continue
        return [max(0, most - now + (int(stat[1]) if stat else 0))]
    return []
