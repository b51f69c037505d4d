"""Name a judge by its provider, `openai:gpt-5.4`, and warn of a judge that its provider shuts down.

>>> judge = provider_judge("anthropic", "claude-opus-4-8")
>>> judge.url, judge.key_env, judge.params["temperature"]
('https://api.anthropic.com/v1', 'ANTHROPIC_API_KEY', None)
"""

from __future__ import annotations

import os
import re
from datetime import date, timedelta

from pydantic import JsonValue

from .asking import TokenLimit, base_url
from .errors import ConfigError
from .judging import Access, JudgeSpec
from .keys import JUDGE_KEY
from .providers import Provider, list_price, nearest_model, provider_at, providers, shutdown_day

WARNING_DAYS = 60
"""A judge that will be shut down within this many days warns: later runs cannot be compared with its verdicts."""
LOGPROBS = ("logprobs", "top_logprobs")
INLINE_URL = re.compile(r"@(?=https?://)")


def provider_judge(provider: str, text: str) -> JudgeSpec:
    """Return the judge of `MODEL`, or of `MODEL@URL`: another server with the provider's quirks, but not its key.

    Raise ConfigError if the model is missing, or the resource for Azure.
    """
    entry = providers()[provider]
    model, *elsewhere = INLINE_URL.split(text, maxsplit=1)
    if not model:
        raise ConfigError(f"--judge {provider + ':' + text!r} is not {provider}:MODEL or {provider}:MODEL@URL")
    params: dict[str, JsonValue] = {} if entry.logprobs else dict.fromkeys(LOGPROBS)
    limit: TokenLimit = "max_tokens"
    room = 0
    for quirk in entry.quirks:
        if re.match(quirk.models, model):
            params |= dict.fromkeys(quirk.omits) | quirk.params
            limit, room = quirk.token_limit, quirk.reasoning_room
    access, url = Access(key_header=entry.key_header), entry.url
    if elsewhere:
        url, key = base_url(elsewhere[0]), JUDGE_KEY if JUDGE_KEY in os.environ else None
    else:
        key = entry.key_env
        if not url:
            url, access = _azure_address(entry, model)
    spec = JudgeSpec(
        name=f"{provider}:{model}",
        kind="llm",
        model=model,
        url=url,
        key_env=key,
        access=access,
        params=params,
        token_limit=limit,
        logprobs_as="count" if entry.logprobs == "count" else "flag",
        reasoning_room=room,
    )
    return spec if elsewhere else with_provider_facts(spec)


def _azure_address(entry: Provider, deployment: str) -> tuple[str, Access]:
    """Return base URL and access of a deployment, by the variables that OpenAI's own client reads."""
    resource, version = os.environ.get("AZURE_OPENAI_ENDPOINT", ""), os.environ.get("OPENAI_API_VERSION")
    if not resource:
        raise ConfigError(
            "--judge azure:DEPLOYMENT needs the resource's address in AZURE_OPENAI_ENDPOINT, e.g. "
            "https://NAME.openai.azure.com; or write a judge's file: harness judge template azure"
        )
    if not entry.is_host(resource):
        raise ConfigError(
            f"AZURE_OPENAI_ENDPOINT is {resource!r}, not an https address below {', '.join(entry.hosts)}: the key is "
            "sent nowhere else. For a gateway of your own write a judge's file: harness judge template azure"
        )
    root = f"{base_url(resource)}/openai"
    if version is None:
        return f"{root}/v1", Access(key_header=entry.key_header)
    return f"{root}/deployments/{deployment}", Access(key_header=entry.key_header, query={"api-version": version})


def with_provider_facts(spec: JudgeSpec) -> JudgeSpec:
    """Return the judge with price and shutdown day of the provider whose host its URL names; its own come first."""
    provider = provider_at(spec.url)
    if provider is None or spec.model is None:
        return spec
    changed: dict[str, object] = {}
    if spec.retired is None and (day := shutdown_day(provider, spec.model)) is not None:
        changed["retired"] = day
    if spec.price_in is None and spec.price_out is None and (price := list_price(provider, spec.model)) is not None:
        changed |= dict(zip(("price_in", "price_out"), price, strict=True))
    return spec.model_copy(update=changed) if changed else spec


def refuse_shut_down(spec: JudgeSpec, today: date) -> None:
    """Raise ConfigError if the judge's provider has shut the model down. Another endpoint may still serve it."""
    if spec.retired is not None and spec.retired <= today and provider_at(spec.url) is not None:
        raise ConfigError(
            f"judge {spec.name!r} was shut down on {spec.retired} (harness judge list): if another server answers "
            f"as it, name that one: --judge endpoint:{spec.model}@URL"
        )


def shutdown_warning(spec: JudgeSpec, today: date) -> str | None:
    """Return a sentence about a judge that was shut down, or will be within WARNING_DAYS; None otherwise."""
    if spec.retired is None or spec.retired > today + timedelta(days=WARNING_DAYS):
        return None
    if spec.retired <= today:
        return (
            f"judge {spec.name} was shut down on {spec.retired} (harness judge list): another model may answer under "
            "that name"
        )
    days = (spec.retired - today).days
    return (
        f"judge {spec.name} will be shut down on {spec.retired}, in {days} days: what is judged later cannot be "
        "compared with it; choose one without a date (harness judge list)"
    )


def unlisted_model_warning(spec: JudgeSpec) -> str | None:
    """Return a sentence about a model that its provider's price list lacks, if one of a similar name is in it."""
    provider = provider_at(spec.url)
    near = nearest_model(provider, spec.model) if provider is not None and spec.model is not None else ""
    return f"judge {spec.name}: genai-prices lists no {spec.model!r} of {provider}{near}" if near else None
