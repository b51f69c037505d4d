"""Read the headers of a model folder's weight files: are they whole, and are their names a model's?

>>> wrapper_of(["_orig_mod.model.norm.weight", "_orig_mod.lm_head.weight"]).name
'torch.compile'

>>> no_folder(Path("my-org/my-model"))
"no such model folder: 'my-org/my-model'; a model of the Hub is --model hf:my-org/my-model"

Only safetensors headers and index files are read, so a folder of any size takes milliseconds.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records.errors import CheckpointError

# ------------------------------------------------------------------------------------------------ folders one step away
# Everything here is a guess for an error message: which path or command was meant by one that cannot be served.


CACHED = re.compile(r"models--(?P<org>.+?)--(?P<name>.+)")
"""huggingface_hub's folder of one repository; its snapshots are model folders."""
MARKS = ("config.json", "adapter_config.json")
ZERO_SHARDS = ("*zero_pp_rank_*_optim_states.pt", "*zero_pp_rank_*_model_states.pt", "mp_rank_*_model_states.pt")
"""DeepSpeed's files: one per rank."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".xz", ".bz2")


def no_folder(path: Path) -> str:
    """Return a sentence on a path that is not a folder: a file, or nothing."""
    name = str(path)
    if not path.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
            return f"no such model folder: {name!r}; a model of the Hub is --model hf:{name}"
        return f"no such model folder: {name!r}; give a folder, hf:ORG/NAME or endpoint:NAME@URL"
    if path.suffix == ".gguf":
        return _gguf(path)
    if (path.parent / "config.json").is_file():
        return f"{name!r} is a file; give its folder: --model {path.parent}"
    if path.suffix in ARCHIVES:
        return f"{name!r} is an archive; unpack it, then give the folder with config.json and weights in it"
    return f"{name!r} is a file; a checkpoint is a folder with config.json and weights in it"


def right_folder(folder: Path) -> str | None:
    """Return a sentence that names a checkpoint near a folder without one, or None if there is none."""
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


# --------------------------------------------------------------------------------------------------------- weight files


PICKLES = (".bin", ".pt", ".pth")
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Prefixes of pickled files that a trainer leaves beside the weights."""
ADAPTER_FILE = "adapter_model.safetensors"
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself
INSIDE = ("model", "transformer", "language_model")
"""First parts of tensor names inside a language model; a head of another kind is beside it."""
DRAFT_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
"""Keys of configurations with layers for multi-token prediction, which transformers' classes do not have."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Keys of configurations with the number of experts per layer: Mixtral's, Qwen's, DeepSeek's."""
SHOWN = 2  # names in a sentence


@dataclass(frozen=True)
class Wrapper:
    """What leaves its mark in tensor names if a wrapped model is saved instead of the model inside."""

    name: str
    mark: re.Pattern[str]
    repair: str
    in_adapters: bool = True
    """Whether the mark is wrong in an adapter's names too."""


WRAPPERS = (
    Wrapper("torch.compile", re.compile(r"(^|\.)_orig_mod\."), "model._orig_mod.save_pretrained(DIR)"),
    Wrapper(
        "FSDP",
        re.compile(r"(^|\.)_fsdp_wrapped_module\."),
        "fsdp_state_dict_type: FULL_STATE_DICT of accelerate's configuration",
    ),
    Wrapper(
        "activation checkpointing",
        re.compile(r"(^|\.)_checkpoint_wrapped_module\."),
        "the state dict of the model before it was wrapped",
    ),
    Wrapper("DistributedDataParallel", re.compile(r"^module\."), "model.module.save_pretrained(DIR)"),
    Wrapper(
        "PEFT",
        re.compile(r"^base_model\.model\."),
        "model.merge_and_unload().save_pretrained(DIR)",
        in_adapters=False,
    ),
)


def wrapper_of(names: Sequence[str], *, adapter: bool = False) -> Wrapper | None:
    """Return the wrapper whose mark the tensor names have, or None. Pure."""
    for wrapper in WRAPPERS:
        if any(wrapper.mark.search(name) for name in names) and not (adapter and not wrapper.in_adapters):
            return wrapper
    return None


def check_weights(folder: Path, allow_pickle: bool) -> list[Path]:
    """Return the pickled weight files. Raise CheckpointError if there are no loadable weights."""
    safe = sorted(folder.glob("*.safetensors"))
    pickles = [p for p in sorted(folder.iterdir()) if p.suffix in PICKLES and not p.name.startswith(NOT_WEIGHTS)]
    for file in safe:
        read_header(file)
    _check_shards(folder)
    advice = None if safe else right_folder(folder)
    if advice is not None:
        raise CheckpointError(advice)
    if not safe and not pickles:
        raise CheckpointError(f"{str(folder)!r} has no weights: no *.safetensors file in it")
    if not safe and not allow_pickle:
        raise CheckpointError(
            f"{str(folder)!r} has only pickled weights ({pickles[0].name}), which can run code when loaded; "
            "convert them to safetensors, or trust them with --allow-pickle"
        )
    return pickles


def check_names(folder: Path) -> None:
    """Raise CheckpointError if the tensor names show that a wrapped model was saved.

    Loaders skip names they do not know and leave the weights random, so that such a checkpoint would get a score.
    """
    names = tensor_names(folder)
    wrapper = wrapper_of(names, adapter=(folder / "adapter_config.json").is_file())
    if wrapper is None:
        return
    marked = [name for name in names if wrapper.mark.search(name)]
    raise CheckpointError(
        f"the tensors of {str(folder)!r} are named as {wrapper.name} names them ({listed(marked)}), so their weights "
        f"would not be loaded; save the model inside: {wrapper.repair}"
    )


