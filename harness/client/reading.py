"""Read what a server sends: a chat completion in its many forms, an error, and why a request was rejected. Pure.

>>> message = {"content": [{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "four"}]}
>>> reply = read_chat_reply({"choices": [{"message": message, "finish_reason": "stop"}]})
>>> reply.text, reply.reasoning
('four', '2 + 2')

Token counts and log-probabilities are extras: what is unreadable of them is left out, and the reply is kept.
Surrogates, which no file can store, become question marks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..records import Finish, Reason, TokenLogprob
from ..records.errors import ReplyError, printable

CONTEXT_WORDS = re.compile(r"context length|maximum context|context_length_exceeded|max_model_len|too long", re.I)
FILTER_WORDS = re.compile(r"content[ _](filter|policy|management)", re.I)

MOST_TOKENS = 100_000_000
"""Largest believable token count: ten times the largest context window on offer."""

LARGEST_LOGPROB = 1e6
"""Largest believable size of a log-probability; vLLM writes -9999 for minus infinity."""


@dataclass(frozen=True)
class ChatReply:
    """One completion. `text` may be empty; `finish` is "length" when the token limit cut it."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Top log-probabilities of the first token."""
    price_share: float = 1.0
    """Share of the list price that it cost when it was requested: 0.5 in a batch."""
    cached: bool = False
    """Taken from the reply cache: this run paid nothing for it."""
    reasoning: str = ""
    """What a server with a reasoning parser sends beside the text."""
    reasoning_tokens: int | None = None
    """Those of `completion_tokens` spent on reasoning; None if the server has no such count."""


def read_chat_reply(body: dict[str, Any], *, accept_calls: bool = True) -> ChatReply:
    """Return the first choice of a chat completion. Without text, a refusal's words are the text.

    `accept_calls`: whether the arguments of a function call may stand for the text, which is how some judges return
    JSON; a candidate's call is no answer. Raise ReplyError if there is no reply to read, or the server withheld it or
    broke it off.
    """
    try:
        choice = body["choices"][0]
        finish = choice.get("finish_reason")
        if finish in BROKEN_OFF:
            reason, sentence = BROKEN_OFF[finish]
            raise ReplyError(sentence, reason=reason, status=200)
        message = choice["message"]
        text, thoughts = _visible(message.get("content"))
        text = text or _text(message.get("refusal"))
        if message.get("tool_calls") and not accept_calls and (finish == "tool_calls" or not text):
            raise ReplyError("the model called a function instead of answering", reason="other", status=200)
        text = text or _called_with(message)
    except (LookupError, TypeError, AttributeError):
        raise ReplyError(f"not a chat completion: {_shown(body)}", reason="http", status=200) from None
    reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning")) or thoughts
    prompt_tokens, completion_tokens, reasoning_tokens = _usage(body.get("usage"))
    return ChatReply(
        text=_storable(text),
        finish="length" if finish == "length" else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        logprobs=_top_logprobs(choice.get("logprobs")),
        reasoning=_storable(reasoning),
        reasoning_tokens=reasoning_tokens,
    )


BROKEN_OFF: dict[str, tuple[Reason, str]] = {
    "content_filter": ("content_filter", "the server withheld the reply (content_filter)"),
    "error": ("http", "the server failed while it wrote the reply (finish_reason error)"),
    "abort": ("http", "the server broke the reply off (finish_reason abort)"),
}
"""Finish reasons that leave no reply, whatever text came with them. "error" is OpenRouter's, "abort" vLLM's."""


def _visible(content: object) -> tuple[str, str]:
    """Return the text and the thoughts of a message's content, which may be a list of parts.

    Raise TypeError if it is neither, LookupError if a part has no text.
    """
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError("content is not text")
    texts, thoughts = [], []
    for part in content:
        kind = part.get("type")
        if kind in ("thinking", "reasoning"):  # Mistral's parts have parts of their own
            inner = part.get("thinking") or part.get("text")
            thoughts.append(_visible(inner)[0])
        elif kind != "redacted_thinking":
            texts.append(_words(part["refusal"] if kind == "refusal" else part["text"]))
    return "".join(texts), "\n".join(thoughts)


def _words(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError("a part is not text")
    return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _called_with(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls") or []
    return _words(calls[0]["function"].get("arguments") or "") if calls else ""


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _shown(body: object) -> str:
    return printable(json.dumps(body))[:200]


def _usage(usage: object) -> tuple[int, int, int | None]:
    """Return the tokens of prompt, reply and reasoning. One absurd count discredits the others, as prices use all."""
    if not isinstance(usage, dict):
        return 0, 0, None
    prompt_tokens, completion_tokens = (
        read_count(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")
    )
    if prompt_tokens is None or completion_tokens is None:
        return 0, 0, None
    details = usage.get("completion_tokens_details")
    # SGLang has the count beside the others
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else usage.get("reasoning_tokens")
    return prompt_tokens, completion_tokens, read_count(reasoning)


def read_count(value: object) -> int | None:
    """Return a token count; None if it is not a number in 0..MOST_TOKENS."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None


def tokens_used(body: dict[str, Any]) -> float | None:
    """Return the tokens of prompt and reply by the server's count; None if it has no count."""
    usage = body.get("usage")
    return read_count(usage.get("total_tokens")) if isinstance(usage, dict) else None


def _top_logprobs(logprobs: object) -> tuple[TokenLogprob, ...]:
    """Return the readable entries for the first token, also from the form of the old completions API."""
    if not isinstance(logprobs, dict):
        return ()
    positions = logprobs.get("content") or logprobs.get("top_logprobs")
    first = positions[0] if isinstance(positions, list) and positions else None
    if not isinstance(first, dict):
        return ()
    tops = first.get("top_logprobs") if logprobs.get("content") else first
    pairs: list[tuple[object, object]] = []
    if isinstance(tops, dict):
        pairs = list(tops.items())
    elif isinstance(tops, list):
        pairs = [(top.get("token"), top.get("logprob")) for top in tops if isinstance(top, dict)]
    return tuple(
        TokenLogprob(token=_storable(token), logprob=value)
        for token, value in pairs
        if isinstance(token, str) and isinstance(value, int | float) and abs(value) < LARGEST_LOGPROB
    )


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
