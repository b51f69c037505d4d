"""Read what a server sends: a chat completion in its many forms, an error, and why a request was rejected. Pure.

>>> message = {"content": [{"type": "thinking", "thinking": "2 + 2"}, {"type": "text", "text": "four"}]}
>>> reply = read_chat_reply({"choices": [{"message": message, "finish_reason": "stop"}]})
>>> reply.text, reply.reasoning
('four', '2 + 2')

Token counts and log-probabilities are extras: what is unreadable of them is left out, and the reply is kept.
Surrogates become question marks.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..records import Finish, Reason, TokenLogprob
from ..records.errors import ReplyError, printable
from ..records.reasoning import TAGS

CONTEXT_WORDS = re.compile(
    r"context (length|size|window|limit)|maximum context|context_length_exceeded|exceed_context_size|max_model_len"
    r"|too long|input token count|longer than the (model|maximum)|input length \(|must have less than \d+ tokens"
    r"|`inputs` tokens \+ `max_new_tokens`|too many (input )?tokens",
    re.I,
)
"""How OpenAI, vLLM, SGLang, TGI, llama.cpp, Gemini, Anthropic, Mistral and Cohere reject a prompt for its length."""
CONTEXT_STATUS = frozenset({400, 413, 422})
FILTER_WORDS = re.compile(
    r"content[ _-](filter|policy|policies|management)|requires moderation|usage polic|invalid_prompt"
    r"|(input|prompt|request|message|text|content)s? (was|were|is|has been|have been) (flagged|blocked)"
    r"|ResponsibleAIPolicy|prohibited[ _]content|moderation_blocked|content_moderation",
    re.I,
)
"""How OpenAI, Azure, OpenRouter and Gemini reject a prompt for what it says."""
FILTER_STATUS = frozenset({400, 403, 422, 451})
ACCOUNT_WORDS = re.compile(r"\b(account|organi[sz]ation|api key|subscription)\b", re.I)
"""In a 403: the sender is rejected, not the prompt."""

MOST_TOKENS = 100_000_000
"""Largest believable token count: ten times the largest context window on offer."""

LARGEST_LOGPROB = 1e6
"""Largest believable size of a log-probability; vLLM writes -9999 for minus infinity."""


@dataclass(frozen=True)
class ChatReply:
    """One completion. `text` may be empty, and `finish` is "length" if the token limit cut it."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Top log-probabilities of the first token that is neither thought nor mark-up."""
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
    JSON; a candidate's call is not an answer. Raise ReplyError if there is no reply to read, or the server withheld it
    or broke it off.
    """
    try:
        choice = body["choices"][0]
        finish = choice.get("finish_reason")
        if str(finish).lower() in WITHHELD or str(finish).startswith("content_filter:"):
            finish = "content_filter"
        if finish in BROKEN_OFF:
            reason, sentence = BROKEN_OFF[finish]
            raise ReplyError(sentence, reason=reason, status=200)
        message = choice["message"]
        text, thoughts = _visible(message.get("content"))
        text = text or _text(message.get("refusal"))  # OpenAI leaves the content empty then
        calls = message.get("tool_calls") or message.get("function_call")
        if calls and not accept_calls and (finish in ("tool_calls", "function_call") or not text):
            raise ReplyError("the model called a function instead of answering", reason="other", status=200)
        text = text or _called_with(message)
    except (LookupError, TypeError, AttributeError):
        raise ReplyError(f"not a chat completion: {_excerpt(body)}", reason="http", status=200) from None
    # servers with a reasoning parser differ in the name of its field
    reasoning = _text(message.get("reasoning_content")) or _text(message.get("reasoning")) or thoughts
    prompt_tokens, completion_tokens, reasoning_tokens = _usage(body.get("usage"))
    return ChatReply(
        text=storable(text),
        finish="length" if str(finish).lower() in CUT else "stop",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        logprobs=_top_logprobs(choice.get("logprobs")),
        reasoning=storable(reasoning),
        reasoning_tokens=reasoning_tokens,
    )


BROKEN_OFF: dict[str, tuple[Reason, str]] = {
    "content_filter": ("content_filter", "the server withheld the reply (content_filter)"),
    "error": ("http", "the server failed while it wrote the reply (finish_reason error)"),
    "abort": ("http", "the server broke the reply off (finish_reason abort)"),
}
"""Finish reasons that leave no reply, whatever text came with them. "error" is OpenRouter's, "abort" vLLM's."""
WITHHELD = frozenset({"safety", "recitation", "prohibited_content", "blocklist", "spii", "guardrail_intervened"})
"""How gateways that pass Gemini's and Bedrock's finish reasons on say content_filter, in any case."""
CUT = frozenset({"length", "model_length", "max_tokens"})
"""The token limit: as OpenAI, as Mistral if its context was full, and as Anthropic and Gemini say it, in any case."""


def _visible(content: object) -> tuple[str, str]:
    """Return the text and the thoughts of a message's content, which may be a list of parts.

    Raise TypeError if it is neither, LookupError if a part has no text.
    """
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError("content is not text")
    texts, thoughts = [], []
    for piece in content:
        kind = piece.get("type")
        if kind in ("thinking", "reasoning"):  # Mistral's parts have parts of their own
            inner = piece.get("thinking") or piece.get("text")
            thoughts.append(_visible(inner)[0])
        elif kind != "redacted_thinking":
            texts.append(_words(piece["refusal"] if kind == "refusal" else piece["text"]))
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


def storable(text: str) -> str:
    """Return the text with question marks for surrogates, which no file can store."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _excerpt(body: object) -> str:
    try:
        return printable(json.dumps(body))[:200]
    except RecursionError:
        return "it is nested too deeply"


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
    """Return a token count, or None if it is not a number in 0..MOST_TOKENS."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS else None


def model_entries(listing: object) -> dict[str, dict[str, Any]]:
    """Return what GET /models states of each model, by name; nothing of what has another form."""
    listed = listing.get("data") if isinstance(listing, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {entry["id"]: entry for entry in entries if isinstance(entry.get("id"), str)}


def tokens_used(body: dict[str, Any]) -> float | None:
    """Return the tokens of prompt and reply by the server's count, or None if it has no count."""
    usage = body.get("usage")
    return read_count(usage.get("total_tokens")) if isinstance(usage, dict) else None


