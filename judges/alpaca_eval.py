"""`--judge alpaca_eval:NAME`: judge with an evaluator of the installed alpaca-eval package at its own endpoint."""

from __future__ import annotations

import os

from pydantic import JsonValue

from harness.errors import ConfigError
from harness.records import JudgeSpec, base_url

from .evaluators import OPENAI_URL, mapped_names, read_evaluator
from .llm import LlmJudge


class AlpacaEvalJudge(LlmJudge):
    """`fusion_harness.judges` entry point "alpaca_eval".

    Model, address and price default to the configuration's. Raises ConfigError if the configuration cannot be mapped
    or its API key is missing.
    """

    def __init__(self, spec: JudgeSpec) -> None:
        super().__init__(completed(spec))


def completed(spec: JudgeSpec) -> JudgeSpec:
    """Return the spec with its open fields filled from the configuration.

    A key is sent only where it belongs: OPENAI_API_KEY to OpenAI, HARNESS_JUDGE_KEY to any other address.
    """
    if spec.evaluator is None:
        raise ConfigError(f"judge {spec.name!r} needs `evaluator`, one of: {', '.join(mapped_names())}")
    evaluator = read_evaluator(spec.evaluator)
    url = spec.url or evaluator.url
    if url is None:
        raise ConfigError(
            f"evaluator {spec.evaluator!r} uses a server that is not OpenAI-compatible or not public; name one that "
            f"is: --judge alpaca_eval:{spec.evaluator}@http://HOST:PORT/v1"
        )
    own_key = "HARNESS_JUDGE_KEY" if "HARNESS_JUDGE_KEY" in os.environ else None
    key_env = spec.key_env or ("OPENAI_API_KEY" if url == OPENAI_URL else own_key)
    changed: dict[str, JsonValue] = {
        "url": base_url(url),
        "model": spec.model or evaluator.model,
        "key_env": key_env,
    }
    if spec.price_in is None and spec.price_out is None and spec.url is None:
        changed |= {"price_in": evaluator.price, "price_out": evaluator.price}
    return spec.model_copy(update=changed)
