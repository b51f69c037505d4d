"""`--judge alpaca_eval:NAME`: an evaluator configuration of the installed alpaca-eval package, at its own endpoint."""

from __future__ import annotations

import os

from pydantic import JsonValue

from harness.errors import ConfigError
from harness.records import JudgeSpec, base_url

from .evaluators import OPENAI_URL, mapped_names, read_evaluator
from .llm import LlmJudge


class AlpacaEvalJudge(LlmJudge):
    """`fusion_harness.judges` entry point "alpaca_eval": model, address and price are the configuration's, unless the
    spec has its own. Raises ConfigError for a configuration that cannot be mapped, and without its key."""

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__(completed(spec))


def completed(spec: JudgeSpec) -> JudgeSpec:
    """The spec with what it leaves open taken from the configuration. No key goes to an address that is not its own:
    OPENAI_API_KEY to OpenAI, HARNESS_JUDGE_KEY to any other."""
    if spec.evaluator is None:
        raise ConfigError(f"judge {spec.name!r} needs `evaluator`, one of: {', '.join(mapped_names())}")
    found = read_evaluator(spec.evaluator)
    url = spec.url or found.url
    if url is None:
        raise ConfigError(
            f"evaluator {spec.evaluator!r} asks a server that speaks no OpenAI protocol, or one of its makers' own; "
            f"give one: --judge alpaca_eval:{spec.evaluator}@http://HOST:PORT/v1"
        )
    own_key = "HARNESS_JUDGE_KEY" if "HARNESS_JUDGE_KEY" in os.environ else None
    key_env = spec.key_env or ("OPENAI_API_KEY" if url == OPENAI_URL else own_key)
    changed: dict[str, JsonValue] = {
        "url": base_url(url),
        "model": spec.model or found.model,
        "key_env": key_env,
    }
    if spec.price_in is None and spec.price_out is None and spec.url is None:
        changed |= {"price_in": found.price, "price_out": found.price}
    return spec.model_copy(update=changed)
