"""Load the target's tokenizer, with the recipe's chat template and pad token if it names them."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.errors import CheckpointError, ConfigError
from harness.records import ModelRef

from .rows import check_tokenizer


def load_tokenizer(
    model: str, *, chat_template: str | None = None, pad_token: str | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or of hf:ORG/NAME@REVISION. `chat_template` is the path of a Jinja file.

    Raise CheckpointError if there is no tokenizer, and ConfigError if it cannot render preference rows.
    """
    ref = ModelRef.parse(model)
    if ref.scheme == "endpoint":
        raise ConfigError(
            f"{model!r} is a server, but its tokenizer and weights are needed: give a folder or hf:ORG/NAME"
        )
    location = str(Path(ref.name).expanduser()) if ref.scheme == "path" else ref.name
    if ref.scheme == "path" and not Path(location).is_dir():
        raise CheckpointError(f"no such model folder: {model!r}; give a folder or hf:ORG/NAME")
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=ref.revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no tokenizer in {model!r}: {' '.join(str(error).split())[:300]}") from None
    if chat_template is not None:
        try:
            tokenizer.chat_template = Path(chat_template).expanduser().read_text("utf-8")
        except (OSError, ValueError):
            raise ConfigError(f"chat_template: {chat_template!r} cannot be read; give a Jinja file") from None
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ConfigError(f"pad_token: {pad_token!r} is not in the vocabulary of {model!r}; name a token that is")
        tokenizer.pad_token = pad_token
    check_tokenizer(tokenizer)
    return tokenizer
