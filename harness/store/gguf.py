"""Inspect a model of llama.cpp (GGUF) before it is served: its files, its digest, its chat template.

>>> gguf_files(Path("no/such/model.gguf"))
()

Reads the header only, which has everything but the weights; the format is in ggml's docs/gguf.md.
"""

from __future__ import annotations

import hashlib
import re
import struct
from pathlib import Path
from typing import BinaryIO

from ..records import ModelRef
from ..records.errors import CheckpointError, one_line
from .checkpoint import FASTCHAT, Checkpoint
from .files import file_sha256

SUFFIX = ".gguf"
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""Number of a value's type -> how it is stored; 8 is a text, 9 a list."""
TEXT, LIST = 8, 9
LONGEST_TEXT = 1 << 26  # bytes; a longer one means that the file is damaged
Value = int | float | bool | str


def is_gguf(path: Path) -> bool:
    """Return whether a path is a GGUF file, or a folder with such files instead of a Hugging Face checkpoint."""
    if path.is_dir():
        marks = ("config.json", "adapter_config.json")
        return bool(gguf_files(path)) and not any((path / mark).exists() for mark in marks)
    return path.suffix == SUFFIX


def names_gguf(model: ModelRef) -> bool:
    """Return whether a reference is the path of a GGUF file, or of a folder of such files."""
    if model.scheme != "path":
        return False
    try:
        return is_gguf(Path(model.name).expanduser())
    except (OSError, RuntimeError):  # a path without a home
        return False


def gguf_files(path: Path) -> tuple[Path, ...]:
    """Return the GGUF files in a folder, or a file with the shards that belong to it; none if there is nothing."""
    if path.is_dir():
        # an image projector belongs to a model; it is not one itself
        return tuple(sorted(file for file in path.glob(f"*{SUFFIX}") if not file.name.startswith("mmproj")))
    if not path.is_file():
        return ()
    match = SHARD.fullmatch(path.name)
    if match is None:
        return (path,)
    count = int(match["count"])
    return tuple(path.with_name(f"{match['name']}-{n:05d}-of-{count:05d}{SUFFIX}") for n in range(1, count + 1))


def inspect_gguf(path: Path, *, chat_template: str | None = None) -> Checkpoint:
    """Return what a GGUF file, or the only model in a folder, contains. Raise CheckpointError if it cannot be served.

    `Checkpoint.path` is the file, of several shards the first. The digest covers the contents of all shards.
    """
    files = _model_files(path)
    header = read_header(files[0])
    architecture = str(header.get("general.architecture", ""))
    if not architecture:
        raise CheckpointError(f"{str(files[0])!r} names no general.architecture; llama.cpp cannot load it")
    source, template = _template(files[0], header, chat_template)
    length = header.get(f"{architecture}.context_length")
    digests = [file_sha256(file) for file in files]
    return Checkpoint(
        path=files[0].resolve(),
        architecture=architecture,
        weights_digest=digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        template=template,
        template_source=source,
        template_digest=hashlib.sha256(template.encode()).hexdigest(),
        max_position=length if isinstance(length, int) else None,
    )


def _model_files(path: Path) -> tuple[Path, ...]:
    files = gguf_files(path)
    if not files:
        missing = "has no .gguf file" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{str(path)!r} {missing}; backend 'llamacpp' serves a GGUF file or a folder with one")
    if path.is_dir():
        whole = gguf_files(files[0])
        if set(files) != set(whole):
            names = ", ".join(file.name for file in files)
            raise CheckpointError(f"{str(path)!r} contains several models; give one file, of shards the first: {names}")
        files = whole
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise CheckpointError(f"{str(path)!r} lacks shards: {', '.join(absent)}; download them into the same folder")
    return files


def _template(file: Path, header: dict[str, Value], requested: str | None) -> tuple[str, str]:
    """Return (source, Jinja text). A requested template takes precedence over the file's own."""
    if requested is not None and requested.startswith(FASTCHAT):
        raise CheckpointError(f"backend 'llamacpp' cannot use --chat-template {requested!r}; give a Jinja file")
    if requested is not None:
        try:
            return "--chat-template", Path(requested).expanduser().read_text("utf-8")
        except (OSError, ValueError):
            raise CheckpointError(f"--chat-template {requested!r} cannot be read; give a Jinja file") from None
    template = header.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise CheckpointError(f"{str(file)!r} has no chat template; give one with --chat-template FILE.jinja")
    return "tokenizer.chat_template", template


def read_header(file: Path) -> dict[str, Value]:
    """Return the metadata of a GGUF file without its lists. Raise CheckpointError if it is damaged or no such file."""
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version, _, count = _numbers(stream, "<IQQ")
            if version not in (2, 3):
                raise ValueError(f"version {version} of the format, not 2 or 3")
            entries = [(_text(stream), _value(stream, *_numbers(stream, "<I"))) for _ in range(count)]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as a GGUF file: {one_line(error)}") from None
    return {name: value for name, value in entries if value is not None}


def _numbers(stream: BinaryIO, form: str) -> tuple[int, ...]:
    size = struct.calcsize(form)
    data = stream.read(size)
    if len(data) < size:
        raise ValueError("it is cut off in its header")
    return struct.unpack(form, data)


def _text(stream: BinaryIO) -> str:
    (length,) = _numbers(stream, "<Q")
    if length > LONGEST_TEXT:
        raise ValueError(f"a text of {length} bytes in its header")
    data = stream.read(length)
    if len(data) < length:
        raise ValueError("it is cut off in its header")
    return data.decode("utf-8", "replace")


def _value(stream: BinaryIO, kind: int) -> Value | None:
    if kind == TEXT:
        return _text(stream)
    if kind != LIST:
        return _numbers(stream, SCALARS[kind])[0]
    inner, count = _numbers(stream, "<IQ")
    if inner in (TEXT, LIST):
        for _ in range(count):
            _value(stream, inner)
    else:
        stream.seek(count * struct.calcsize(SCALARS[inner]), 1)
    return None
