"""A model folder before it is served: is it whole, which chat template will it speak, what is its digest.

Reads files only: no torch, no transformers, no server. Whether an engine knows the architecture is the engine's to say.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from .digests import file_sha256
from .errors import CheckpointError
from .records import ModelRef, Record

FASTCHAT = "fastchat:"
"""Prefix of a --chat-template that names one of fschat's conversation templates."""

SAMPLING_KEYS = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
PICKLES = (".bin", ".pt", ".pth")
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Starts of pickled file names that a trainer leaves beside the weights."""
DIGESTED = (".safetensors", ".json", ".model", ".tiktoken", ".txt", ".jinja", ".py")
NOT_DIGESTED = (
    "trainer_state.json",
    "README.md",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "fusion.json",
)
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library itself


class Checkpoint(Record):
    """One folder that passed inspection. Digests are sha256 hex; nothing here depends on where the folder lies but
    `path` and `base`."""

    path: Path
    base: Path | None = None
    """Folder of the base model where `path` is a PEFT adapter."""
    architecture: str
    weights_digest: str
    """Over names and contents of weight, config and tokenizer files; an adapter's covers its base too."""
    template: str | None
    """The Jinja text in use; None for a FastChat template."""
    template_source: str
    """A file name inside the checkpoint, `--chat-template`, or `fastchat:NAME`."""
    template_digest: str
    generation_config: dict[str, JsonValue] = {}
    """The checkpoint's own sampling defaults."""
    max_position: int | None = None
    """Tokens of context the configuration speaks of."""
    bos_token: str | None = None
    lora_rank: int | None = None
    has_pickles: bool = False

    @property
    def is_adapter(self) -> bool:
        return self.base is not None


def resolve(model: ModelRef, *, allow_pickle: bool = False) -> Path:
    """The folder of a `path` or `hf` model, downloaded if need be. Raises CheckpointError."""
    if model.scheme != "path":
        return _download(model, allow_pickle)
    try:
        return Path(model.name).expanduser()
    except RuntimeError as error:
        raise CheckpointError(f"no such model folder: {model.name!r}: {error}") from None


def _download(model: ModelRef, allow_pickle: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(f"--model {str(model)!r} needs huggingface_hub: pip install huggingface_hub") from None
    unwanted = ["*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*"]
    unwanted += [] if allow_pickle else [f"*{suffix}" for suffix in PICKLES]
    try:
        return Path(snapshot_download(model.name, revision=model.revision, ignore_patterns=unwanted))
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError):
        raise CheckpointError(
            f"{str(model)!r} is not in the local Hugging Face cache and the Hub cannot be reached; "
            "download it where there is a network, then give its folder"
        ) from None
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise CheckpointError(f"cannot download {str(model)!r}: {' '.join(str(error).split())[:300]}") from None


def inspect_checkpoint(folder: Path, *, allow_pickle: bool = False, chat_template: str | None = None) -> Checkpoint:
    """What the folder holds, every file that can be checked cheaply checked. Raises CheckpointError."""
    try:
        return _inspect(folder, allow_pickle=allow_pickle, chat_template=chat_template)
    except (ValueError, TypeError, AttributeError, LookupError, OSError, RuntimeError) as error:
        # its JSON files can be wrong in more ways than are worth a sentence each
        raise CheckpointError(f"{str(folder)!r} cannot be read as a checkpoint: {error}") from error


def _inspect(folder: Path, *, allow_pickle: bool, chat_template: str | None) -> Checkpoint:
    if not folder.exists():
        raise CheckpointError(f"no such model folder: {str(folder)!r}; give a folder, hf:ORG/NAME or endpoint:NAME@URL")
    if not folder.is_dir():
        raise CheckpointError(f"{str(folder)!r} is a file; a checkpoint is a folder with config.json and weights in it")
    folder = folder.resolve()
    adapter = _read_json(folder / "adapter_config.json")
    base = None if adapter is None else _base_folder(folder, adapter, allow_pickle)
    pickles = _check_weights(folder, allow_pickle)
    if base is not None:
        pickles += _check_weights(base, allow_pickle)
    config = _read_json((base or folder) / "config.json")
    if config is None:
        raise CheckpointError(f"{str(base or folder)!r} has no config.json; a Hugging Face checkpoint folder has one")
    source, template, template_digest = _template(folder, base, chat_template)
    return Checkpoint(
        path=folder,
        base=base,
        architecture=_architecture(base or folder, config),
        weights_digest=_weights_digest(folder, base),
        template=template,
        template_source=source,
        template_digest=template_digest,
        generation_config=_sampling_defaults(base or folder),
        max_position=_max_position(config),
        bos_token=_bos_token(folder) or (_bos_token(base) if base else None),
        lora_rank=_lora_rank(adapter),
        has_pickles=bool(pickles),
    )


# ------------------------------------------------------------------------------------------------------- weights


def check_whole(folder: Path) -> None:
    """Raises CheckpointError for weights that are not all there, or not all written; looks at nothing else."""
    try:
        _check_weights(folder, allow_pickle=True)
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise CheckpointError(f"{str(folder)!r} has no config.json yet")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(folder)!r} cannot be read as a checkpoint: {error}") from error


