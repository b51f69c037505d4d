"""Look up what is known of the providers of judges, from their prices to their shutdown days, and keep our keys.

>>> providers()["groq"].url
'https://api.groq.com/openai/v1'
>>> shutdown_day("openai", "gpt-4.1").isoformat()
'2027-01-14'

>>> belongs("OPENAI_API_KEY", "https://api.openai.com/v1"), belongs("OPENAI_API_KEY", "https://example.org/v1")
(True, False)
>>> without_keys({"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y"}, keep=HUB)
{'PATH': '/bin', 'HF_TOKEN': 'y'}

The facts are in providers.yaml. Prices are those of the package genai-prices, a snapshot that needs no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import JsonValue

from .asking import Record, TokenLimit
from .documents import read_yaml
from .errors import ConfigError, did_you_mean

DATA = Path(__file__).with_name("providers.yaml")


class Quirk(Record):
    """What models of one name need."""

    models: str
    """Pattern for the beginning of their names."""
    omits: tuple[str, ...] = ()
    params: dict[str, JsonValue] = {}
    token_limit: TokenLimit = "max_tokens"
    reasoning_room: int = 0
    source: str


class Provider(Record):
    """One entry of providers.yaml, whose head explains the fields."""

    url: str
    keys: tuple[str, ...]
    hosts: tuple[str, ...]
    key_header: str = "Authorization"
    prices: str | None = None
    logprobs: bool | Literal["count"] = True
    read: str
    quirks: tuple[Quirk, ...] = ()
    shutdown_source: str = ""
    shutdowns: dict[date, tuple[str, ...]] = {}

    @property
    def key_env(self) -> str:
        """Return the variable of the key: the first that is set, or the first."""
        return next((name for name in self.keys if os.environ.get(name)), self.keys[0])

    def is_host(self, url: str) -> bool:
        """Return whether an encrypted URL is one of the provider's own."""
        parts = urlsplit(url)
        name = parts.hostname or ""
        owned = any(name.endswith(host) if host.startswith(".") else name == host for host in self.hosts)
        return owned and parts.scheme == "https" and parts.port in (None, 443)


@cache
def providers() -> Mapping[str, Provider]:
    return {name: Provider.model_validate(entry) for name, entry in read_yaml(DATA).items()}


def provider_at(url: str | None) -> str | None:
    """Return the provider whose host a URL names, or None for any other host."""
    return next((name for name, entry in providers().items() if url and entry.is_host(url)), None)


def shutdown_day(provider: str, model: str) -> date | None:
    """Return the announced day of a model's shutdown, or None if none is known."""
    days = providers()[provider].shutdowns
    return next((day for day, models in days.items() if model in models), None)


@cache
def list_price(provider: str, model: str) -> tuple[float, float] | None:
    """Return US dollars per million tokens sent and received, or None if genai-prices does not know the model."""
    from genai_prices import Usage, calc_price  # deferred: 1.6 MB of tables

    name = providers()[provider].prices
    if name is None:
        return None
    try:
        # few tokens: prices that rise with the length of a prompt start at their lowest
        cost = calc_price(Usage(input_tokens=1000, output_tokens=1000), model, provider_id=name)
    except LookupError:
        return None
    return float(cost.input_price * 1000), float(cost.output_price * 1000)


def nearest_model(provider: str, model: str) -> str:
    """Return `did_you_mean` of a provider's models in genai-prices, or nothing if it has this one."""
    from genai_prices.data_snapshot import get_snapshot  # deferred: 1.6 MB of tables

    if list_price(provider, model) is not None or providers()[provider].prices is None:
        return ""
    tables = get_snapshot().providers
    models = [entry.id for table in tables if table.id == providers()[provider].prices for entry in table.models]
    return did_you_mean(model, models)


# ----------------------------------------------------------------------------------------------------------------- keys
# Keys are read from the environment, sent only where they belong, and kept from the processes that we start.


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
