"""Folders one step away from a checkpoint: which path or command is the right one.

>>> no_folder(Path("my-org/my-model"))
"no such model folder: 'my-org/my-model'; a model of the Hub is --model hf:my-org/my-model"

Everything here is a guess for an error message about a path that cannot be served as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

CACHED = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
"""huggingface_hub's folder of one repository; its snapshots are model folders."""
MARKS = ("config.json", "adapter_config.json")
ZERO_SHARDS = ("*zero_pp_rank_*_optim_states.pt", "*zero_pp_rank_*_model_states.pt", "mp_rank_*_model_states.pt")
"""DeepSpeed's files: one per rank."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".xz", ".bz2")


def no_folder(path: Path) -> str:
    """Return a sentence on a path that is not a folder: a file, or nothing."""
    shown = str(path)
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", shown) and not shown.startswith("."):
            return f"no such model folder: {shown!r}; a model of the Hub is --model hf:{shown}"
        return f"no such model folder: {shown!r}; give a folder, hf:ORG/NAME or endpoint:NAME@URL"
    if path.suffix == ".gguf":
        return _gguf(path)
    if (path.parent / "config.json").is_file():
        return f"{shown!r} is a file; give its folder: --model {path.parent}"
    if path.suffix in ARCHIVES:
        return f"{shown!r} is an archive; unpack it, then give the folder with config.json and weights in it"
    return f"{shown!r} is a file; a checkpoint is a folder with config.json and weights in it"


def right_folder(folder: Path) -> str | None:
    """Return a sentence that names what to give instead of a folder without a checkpoint; None if nothing is near."""
    for guess in (_empty, _hub_cache, _deepspeed, _fsdp, _lone_adapter, _gguf_folder, _inside):
        sentence = guess(folder)
        if sentence is not None:
            return sentence
    return None


def _empty(folder: Path) -> str | None:
    return None if any(folder.iterdir()) else f"{str(folder)!r} is empty; a checkpoint has config.json and weights"


def _hub_cache(folder: Path) -> str | None:
    repository = folder.parent if folder.name == "snapshots" else folder
    match = CACHED.fullmatch(repository.name)
    if match is None or not (repository / "snapshots").is_dir():
        return None
    reference = f"hf:{match['org']}/{match['name']}"
    head = repository / "refs" / "main"
    revision = head.read_text("utf-8").strip() if head.is_file() else ""
    snapshots = sorted((repository / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime)
    snapshot = repository / "snapshots" / revision if revision else snapshots[-1] if snapshots else None
    if snapshot is None or not snapshot.is_dir():
        return f"{str(folder)!r} is a folder of the Hub's cache without a whole snapshot; give --model {reference}"
    return f"{str(folder)!r} is a folder of the Hub's cache; give --model {snapshot} or --model {reference}"


def _deepspeed(folder: Path) -> str | None:
    if any(any(folder.glob(shards)) for shards in ZERO_SHARDS):
        folder = folder.parent
    elif not any(folder.glob("global_step*")):
        return None
    script = folder / "zero_to_fp32.py"
    command = f"python {script}" if script.is_file() else "python -m deepspeed.utils.zero_to_fp32"
    return (
        f"{str(folder)!r} has DeepSpeed's shards, not a model; join them: {command} {folder} OUT --safe_serialization, "
        "then copy config.json and the tokenizer to OUT and give --model OUT"
    )


def _fsdp(folder: Path) -> str | None:
    sharded = [path for path in (folder, *sorted(folder.glob("pytorch_model_fsdp*"))) if any(path.glob("*.distcp"))]
    if not sharded:
        return None
    return (
        f"{str(folder)!r} has FSDP's shards, not a model; join them: accelerate merge-weights {sharded[0]} OUT, then "
        "copy config.json and the tokenizer to OUT and give --model OUT"
    )


def _lone_adapter(folder: Path) -> str | None:
    if (folder / "adapter_config.json").is_file() or not any(folder.glob("adapter_model.*")):
        return None
    return (
        f"{str(folder)!r} has the weights of a PEFT adapter but no adapter_config.json, which names its base; save the "
        "adapter again with model.save_pretrained(DIR)"
    )


def _gguf_folder(folder: Path) -> str | None:
    files = sorted(folder.glob("*.gguf"))
    return _gguf(files[0]) if files else None


def _gguf(file: Path) -> str:
    return (
        f"{str(file)!r} is a file of llama.cpp (GGUF), for --backend llamacpp: harness run --model {file} "
        "without another --backend"
    )


def _inside(folder: Path) -> str | None:
    """Name the last checkpoint in a trainer's output folder, or the model one level down."""
    models = [path for path in folder.iterdir() if path.is_dir() and any((path / mark).is_file() for mark in MARKS)]
    if not models:
        return None
    last = max(models, key=lambda path: (_step(path), path.name))
    if len(models) == 1:
        return f"{str(folder)!r} has no weights itself; give the model in it: --model {last}"
    return (
        f"{str(folder)!r} has no weights itself but {len(models)} checkpoints; give one, such as the last: --model "
        f"{last}, or evaluate all: harness watch {folder} --once --suite SUITE"
    )


def _step(path: Path) -> int:
    match = re.search(r"(\d+)$", path.name)
    return int(match[1]) if match else -1
