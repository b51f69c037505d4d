"""What a judge's tokens cost, in US dollars. Prices are per million tokens, from the judge's own configuration."""

from __future__ import annotations

from .client import ChatReply
from .records import JudgeSpec


def priced(spec: JudgeSpec) -> bool:
    return spec.price_in is not None and spec.price_out is not None


def price(spec: JudgeSpec, prompt_tokens: float, completion_tokens: float) -> float | None:
    """None where the judge has no known price."""
    if spec.price_in is None or spec.price_out is None:
        return None
    return (prompt_tokens * spec.price_in + completion_tokens * spec.price_out) / 1e6


def reply_price(spec: JudgeSpec, reply: ChatReply) -> float | None:
    """What a reply cost when it was asked for; None where the price is unknown or the server counted no tokens."""
    dollars = price(spec, reply.prompt_tokens, reply.completion_tokens) if reply.prompt_tokens else None
    return None if dollars is None else dollars * reply.price_share