def tensor_names(folder: Path) -> list[str]:
    """Return the names in the weight files that a loader reads, sorted; none for pickled files without an index."""
    for index in INDEXES:
        if (folder / index).is_file() and (names := _weight_map(folder / index)):
            return sorted(names)
    return sorted(name for file in weight_files(folder) for name in read_header(file))


def active_parameters(folder: Path) -> float | None:
    """Return the number of parameters used per token, or None without readable safetensors files.

    All parameters, but of a mixture of experts only the share of the experts that a token is sent to.
    """
    try:
        config = read_object(folder / "config.json") or {}
    except CheckpointError:
        return None
    experts = next((config[key] for key in EXPERTS if isinstance(config.get(key), int)), None)
    per_token = config.get("num_experts_per_tok")
    # experts are equally large, so a token uses their share of the parameters
    share = per_token / experts if experts and isinstance(per_token, int) else 1.0
    total = 0.0
    try:
        for file in weight_files(folder):
            for name, tensor in read_header(file).items():
                total += math.prod(tensor["shape"]) * (share if ".experts." in name else 1.0)
    except (OSError, CheckpointError, KeyError, TypeError):
        return None
    return total or None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that a loader reads: an adapter's, the index's, the one file, or else all."""
    if (folder / "adapter_config.json").is_file():
        return [file for file in (folder / ADAPTER_FILE,) if file.is_file()]
    if (folder / INDEXES[0]).is_file():
        shards = sorted(set(_weight_map(folder / INDEXES[0]).values()))
        return [folder / shard for shard in shards]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = (read_object(index) or {}).get("weight_map", {})
    return weight_map if isinstance(weight_map, dict) else {}


def _check_shards(folder: Path) -> None:
    shards = set(_weight_map(folder / INDEXES[0]).values())
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise CheckpointError(
            f"{str(folder)!r} is incomplete: {missing[0]} is missing ({len(missing)} of {len(shards)} shards); copy it"
        )


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Return tensor name -> its dtype, shape and offsets.

    Raise CheckpointError unless the header is readable and all tensors are inside the file, which catches broken
    copies and LFS pointers.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        # a clone without git-lfs has text files of this beginning in place of weights
        if start == b"version ":
            raise CheckpointError(f"{str(file)!r} is a git-lfs pointer, not weights; run `git lfs pull` in its folder")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER + 1
        raw = stream.read(length) if length <= min(size, MAX_HEADER) else b""
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        ends = [entry["data_offsets"][1] for entry in header.values()]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise CheckpointError(
            f"{str(file)!r} is not a readable safetensors file (broken header); copy or save it again"
        ) from None
    if size != expected:
        raise CheckpointError(
            f"{str(file)!r} has {size} bytes, but its header describes {expected}: it is truncated; copy it again"
        )
    tensors: dict[str, dict[str, Any]] = header
    return tensors


@dataclass(frozen=True)
class LoadingReport:
    """How a checkpoint's tensors differ from those of its architecture, as transformers' loader reports it."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    """Names with the stored shape and the architecture's."""
    draft_layers: bool = False
    """Whether the model has layers for multi-token prediction, which it runs without."""

    @classmethod
    def of(cls, info: Mapping[str, Any], config: Mapping[str, Any]) -> LoadingReport:
        """Return the report from `output_loading_info` of `from_pretrained` and the model's configuration."""
        return cls(
            missing=tuple(sorted(info["missing_keys"])),
            unexpected=tuple(sorted(info["unexpected_keys"])),
            mismatched=tuple(sorted(_mismatch(*entry) for entry in info["mismatched_keys"])),
            draft_layers=any(config.get(key) for key in DRAFT_LAYERS),
        )


def _mismatch(name: str, stored: Iterable[int], expected: Iterable[int]) -> str:
    return f"{name} {list(stored)} instead of {list(expected)}"


def check_loaded(folder: Path, architecture: str, report: LoadingReport) -> list[str]:
    """Return a warning if tensors are only ignored, else nothing. Pure.

    Raise CheckpointError if a weight is missing or has another shape, which leaves it random, or if a tensor belongs
    inside the model but has no place there, such as a layer too many. A tensor outside it, such as a value head, is
    harmless.
    """
    misplaced = [name for name in report.unexpected if report.missing or _belongs_inside(name, report)]
    problems = [
        f"{len(names)} {words} ({listed(names)})"
        for names, words in (
            (report.missing, "missing"),
            (report.mismatched, "of another shape"),
            (misplaced, "without a place in it"),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the tensors of {str(folder)!r} are not those of {architecture}, which its config.json names: "
            f"{'; '.join(problems)}; {_repair(report)}"
        )
    if not report.unexpected:
        return []
    return [f"{len(report.unexpected)} tensors of {str(folder)!r} are not used ({listed(report.unexpected)})"]


def _belongs_inside(name: str, report: LoadingReport) -> bool:
    return name.partition(".")[0] in INSIDE and not report.draft_layers


def _repair(report: LoadingReport) -> str:
    """Return what to do, with the prefix in question if the names differ by one only."""
    for name in report.unexpected[:SHOWN]:  # a common prefix shows in any of them
        for missing in report.missing:
            if name.endswith(f".{missing}"):
                return f"rename them without the prefix {name.removesuffix(missing)!r}, or save the model inside"
            if missing.endswith(f".{name}"):
                return f"rename them with the prefix {missing.removesuffix(name)!r}"
    return "save the model again with save_pretrained, so that config.json and weights belong together"


def listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


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
