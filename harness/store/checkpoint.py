"""Inspect a model folder before it is served: is it complete and safe to load, and what identifies it?

>>> Fusion.of({"method": "wrpo", "sources": ["a", "b"], "alpha": 0.1}).method
'wrpo'

Reads files only: no torch, no transformers, no server. Only the engine knows whether it supports the architecture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from ..records import ModelRef, Record
from ..records.documents import parse_json, parse_yaml
from ..records.errors import CheckpointError, ConfigError, one_line
from .files import file_sha256
from .weights import NOT_WEIGHTS, PICKLES, check_names, check_weights, no_folder, read_object, right_folder

# -------------------------------------------------------------------------------------------------------------- pickles
# Weights that a loader would unpickle are rejected, because a pickle can run code when it is loaded. A safetensors file
# beside them proves nothing: loaders look for certain names, and open `pytorch_model.bin` if only others are
# there. vLLM is told to read safetensors alone (`--load-format`); transformers, PEFT and vLLM's adapters have no such
# switch.


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


# ----------------------------------------------------------------------------------------------------------- the folder


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
    "made_from.json",
)

FASTCHAT = "fastchat:"
"""Prefix of a --chat-template that names one of fschat's conversation templates."""
SAMPLING_KEYS = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
FILE = "fusion.json"


class Checkpoint(Record):
    """One inspected folder. Digests are sha256 hex; only `path` and `base` depend on where the folder is."""

    path: Path
    base: Path | None = None
    """Folder of the base model if `path` is a PEFT adapter."""
    architecture: str
    weights_digest: str
    """Digest of names and contents of weight, config and tokenizer files; an adapter's covers its base too."""
    adapter_digest: str | None = None
    base_digest: str | None = None
    """Those of an adapter's own folder and of its base's."""
    template: str | None
    """The Jinja text in use; None for a FastChat template."""
    template_source: str
    """A file name inside the checkpoint, `--chat-template`, or `fastchat:NAME`."""
    template_digest: str
    generation_config: dict[str, JsonValue] = {}
    """The checkpoint's own sampling defaults."""
    max_position: int | None = None
    """Context length in tokens, as the configuration states it."""
    bos_token: str | None = None
    lora_rank: int | None = None
    has_pickles: bool = False

    def identity(self) -> dict[str, JsonValue]:
        """Return the checkpoint's part of a backend's identity."""
        return {
            "architecture": self.architecture,
            "weights": self.weights_digest,
            "adapter": self.is_adapter,
            "chat_template": self.template_digest,
            "chat_template_source": self.template_source,
            "generation_config": self.generation_config,
        }

    @property
    def is_adapter(self) -> bool:
        return self.base is not None


def resolve(model: ModelRef, *, allow_pickle: bool = False) -> Path:
    """Return the folder of a `path` or `hf` model, downloaded if needed. Raise CheckpointError if there is none."""
    if model.is_ensemble:
        raise CheckpointError(f"{str(model)!r} is a team of models: use --backend {model.scheme}, or leave it out")
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
    unwanted += [] if allow_pickle else [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(model.name, revision=model.revision, ignore_patterns=unwanted))
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError):
        raise CheckpointError(
            f"{str(model)!r} is not in the local Hugging Face cache and the Hub cannot be reached; "
            "download it on a machine with a network, then give its folder"
        ) from None
    except (HfHubHTTPError, ValueError, OSError) as error:
        raise CheckpointError(f"cannot download {str(model)!r}: {one_line(error)}") from None


def inspect_checkpoint(folder: Path, *, allow_pickle: bool = False, chat_template: str | None = None) -> Checkpoint:
    """Return what is in the folder, with every cheap check done. Raise CheckpointError if one fails."""
    try:
        return _inspect(folder, allow_pickle=allow_pickle, chat_template=chat_template)
    except (ValueError, TypeError, AttributeError, LookupError, OSError, RuntimeError) as error:
        # JSON files can be wrong in too many ways for a sentence each
        raise CheckpointError(f"{str(folder)!r} cannot be read as a checkpoint: {error}") from error


