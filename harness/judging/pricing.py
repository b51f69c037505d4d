"""Compute what a judge's tokens cost, in US dollars. Prices are per million tokens, from the judge's configuration."""

from __future__ import annotations

from pydantic import JsonValue

from ..client import ChatReply
from ..errors import ConfigError
from ..records import JudgeSpec


def priced(spec: JudgeSpec) -> bool:
    return spec.price_in is not None and spec.price_out is not None


def price(spec: JudgeSpec, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Return the list price of so many tokens; None if the judge has no known price."""
    if spec.price_in is None or spec.price_out is None:
        return None
    return (prompt_tokens * spec.price_in + completion_tokens * spec.price_out) / 1e6


def reply_price(spec: JudgeSpec, reply: ChatReply) -> float | None:
    """Return what a reply cost when it was requested; None if the price or the token counts are unknown."""
    dollars = price(spec, reply.prompt_tokens, reply.completion_tokens) if reply.prompt_tokens else None
    return None if dollars is None else dollars * reply.price_share


TOKENS_AROUND = 16
"""Upper bound of the tokens that a chat format adds to one message; OpenAI's adds 4."""


def worst_case(spec: JudgeSpec, body: dict[str, JsonValue]) -> float | None:
    """Return the most that a call can cost at list price: a token has at least one byte, and the reply ends at its
    limit.

    None if the price is unknown. Raise ConfigError if the request sets no limit.
    """
    limit = token_limit(body)
    if limit is None:
        raise ConfigError(
            f"--max-cost cannot be kept for judge {spec.name!r}: its requests set no token limit; set max_tokens or "
            "max_completion_tokens in its params"
        )
    prompt_tokens = sum(len(text.encode("utf-8", "replace")) + TOKENS_AROUND for text in message_texts(body))
    return price(spec, prompt_tokens, limit)


def message_texts(body: dict[str, JsonValue]) -> list[str]:
    messages = body["messages"]
    assert isinstance(messages, list)
    return [str(message["content"]) for message in messages if isinstance(message, dict)]


def token_limit(body: dict[str, JsonValue]) -> int | None:
    """Return the most tokens of all replies to a request together; None if it sets no limit."""
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    replies = body.get("n") or 1
    return limit * replies if isinstance(limit, int) and isinstance(replies, int) else None
