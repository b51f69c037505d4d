"""API keys: read from the environment, sent only where they belong, and kept from the processes that we start.

>>> belongs("OPENAI_API_KEY", "https://api.openai.com/v1"), belongs("OPENAI_API_KEY", "https://example.org/v1")
(True, False)
>>> without_keys({"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y"}, keep=HUB)
{'PATH': '/bin', 'HF_TOKEN': 'y'}
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

from .errors import ConfigError

JUDGE_KEY = "HARNESS_JUDGE_KEY"
"""The key of a judge that is given as `endpoint:MODEL@URL`."""
ENDPOINT_KEY = "HARNESS_ENDPOINT_KEY"
"""The key of a candidate that is given as `endpoint:NAME@URL`."""
HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""What a process needs that downloads gated data by itself."""
SECRET = re.compile(r"(^|_)(TOKEN|KEY)$|SECRET|PASSWORD|PASSWD", re.IGNORECASE)
"""Names of variables that no server needs."""
UNSENDABLE = re.compile(r"[\x00-\x20\x7f-\U0010ffff]")
"""What an HTTP header cannot carry; most often the newline at the end of a file with a secret."""

_key_variables: set[str] = set()
"""Variables that some judge of this process names as its `key_env`, whatever they are called."""


def note_key_variable(name: object) -> None:
    """Remember a variable as the one of a judge's key, so that no server started later sees it."""
    if isinstance(name, str):
        _key_variables.add(name)


def api_key(name: str | None) -> str | None:
    """Return the key in a variable, None if it is unset or empty. Raise ConfigError if a header cannot carry it."""
    if name is None:
        return None
    note_key_variable(name)
    key = os.environ.get(name)
    if key and (wrong := UNSENDABLE.search(key)):
        raise ConfigError(
            f"the key in the environment variable {name} contains the character U+{ord(wrong[0]):04X} "
            f"(number {wrong.start() + 1} of {len(key)}), which cannot be part of a key; set it again without, e.g. "
            f'{name}="$(tr -d "[:space:]" < FILE)"'
        )
    return key or None


def belongs(name: str, url: str) -> bool:
    """Return whether the URL is an encrypted one of the provider that issues the keys of this variable."""
    from .providers import providers  # deferred: it needs this module

    return any(name in provider.keys and provider.is_host(url) for provider in providers().values())


def is_secret(name: str) -> bool:
    """Return whether a variable's name says that its value is a secret, or a judge names it as its key."""
    return name in _key_variables or SECRET.search(name) is not None


def without_keys(environment: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """Return the environment for a process that we start: without keys, tokens and passwords, except `keep`."""
    return {name: value for name, value in environment.items() if name in keep or not is_secret(name)}


def masked(text: str) -> str:
    """Return the text without the values of this process's secret variables."""
    for name, value in os.environ.items():
        if len(value) > 5 and is_secret(name):
            text = text.replace(value, "***")
    return text