def _top_logprobs(logprobs: object) -> tuple[TokenLogprob, ...]:
    """Return the readable entries for the first visible token, also from the form of the old completions API."""
    if not isinstance(logprobs, dict):
        return ()
    content, tops = logprobs.get("content"), logprobs.get("top_logprobs")
    if content:  # chat completions list tokens with their alternatives, the old API has two parallel lists
        entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
        tops = [entry.get("top_logprobs") for entry in entries]
        tokens = [_text(entry.get("token")) for entry in entries]
    else:
        tokens = [_text(token) for token in logprobs.get("tokens") or ()]
    if not isinstance(tops, list) or not tops:
        return ()
    position = _first_visible(tokens)
    tops = tops[position if position < len(tops) else 0]
    pairs: list[tuple[object, object]] = []
    if isinstance(tops, dict):
        pairs = list(tops.items())
    elif isinstance(tops, list):
        pairs = [(top.get("token"), top.get("logprob")) for top in tops if isinstance(top, dict)]
    return tuple(
        TokenLogprob(token=storable(token), logprob=value)
        for token, value in pairs
        if isinstance(token, str) and isinstance(value, int | float) and abs(value) < LARGEST_LOGPROB
    )


def _first_visible(tokens: Sequence[str]) -> int:
    """Return the position of the first token with a letter or digit, after the thoughts if they are among the tokens.

    It is 0 if there is none, so that a reply cut in its thoughts shows how it begins.
    """
    text, start = "", 0
    for position, token in enumerate(tokens):
        text += token
        if any(text.rstrip().endswith(closing) for _, closing in TAGS):
            start = position + 1
    words = (token.strip(BLANK_MARKS) for token in tokens[start:])
    return next((start + later for later, token in enumerate(words) if any(map(str.isalnum, token))), 0)


BLANK_MARKS = " \t\r\n\u0120\u010a\u2581"
"""White space, and how byte-level BPE and SentencePiece write blank and newline."""


