"""Check a checkpoint's tensors against its architecture with transformers' own loader, before a server starts.

A loader leaves weights random that it does not find, and only logs it, so that a wrongly saved checkpoint would get a
score. `python -m harness.backends.loadable FOLDER` runs the loader in a process of its own, on torch's meta device:
with names, shapes and types from the files' headers, without reading or allocating a weight. What transformers converts
while it loads (renamed layers, fused experts, tied weights) is therefore accepted. If this cannot be decided, because
transformers does not know the architecture or it is quantized, the log says so and the server decides.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..records import digest
from ..records.errors import one_line
from ..store.checkpoint import Checkpoint
from ..store.files import cache_folder
from ..store.weights import LoadingReport, check_loaded, read_header, read_object, weight_files

LIMIT = 600.0  # seconds; importing torch from a network file system can take minutes
log = logging.getLogger(__name__)


async def check_loadable(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if weights would stay random. Remember a whole checkpoint, so that this costs once."""
    note = cache_folder() / "whole" / digest([checkpoint.weights_digest, _version()])
    if note.exists():
        return
    folder = checkpoint.base or checkpoint.path
    report = await asyncio.to_thread(_report_of, folder)
    if "unsure" in report:
        log.warning("%s: its tensors were not compared with its architecture: %s", folder, report["unsure"])
        return
    for sentence in check_loaded(folder, checkpoint.architecture, LoadingReport(**report)):
        log.warning("%s", sentence)
    with suppress(OSError):  # a cache that cannot be written only costs time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _version() -> str:
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def _report_of(folder: Path) -> dict[str, Any]:
    """Return the fields of a `LoadingReport`, or `unsure` with the reason, from a process that imports torch."""
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", __spec__.name, str(folder)]
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False
        )
        report = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"unsure": one_line(error)}
    return report if isinstance(report, dict) else {"unsure": "no report"}


def compare(folder: Path) -> dict[str, Any]:
    """Return what transformers' loader misses and does not know in a folder; `unsure` if it cannot tell."""
    config = read_object(folder / "config.json") or {}
    if "quantization_config" in config:
        return {"unsure": "it is quantized"}
    architecture = str((config.get("architectures") or ["none"])[0])
    import torch
    import transformers

    model_class = getattr(transformers, architecture, None)
    if model_class is None or "auto_map" in config:
        return {"unsure": f"transformers does not know {architecture}"}
    tensors = _tensors(folder, torch)
    if not tensors:
        return {"unsure": "its pickled weights have no readable list of names"}
    transformers.utils.logging.disable_progress_bar()
    settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    # tensors on the meta device have a shape and a type but no storage
    _, info = model_class.from_pretrained(
        None,
        config=settings,
        state_dict=tensors,
        device_map="meta",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    if info["error_msgs"]:
        return {"unsure": str(info["error_msgs"][0])}
    return asdict(LoadingReport.of(info, config))


def _tensors(folder: Path, torch: Any) -> dict[str, Any]:
    """Return tensor name -> an empty tensor of its shape and type on the meta device."""
    types = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    tensors = {}
    for file in weight_files(folder):
        for name, entry in read_header(file).items():
            dtype = getattr(torch, types.get(entry["dtype"], "float32"))
            tensors[name] = torch.empty(entry["shape"], dtype=dtype, device="meta")
    if not tensors:
        for file in sorted(folder.glob("pytorch_model*.bin")):
            tensors.update(torch.load(file, map_location="meta", weights_only=True))
    return tensors


if __name__ == "__main__":
    try:
        outcome = compare(Path(sys.argv[1]))
    except Exception as error:  # whatever transformers raises, the server decides
        outcome = {"unsure": one_line(error)}
    sys.stdout.write(json.dumps(outcome) + "\n")