def _inspect(folder: Path, *, allow_pickle: bool, chat_template: str | None) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(no_folder(folder))
    folder = folder.resolve()
    adapter = read_object(folder / "adapter_config.json")
    base = None if adapter is None else _base_folder(folder, adapter, allow_pickle)
    pickles = check_weights(folder, allow_pickle)
    if base is not None:
        pickles += check_weights(base, allow_pickle)
    config = read_object((base or folder) / "config.json")
    if config is None:
        raise CheckpointError(
            right_folder(base or folder)
            or f"{str(base or folder)!r} has no config.json; a Hugging Face checkpoint folder has one"
        )
    for checked in (folder, base):
        if checked is not None:
            check_names(checked)
    if not allow_pickle:
        refuse_pickles(folder, config if base is None else {})
        if base is not None:
            refuse_pickles(base, config)
    source, template = _template(folder, base, chat_template)
    return Checkpoint(
        path=folder,
        base=base,
        architecture=_architecture(base or folder, config),
        weights_digest=weights_digest(folder, base),
        adapter_digest=None if base is None else weights_digest(folder, None),
        base_digest=None if base is None else weights_digest(base, None),
        template=template,
        template_source=source,
        template_digest=hashlib.sha256((source if template is None else template).encode()).hexdigest(),
        generation_config=_sampling_defaults(base or folder),
        max_position=_max_position(config),
        bos_token=_bos_token(folder) or (_bos_token(base) if base else None),
        lora_rank=_lora_rank(adapter),
        has_pickles=bool(pickles),
    )


def _architecture(folder: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            f'{str(folder / "config.json")!r} names no architecture; it needs e.g. "architectures": '
            '["LlamaForCausalLM"]'
        )
    return names[0]


def _max_position(config: dict[str, Any]) -> int | None:
    # multimodal configurations have it one level down
    text = config.get("text_config")
    for section in (config, text if isinstance(text, dict) else {}):
        length = section.get("max_position_embeddings")
        if isinstance(length, int) and length > 0:
            return length
    return None


def _sampling_defaults(folder: Path) -> dict[str, JsonValue]:
    config = read_object(folder / "generation_config.json") or {}
    return {key: config[key] for key in SAMPLING_KEYS if config.get(key) is not None}


def _bos_token(folder: Path) -> str | None:
    token = (read_object(folder / "tokenizer_config.json") or {}).get("bos_token")
    # tokenizers may store a special token as an object with its settings
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _base_folder(folder: Path, adapter: dict[str, Any], allow_pickle: bool) -> Path:
    """Return the base of a PEFT adapter: a folder (as written, or beside the adapter) or a Hub repository."""
    name = adapter.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{str(folder / 'adapter_config.json')!r} names no base_model_name_or_path")
    # as written, or beside the adapter, for folders that were copied together
    for candidate in (Path(name).expanduser(), folder / name):
        if candidate.is_dir():
            return candidate.resolve()
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        revision = adapter.get("revision")
        ref = ModelRef(scheme="hf", name=name, revision=revision if isinstance(revision, str) else None)
        return _download(ref, allow_pickle)
    raise CheckpointError(
        f"the base {name!r} of the adapter {str(folder)!r} does not exist; "
        "set base_model_name_or_path in adapter_config.json to its folder"
    )


def _lora_rank(adapter: dict[str, Any] | None) -> int | None:
    """Return the largest rank of any layer. Raise CheckpointError if the adapter is not a LoRA."""
    if adapter is None:
        return None
    if adapter.get("peft_type", "LORA") != "LORA" or not isinstance(adapter.get("r"), int):
        raise CheckpointError(
            f"adapter of type {adapter.get('peft_type')!r} cannot be served; LoRA can, or merge it into its base"
        )
    pattern = adapter.get("rank_pattern")
    return max(int(rank) for rank in (adapter["r"], *(pattern.values() if isinstance(pattern, dict) else ())))


