"""Free memory, and how much of it vLLM may use for its KV cache on CPUs.

>>> kv_cache_gib(free=16 * GIB, weights=2 * GIB, useful=None)
6
>>> kv_cache_gib(free=16 * GIB, weights=2 * GIB, useful=GIB // 4)
1

vLLM wants whole GiB, and allocates them at its start. More cache than all requests in flight can fill is of no use, and
half of what the weights leave stays free, since other programs, such as a judge, run on the same machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records.errors import CheckpointError
from ..store.weights import read_header, read_object, weight_files

GIB = 2**30
SERVER = 2 * GIB
"""What vLLM itself takes on CPUs: with 1 GiB of KV cache it took 2.6 GiB for a tiny model."""
SHARE = 0.5
"""Share of the memory left by weights and server."""
BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
STORED = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a stored type that is converted when it is loaded; others, of quantized weights, stay as they are."""


def kv_cache_gib(*, free: int | None, weights: int, useful: int | None) -> int:
    """Return the GiB of KV cache: at least 1, at most what is useful. Sizes are in bytes; None: unknown."""
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
    """Return the bytes of keys and values per token of a decoder; None if its config.json does not say.

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

    `tokens`: the most that requests in flight can have together; None: unknown.
    """
    per_token = kv_bytes_per_token(read_object(folder / "config.json") or {}, dtype)
    useful = None if per_token is None or tokens is None else per_token * tokens
    share = None if free is None else free // workers
    return kv_cache_gib(free=share, weights=loaded_bytes(folder, dtype), useful=useful)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that programs can still get, also of this container's limit; None if unknown."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", (root / "proc/meminfo").read_text("utf-8"), re.M)
    except OSError:
        return None
    amounts = [int(match[1]) * 1024] if match else []
    return min([*amounts, *_container_room(root)], default=None)


def _container_room(root: Path) -> list[int]:
    """Return the bytes left below the memory limit of the control group, version 2 or 1; nothing without a limit."""
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
