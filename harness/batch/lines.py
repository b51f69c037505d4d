"""Write and read the lines of a batch's files: requests and results. Pure.

Format: platform.openai.com/docs/guides/batch. A custom id is the hex key that the reply is cached under.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..client import ChatReply, read_chat_reply, server_sentence
from ..client.replies import refusal_reason
from ..errors import ReplyError
from ..judging.calls import Call

PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
PRICE_SHARE = 0.5  # platform.openai.com/docs/guides/batch: 50 % of the synchronous price
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000
"""Largest input file; same page."""


class AskAgainError(Exception):
    """This request expired or met a passing error: another batch may answer it."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.final = ReplyError(message, reason="http", status=status)


def request_line(call: Call) -> bytes:
    line = {"custom_id": call.key.hex(), "method": "POST", "url": PATH, "body": call.body}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def chunks(calls: Iterable[Call], *, most: int = MAX_REQUESTS, most_bytes: int = MAX_BYTES) -> Iterator[list[Call]]:
    """Yield the calls, in order, in pieces that fit into one batch."""
    piece: list[Call] = []
    size = 0
    for call in calls:
        length = len(request_line(call))
        if piece and (len(piece) == most or size + length > most_bytes):
            yield piece
            piece, size = [], 0
        piece.append(call)
        size += length
    if piece:
        yield piece


Result = ChatReply | ReplyError | AskAgainError


def read_results(lines: Sequence[bytes]) -> dict[str, Result]:
    """Return custom id -> result, from the lines of output and error file together."""
    results: dict[str, Result] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            name = str(entry["custom_id"])
        except (ValueError, KeyError, TypeError):
            continue  # not a line of ours: the request it was for is sent again
        results[name] = _read_result(entry)
    return results


def _read_result(entry: dict[str, Any]) -> Result:
    response = entry.get("response")
    if not isinstance(response, dict):  # it never ran: it expired or was cancelled first
        return AskAgainError(_sentence(entry.get("error")), None)
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and isinstance(body, dict):
        try:
            return replace(read_chat_reply(body), price_share=PRICE_SHARE)
        except ReplyError as error:
            return error
    message = f"HTTP {status}: {_sentence(body)}"
    if not isinstance(status, int):
        return AskAgainError(message, None)
    if status in (408, 409, 425, 429) or status >= 500:
        return AskAgainError(message, status)
    return ReplyError(message, reason=refusal_reason(status, message), status=status)


def _sentence(body: object) -> str:
    return server_sentence(json.dumps(body).encode()) if body else "no result"
