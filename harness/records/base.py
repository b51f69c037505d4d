"""The basis of all records: the frozen base class, the canonical digest, the check of a base URL."""

from __future__ import annotations

import hashlib
import json
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from ..errors import ConfigError


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def base_url(text: str) -> str:
    """Return an http(s) base URL without its last slash. Raise ConfigError if it has credentials or a query."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises unless it is a number up to 65535
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a base URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{text!r} is not a base URL; expected http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ConfigError(f"the URL {shown!r} has a credential or a query; give keys in environment variables")
    return text.rstrip("/")


def digest(value: object) -> str:
    """Return the sha256 (64 hex characters) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