def _check_weights(folder: Path, allow_pickle: bool) -> list[Path]:
    """Raises CheckpointError unless loadable weights are there; returns the pickled ones found."""
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
    index = _read_json(folder / "model.safetensors.index.json")
    shards = set((index or {}).get("weight_map", {}).values())
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        raise CheckpointError(
            f"{str(folder)!r} is incomplete: {missing[0]} is missing ({len(missing)} of {len(shards)} shards); copy it"
        )


def _check_safetensors(file: Path) -> None:
    """Header readable and all tensors inside the file: catches what a broken copy or an LFS pointer looks like."""
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
            f"{str(file)!r} is {size} bytes where its header speaks of {wanted}: truncated; copy it again"
        )


def _weights_digest(folder: Path, base: Path | None) -> str:
    total = hashlib.sha256()
    for place in (folder, base):
        if place is None:
            continue
        safe = any(place.glob("*.safetensors"))
        for file in sorted(place.iterdir(), key=lambda path: path.name):
            pickled = file.suffix in PICKLES and not safe and not file.name.startswith(NOT_WEIGHTS)
            if file.is_file() and (pickled or (file.suffix in DIGESTED and file.name not in NOT_DIGESTED)):
                total.update(f"{file.name}\0{file_sha256(file)}\n".encode())
        total.update(b"\n")
    return total.hexdigest()


# -------------------------------------------------------------------------------------------- configuration files


def _read_json(file: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no such file. Raises CheckpointError on anything else."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{str(file)!r} holds no JSON object")
    return found


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            f'{str(folder / "config.json")!r} names no architecture; it needs e.g. "architectures": '
            '["LlamaForCausalLM"]'
        )
    return names[0]


def _max_position(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")
    for place in (config, text if isinstance(text, dict) else {}):
        found = place.get("max_position_embeddings")
        if isinstance(found, int) and found > 0:
            return found
    return None


def _sampling_defaults(folder: Path) -> dict[str, JsonValue]:
    config = _read_json(folder / "generation_config.json") or {}
    return {key: config[key] for key in SAMPLING_KEYS if config.get(key) is not None}


def _bos_token(folder: Path) -> str | None:
    token = (_read_json(folder / "tokenizer_config.json") or {}).get("bos_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


# ------------------------------------------------------------------------------------------------------- adapters


def _base_folder(folder: Path, adapter: dict[str, Any], allow_pickle: bool) -> Path:
    """The base of a PEFT adapter: a folder (as written, or beside the adapter) or a Hub repository."""
    name = adapter.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{str(folder / 'adapter_config.json')!r} names no base_model_name_or_path")
    for place in (Path(name).expanduser(), folder / name):
        if place.is_dir():
            return place.resolve()
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        revision = adapter.get("revision")
        ref = ModelRef(scheme="hf", name=name, revision=revision if isinstance(revision, str) else None)
        return _download(ref, allow_pickle)
    raise CheckpointError(
        f"the base {name!r} of the adapter {str(folder)!r} is not there; "
        "put the folder's place into base_model_name_or_path of adapter_config.json"
    )


def _lora_rank(adapter: dict[str, Any] | None) -> int | None:
    """Largest rank of any layer. Raises CheckpointError for an adapter that is no LoRA."""
    if adapter is None:
        return None
    if adapter.get("peft_type", "LORA") != "LORA" or not isinstance(adapter.get("r"), int):
        raise CheckpointError(
            f"adapter of type {adapter.get('peft_type')!r} cannot be served; LoRA can, or merge it into its base"
        )
    pattern = adapter.get("rank_pattern")
    return max(int(rank) for rank in (adapter["r"], *(pattern.values() if isinstance(pattern, dict) else ())))


# ------------------------------------------------------------------------------------------------- chat templates


def _template(folder: Path, base: Path | None, asked: str | None) -> tuple[str, str | None, str]:
    """(source, Jinja text or None, digest). What was asked for wins over what the folder holds, the adapter's over
    its base's."""
    if asked is not None and asked.startswith(FASTCHAT):
        return asked, None, hashlib.sha256(asked.encode()).hexdigest()
    if asked is not None:
        try:
            text = Path(asked).expanduser().read_text("utf-8")
        except (OSError, ValueError):
            raise CheckpointError(
                f"--chat-template {asked!r} cannot be read; give a Jinja file or fastchat:NAME"
            ) from None
        return "--chat-template", text, hashlib.sha256(text.encode()).hexdigest()
    for place in (folder, base):
        found = _own_template(place) if place is not None else None
        if found is not None:
            return found[0], found[1], hashlib.sha256(found[1].encode()).hexdigest()
    raise CheckpointError(
        f"{str(folder)!r} has no chat template; give one with --chat-template FILE.jinja or fastchat:NAME"
    )


def _own_template(folder: Path) -> tuple[str, str] | None:
    """(file name, Jinja text) in transformers' order: the .jinja file, then the two JSON files."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.name, jinja.read_text("utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = (_read_json(folder / name) or {}).get("chat_template")
        if isinstance(found, list):  # several named templates; servers use the one called default
            found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
        if isinstance(found, str):
            return name, found
    return None
