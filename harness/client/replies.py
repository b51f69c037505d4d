"""Read a server's reply: a completion, or why there is none, in the server's own words. Pure."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from ..errors import ReplyError, printable
from ..records import Finish, Reason, TokenLogprob

CONTEXT_WORDS = re.compile(r"context length|maximum context|context_length_exceeded|max_model_len|too long", re.I)
FILTER_WORDS = re.compile(r"content[ _](filter|policy|management)", re.I)
QUOTA_WORDS = re.compile(r"insufficient_quota|exceeded your current quota|billing_hard_limit|credit balance", re.I)
TOO_LARGE_WORDS = re.compile(r"request too large", re.I)
PARAMETER_WORDS = re.compile(
    r"(unsupported|unrecognized|unknown|unexpected|invalid)[ _](request[ _])?"
    r"(parameter|value|argument|keyword|field|key)"
    r"|not (supported|permitted|allowed)|does not support|extra (inputs|fields|forbidden)",
    re.I,
)


@dataclass(frozen=True)
class ChatReply:
    """One completion. `text` may be empty; `finish` is "length" when the token limit cut it."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    """Top log-probabilities of the first token."""
    price_share: float = 1.0
    """Share of the list price that it cost when it was requested: 0.5 in a batch."""
    cached: bool = False
    """Taken from the reply cache: this run paid nothing for it."""


def refusal_reason(status: int, message: str) -> Reason:
    """Return why a request was rejected for good."""
    if status == 400 and CONTEXT_WORDS.search(message):
        return "context"
    return "content_filter" if FILTER_WORDS.search(message) else "http"


def server_sentence(raw: bytes) -> str:
    """Return the server's own words in an error reply, at most 500 characters, on one line."""
    text = raw.decode("utf-8", "replace")
    try:
        content = json.loads(text)
        for key in ("error", "message", "detail"):
            if isinstance(content, dict) and key in content:
                content = content[key]
        text = content if isinstance(content, str) else json.dumps(content)
    except (ValueError, RecursionError):
        pass
    return " ".join(printable(text).split())[:500]


def read_chat_reply(body: dict[str, Any]) -> ChatReply:
    """Return the first choice of a chat completion.

    Raise ReplyError if it was filtered, has no message, or has a field of a wrong type. Surrogates, which no file can
    store, become question marks.
    """
    try:
        choice = body["choices"][0]
        text = choice["message"].get("content") or _called_with(choice["message"])
        if not isinstance(text, str):
            raise TypeError("content is not text")
        finish = choice.get("finish_reason")
        usage = body.get("usage") or {}
        reply = ChatReply(
            text=text.encode("utf-8", "replace").decode("utf-8"),
            finish="length" if finish == "length" else "stop",
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            logprobs=_top_logprobs(choice),
        )
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
        raise ReplyError(
            f"not a chat completion: {printable(json.dumps(body))[:200]}", reason="http", status=200
        ) from (None)
    if finish == "content_filter":
        raise ReplyError("the server withheld the reply (content_filter)", reason="content_filter", status=200)
    return reply


def _called_with(message: dict[str, Any]) -> Any:
    """Return the arguments of the function call in a reply without text, which is how some judges return JSON."""
    calls = message.get("tool_calls") or []
    return (calls[0]["function"].get("arguments") or "") if calls else ""


def _top_logprobs(choice: dict[str, Any]) -> tuple[TokenLogprob, ...]:
    """Return the top log-probabilities of the first token, without infinite ones."""
    tops = ((choice.get("logprobs") or {}).get("content") or [{}])[0].get("top_logprobs") or []
    tops = [top for top in tops if isinstance(top["logprob"], int | float) and math.isfinite(top["logprob"])]
    return tuple(TokenLogprob(token=top["token"], logprob=top["logprob"]) for top in tops)


def tokens_to_come(body: dict[str, JsonValue], usual: float) -> float:
    """Estimate a reply's tokens: as many as usual, within the request's own limit."""
    limits = [body.get("max_tokens"), body.get("max_completion_tokens")]
    return min([usual, *(float(limit) for limit in limits if isinstance(limit, int))])


def tokens_used(body: dict[str, Any]) -> float | None:
    """Return the tokens of prompt and reply by the server's count; None if it has no count."""
    usage = body.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return float(total) if isinstance(total, int) else None