def _template(folder: Path, base: Path | None, requested: str | None) -> tuple[str, str | None]:
    """Return (source, Jinja text or None).

    A requested template takes precedence over the folder's own, an adapter's over its base's.
    """
    if requested is not None and requested.startswith(FASTCHAT):
        return requested, None
    if requested is not None:
        try:
            return "--chat-template", Path(requested).expanduser().read_text("utf-8")
        except (OSError, ValueError):
            raise CheckpointError(
                f"--chat-template {requested!r} cannot be read; give a Jinja file or fastchat:NAME"
            ) from None
    for source in (folder, base):
        template = _own_template(source) if source is not None else None
        if template is not None:
            return template
    raise CheckpointError(
        f"{str(folder)!r} has no chat template; give one with --chat-template FILE.jinja or fastchat:NAME (in a YAML "
        "file: `serve: {chat_template: FILE.jinja}`)"
    )


def _own_template(folder: Path) -> tuple[str, str] | None:
    """Return (file name, Jinja text), searched in transformers' order: the .jinja file, then the two JSON files."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.name, jinja.read_text("utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = (read_object(folder / name) or {}).get("chat_template")
        if isinstance(template, list):  # several named templates; servers use the one called default
            template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
        if isinstance(template, str):
            return name, template
    return None


def check_whole(folder: Path) -> None:
    """Raise CheckpointError if weights are missing or incomplete, whatever the rest of the folder is."""
    try:
        check_weights(folder, allow_pickle=True)
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise CheckpointError(f"{str(folder)!r} has no config.json yet")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(folder)!r} cannot be read as a checkpoint: {error}") from error


def weights_digest(folder: Path, base: Path | None) -> str:
    """Return the hex sha256 of names and contents of weights, config and tokenizer, an adapter's before its base's."""
    total = hashlib.sha256()
    for source in (folder, base):
        if source is None:
            continue
        safe = any(source.glob("*.safetensors"))
        for file in sorted(source.iterdir(), key=lambda path: path.name):
            pickled = file.suffix in PICKLES and not safe and not file.name.startswith(NOT_WEIGHTS)
            if file.is_file() and (pickled or (file.suffix in DIGESTED and file.name not in NOT_DIGESTED)):
                total.update(f"{file.name}\0{file_sha256(file)}\n".encode())
        # so that moving a file from the adapter to its base is another model
        total.update(b"\n")
    return total.hexdigest()


class Fusion(Record):
    """How a fused model was made, as its makers state it. It is displayed and never part of a protocol.

    It is in `fusion.json` of the checkpoint, or in `fusion.yaml` of a results folder (model name -> the same keys) for
    models without a local folder.
    """

    method: str
    """wrpo, dpo, sft, ..."""
    sources: tuple[str, ...] = ()
    alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of the source models' reward at the end of WRPO training."""
    target: str | None = None
    """The model that was trained."""

    @classmethod
    def of(cls, value: JsonValue) -> Fusion | None:
        """Return the fusion of a card, or None if it is missing or unreadable (a card of another version)."""
        try:
            return None if value is None else cls.model_validate(value)
        except ValidationError:
            return None


def read_checkpoint_fusion(folder: Path) -> Fusion | None:
    """Return `fusion.json` of a checkpoint folder, or None without one. Raise ConfigError if it is invalid."""
    path = folder / FILE
    try:
        return Fusion.model_validate(parse_json(path.read_bytes(), path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValidationError is a ValueError
        raise ConfigError(f"{path}: {one_line(error)}; keys: {', '.join(Fusion.model_fields)}") from None


def read_fusion(results: Path) -> dict[str, Fusion]:
    """Return `fusion.yaml` of a results folder, model name -> fusion. Raise ConfigError if it is invalid."""
    path = results / "fusion.yaml"
    try:
        document = parse_yaml(path.read_text("utf-8"), path) or {}
        return {str(name): Fusion.model_validate(value) for name, value in dict(document).items()}
    except FileNotFoundError:
        return {}
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {one_line(error)}; expected MODEL: {{method, sources, alpha, target}}") from None
