"""Count the tokens of a text by OpenAI's own table if it is on this machine, else by a rule of thumb.

Used only for estimates: actual costs come from the server's own counts. Nothing is downloaded here:
`harness data pull tokenizer` does that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..digests import cache_folder
from ..official import FILES, cached_path, ensure

CHARACTERS_PER_TOKEN = 4.0
"""OpenAI's own rule of thumb for English text (help.openai.com, "What are tokens and how to count them")."""
EXACT = 50
"""Texts counted exactly; later ones by the characters per token of these, so that an estimate is quick."""
OVERHEAD = 4
"""Tokens around each message (openai-cookbook, how_to_count_tokens_with_tiktoken: 3, and 1 for the role)."""


@dataclass
class TokenMeter:
    """Counts the tokens of many similar texts."""

    name: str
    """Method of counting, for the reader of an estimate."""
    encode: Callable[[str], list[int]] | None
    characters: int = 0
    tokens: int = 0
    seen: int = 0

    def count(self, text: str) -> float:
        if self.encode is not None and self.seen < EXACT:
            tokens = len(self.encode(text))
            self.seen += 1
            self.characters += len(text)
            self.tokens += tokens
            return tokens
        return len(text) / (self.characters / self.tokens if self.tokens else CHARACTERS_PER_TOKEN)


def meter(model: str | None, *, exact: bool = True) -> TokenMeter:
    """Return the meter for a judge's model, with the table that tiktoken names for it, or cl100k_base.

    A table takes 40 to 75 MB of memory until the process ends; `exact` False does without.
    """
    name = _encoding_name(model or "") if exact else None
    path = _table(name) if name else None
    if name is None or path is None:
        return TokenMeter("4 characters per token (`harness data pull tokenizer` makes the count exact)", None)
    return TokenMeter(f"{name} (tiktoken)", _encoder(name, path))


def _encoding_name(model: str) -> str | None:
    try:
        from tiktoken.model import encoding_name_for_model
    except ImportError:
        return None
    try:
        return encoding_name_for_model(model)
    except KeyError:
        return "cl100k_base"


def _table(name: str) -> Path | None:
    """Return the verified table, if it is in the cache already."""
    pinned = FILES.get(f"tokenizer/{name}")
    if pinned is None or not cached_path(pinned).is_file():
        return None
    return ensure([pinned.name])[pinned.name]


@cache
def _encoder(name: str, path: Path) -> Callable[[str], list[int]]:
    """Return tiktoken's encoding with our copy of its table.

    tiktoken looks for a file named by the sha1 of the table's address.
    """
    import tiktoken

    folder = cache_folder() / "tiktoken"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / hashlib.sha1(FILES[f"tokenizer/{name}"].url.encode(), usedforsecurity=False).hexdigest()
    if not link.exists():
        link.symlink_to(path.resolve())
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    return tiktoken.get_encoding(name).encode_ordinary