def refusal_reason(status: int, message: str) -> Reason:
    """Return why a request was rejected for good. `message`: the server's words and codes."""
    if status in CONTEXT_STATUS and CONTEXT_WORDS.search(message):
        return "context"
    is_about_sender = status == 403 and ACCOUNT_WORDS.search(message)
    filtered = status in FILTER_STATUS and FILTER_WORDS.search(message) and not is_about_sender
    return "content_filter" if filtered else "http"


def is_starting(status: int, message: str, retry_after: object) -> bool:
    """Return whether a rejection means that the server loads its model: 503 with Retry-After, or in llama.cpp's words.

    `message`: the server's sentence; `retry_after`: the header, None if there is none.
    """
    return status == 503 and (retry_after is not None or LOADING_WORDS.search(message) is not None)


LOADING_WORDS = re.compile(r"loading|warming up|cold start", re.I)


def error_inside(body: dict[str, Any]) -> tuple[int, str] | None:
    """Return the status and the words of an error sent as HTTP 200, as gateways do, or None if there is a reply.

    Without a readable code it counts as 502: the server behind the gateway failed.
    """
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    error = first.get("error") or (None if first else body.get("error"))
    if error:
        code = error.get("code") if isinstance(error, dict) else None
        text = str(code)
        is_status = text.isdecimal() and len(text) == 3 and 400 <= int(text) < 600
        limited = not is_status and RATE_WORDS.search(json.dumps(error))
        return int(text) if is_status else 429 if limited else 502, words_of({"error": error})
    if first.get("finish_reason") == "error":
        return 502, BROKEN_OFF["error"][1]
    return None


RATE_WORDS = re.compile(r"rate[ _-]?limit|too many requests", re.I)


def server_sentence(raw: bytes) -> str:
    """Return the server's own words in an error reply, at most 500 characters, on one line."""
    return words_of(_parsed(raw))


def server_codes(raw: bytes) -> str:
    """Return the codes in an error reply, such as `context_length_exceeded`, separated by blanks."""
    content = _parsed(raw)
    error = content.get("error", content) if isinstance(content, dict) else None
    names = ("code", "type", "status")
    return " ".join(str(error[name])[:100] for name in names if error.get(name)) if isinstance(error, dict) else ""


def _parsed(raw: bytes) -> object:
    text = raw.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def words_of(content: object) -> str:
    """Return the message in an error's content, else all of the content, at most 500 characters, on one line."""
    for key in ("error", "message", "detail"):
        if isinstance(content, dict) and key in content:
            content = content[key]
    text = content if isinstance(content, str) else json.dumps(content)
    return " ".join(printable(text).split())[:500]


def payload_words(error: Exception) -> str:
    """Return what is wrong with a reply whose body could not be read to its end, of aiohttp's ClientPayloadError."""
    from aiohttp.http_exceptions import ContentEncodingError  # deferred: whoever has its error has imported it

    if isinstance(error.__cause__, ContentEncodingError):
        return "sent a reply that cannot be unpacked: its Content-Encoding is not what it contains"
    return "broke off its reply"


def connection_words(url: str, error: Exception) -> str:
    """Return why the server at a URL could not be reached, and what to check, of an error of aiohttp or the system."""
    import aiohttp  # deferred: whoever has its error has imported it

    parts = urlsplit(url)
    cause = getattr(error, "os_error", error)
    host = getattr(error, "host", None) or parts.hostname
    address = f"{host}:{getattr(error, 'port', None) or parts.port or (443 if parts.scheme == 'https' else 80)}"
    code = getattr(cause, "errno", None)
    if isinstance(cause, socket.gaierror) or isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name {host} was not found; check the address and the network"
    if code == errno.ECONNREFUSED:
        return f"{address} refused the connection; check that the server runs and listens on this port"
    if isinstance(cause, TimeoutError):
        return f"{address} did not answer in time; check the host, the port and the firewall"
    if code in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return f"there is no route to {address}; check the address and the network"
    if isinstance(error, ssl.CertificateError):
        return f"the certificate of {address} is not trusted; check the address, or name its authority by SSL_CERT_FILE"
    if isinstance(cause, ssl.SSLError):
        return f"{address} began no encrypted connection; check whether its address is http:// rather than https://"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | BrokenPipeError):
        return f"{address} closed the connection"
    return str(error) or type(error).__name__
