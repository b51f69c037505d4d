"""GPUs of this machine: which ones it shows, how many a server uses, and which of them each server gets.

>>> disjoint_devices(("0", "1", "2", "3", "4"), unit=2, count=2)
['0,1', '2,3']
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from ..records.errors import ConfigError
from ..records.settings import ServeSpec

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
